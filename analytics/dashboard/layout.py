"""The frame that every page of the warehouse has: head, navigation, title, and what to do where nothing is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote, urlencode

from analytics.report_markup import Markup, element, join

Theme = Literal["", "light", "dark"]
PAGES: Final = (
    ("/", "Overview"),
    ("/experiments", "Experiments"),
    ("/drift", "Drift"),
    ("/alerts", "Alerts"),
    ("/models", "Models"),
    ("/console", "SQL"),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What is around a page: addresses of its files, the theme somebody chose, how many alerts fire now."""

    style: str
    script: str
    plotly: str
    theme: Theme = ""
    firing: int = 0
    leave: bool = False


def document(frame: Frame, title: str, active: str, content: Markup, *, charted: bool = True, refresh: int = 0) -> str:
    """A whole page. `active`: the address of the one it belongs to; `refresh`: seconds until it is asked again."""
    scripts = [element("script", src=frame.script, type="module")]
    if charted:
        scripts.insert(0, element("script", src=frame.plotly, defer=True))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content=frame.theme or "light dark"),
        element("title", f"{title}, Penstock"),
        element("link", rel="icon", href="data:,"),
        element("link", rel="stylesheet", href=frame.style),
        *scripts,
    )
    body = element(
        "body",
        element("a", "To the content", href="#content", class_="skip"),
        _top(frame, active),
        element("main", content, id="content", tabindex="-1"),
        _foot(),
        data_refresh=str(refresh) if refresh else None,
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en', data_theme=frame.theme or None)}\n"


def _top(frame: Frame, active: str) -> Markup:
    links = []
    for address, name in PAGES:
        badge: Markup | str = ""
        if name == "Alerts" and frame.firing:
            badge = element("span", str(frame.firing), class_="badge", title=f"{frame.firing} firing")
        current = "page" if address == active else None
        links.append(element("a", name, badge, href=address, aria_current=current))
    tools = [element("button", "Theme", type="button", id="theme", title="Light, dark, or as the system has it")]
    if frame.leave:
        tools.append(element("form", element("button", "Leave", type="submit"), method="post", action="/logout"))
    return element(
        "header",
        element("a", "Penstock", href="/", class_="brand"),
        element("nav", *links, aria_label="Pages", id="tabs"),
        element("div", *tools, class_="tools"),
        class_="top",
    )


def _foot() -> Markup:
    keys = (("1–6", "pages"), ("/", "query"), ("← ↑ → ↓", "heat map"), ("Ctrl Enter", "run"))
    shown = join((element("span", element("kbd", key), f" {what}") for key, what in keys))
    return element("footer", shown, class_="foot")


def title(heading: str, lead: str = "", *beside: str) -> Markup:
    """A page's heading, with what can be chosen beside it."""
    words = element("div", element("h1", heading), element("p", lead, class_="lead") if lead else "")
    return element("div", words, *beside, class_="title")


def section(heading: str, *content: str, key: str = "", about: str = "") -> Markup:
    """A part of a page with a heading of its own."""
    lead = element("p", about, class_="about") if about else ""
    return element("section", element("h2", heading, id=key or None), lead, *content, aria_labelledby=key or None)


def empty(words: str, *commands: str) -> Markup:
    """What to do where nothing is: words, and commands to copy."""
    shown = [element("pre", element("code", one)) for one in commands]
    return element("div", element("p", words), *shown, class_="empty")


def note(words: str, tone: Literal["open", "bad", "good"] = "open") -> Markup:
    """A line that one must not miss."""
    return element("p", words, class_=f"notice {tone}", role="status")


def tile(name: str, value: str, about: str = "", tone: str = "") -> Markup:
    """A figure with its name."""
    return element(
        "div",
        element("dt", name),
        element("dd", element("strong", value), element("small", about)),
        class_=tone or None,
    )


def tiles(some: Iterable[Markup]) -> Markup:
    """Figures in a row."""
    return element("dl", *some, class_="tiles card")


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], caption: str, class_: str = "") -> Markup:
    """A table that is moved sideways within itself where the screen is narrow. A cell is text or markup."""
    head = element("tr", *(element("th", name, scope="col", class_=kind or None) for name, kind in columns))
    kinds = [kind for _, kind in columns]
    body = [
        element("tr", *(element("td", cell, class_=kind or None) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    ]
    drawn = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *body),
        class_=f"plain {class_}".strip(),
    )  # fmt: skip
    return element("div", drawn, class_="scroll", tabindex="0", role="region", aria_label=caption)


def choices(name: str, options: Iterable[tuple[str, str]], chosen: str, path: str, **others: str) -> Markup:
    """Links of which one is chosen."""
    links = [
        element("a", words, href=address(path, **{**others, name: key}), aria_current="true" if key == chosen else None)
        for key, words in options
    ]
    return element("div", *links, class_="choices", role="group", aria_label=name)


def select(
    name: str,
    words: str,
    options: Iterable[str],
    chosen: str,
    *,
    names: Callable[[str], str] = lambda value: value,
) -> Markup:
    """A choice of a form that is sent as soon as it is made; `names` says what a value is called."""
    shown = [element("option", names(one), value=one, selected=one == chosen) for one in options]
    return element("label", element("span", words), element("select", *shown, name=name, data_send=True))


def address(path: str, **query: str) -> str:
    """A link with its query; empty values are left out."""
    kept = {key: value for key, value in query.items() if value}
    return f"{path}?{urlencode(kept)}" if kept else path


def chip(words: str, tone: str = "open") -> Markup:
    """A word with its colour."""
    return element("span", words, class_=f"chip {tone}")


def below(path: str, name: str) -> str:
    """The address of something named by anybody, below a path."""
    return f"{path}/{quote(name, safe='')}"

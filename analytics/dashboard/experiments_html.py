"""Shows which experiments there are, and the report of one as the warehouse has it now. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from analytics import report_numbers as numbers
from analytics.dashboard.experiments import Listed
from analytics.dashboard.layout import address, below, chip, empty, table, title
from analytics.readings import Reading
from analytics.report_html import content as report
from analytics.report_markup import Markup, element, join


def listed(found: Sequence[Listed], now: datetime) -> Markup:
    """The list."""
    lead = "Variants compared on live traffic: what was decided, and why"
    if not found:
        return join((
            title("Experiments", lead),
            empty(
                "There is no experiment. Plan one, write it down, start it; looks are made when they are due.",
                "penstock experiments plan --baseline 0.05 --mde 10% --test group-sequential --rate 1000 --share 10%",
                "penstock experiments create experiment.toml",
                "penstock experiments start NAME",
            ),
        ))  # fmt: skip
    columns = (
        ("experiment", ""), ("model", "short"), ("state", ""), ("decision at the last look", ""), ("units", "number"),
        ("looks", "number"), ("last look", "short"),
    )  # fmt: skip
    return join((
        title("Experiments", lead),
        element("div", table(columns, [_row(one, now) for one in found], "Experiments"), id="list", data_live=True),
    ))  # fmt: skip


def _row(one: Listed, now: datetime) -> Sequence[str]:
    name = element(
        "div",
        element("a", one.name, href=below("/experiments", one.name), class_="strong"),
        element("small", one.problem or one.hypothesis),
    )
    tone = {"ship": "good", "roll back": "bad", "unhealthy": "bad"}.get(one.decision, "open")
    decision = (
        element("div", chip(one.decision, tone), element("small", one.reason))
        if one.decision
        else element("small", "nobody has looked yet" if one.state != "created" else "not started")
    )
    ago = f"{numbers.span_of_time(now - one.looked_at)} ago" if one.looked_at else numbers.NONE
    state = chip(one.state, "good" if one.state == "running" else "open")
    units = numbers.count(one.units) if one.looks else numbers.NONE
    return name, one.model, state, decision, units, str(one.looks), ago


def one_report(found: Reading, looks: int) -> Markup:
    """A look's report, with the way to the looks before it."""
    name = found.plan.definition.name
    links = []
    if found.number > 1:
        links.append(element("a", "← the look before", href=_look(name, found.number - 1)))
    if found.number < looks:
        links.append(element("a", "the next look →", href=_look(name, found.number + 1)))
        links.append(element("a", "the newest", href=below("/experiments", name)))
    way = element(
        "p", element("a", "Experiments", href="/experiments"), element("span", f"look {found.number} of {looks}"),
        *links, class_="way",
    )  # fmt: skip
    return join((way, element("div", report(found), id="report", data_live=True)))


def no_look(name: str, why: str) -> Markup:
    """An experiment at which nobody has looked."""
    return join((
        element("p", element("a", "Experiments", href="/experiments"), class_="way"),
        title(name, why),
        empty(
            "A report begins with the first look. Looks are made when they are due, or at once by hand.",
            f"penstock experiments watch --now --name {name}",
        ),
    ))  # fmt: skip


def _look(name: str, number: int) -> str:
    return address(below("/experiments", name), look=str(number))

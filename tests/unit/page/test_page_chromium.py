"""The page in a real Chromium, on real flights: every page opened, mouse and keyboard, light and dark, wide and narrow.

Pictures of every page are left in the test's folder (`--basetemp` says where).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_app import page_over
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from analytics.warehouse import Warehouse
from benchmarks.page_world import World
from penstock.demo import EXPERIMENT
from penstock.page_access import Access
from penstock.warehouse_app import AppServer

TABS = ("Overview", "Experiments", "Drift", "Alerts", "Models", "SQL")
ADDRESSES = {
    "overview": "/?span=6h",
    "experiments": "/experiments",
    "report": f"/experiments/{EXPERIMENT}",
    "drift": "/drift",
    "alerts": "/alerts",
    "models": "/models",
    "console": "/console?query=SELECT+version,+count()+AS+n+FROM+predictions+GROUP+BY+version",
}
CHARTED = frozenset({"overview", "drift", "models"})
TOKEN = "correct-horse-battery"  # noqa: S105


@pytest.fixture(scope="module")
def url(flights: Warehouse, world: World) -> Iterator[str]:
    """Where the page is served."""
    with page_over(flights, now=world.now) as app, AppServer(app, "127.0.0.1", 0) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as tool:
        # The sandbox needs rights that a container does not give; the page is our own and loads nothing.
        started = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def problems() -> list[str]:
    """What the browser complained of; must be empty at the end."""
    return []


@pytest.fixture
def page(browser: Browser, problems: list[str]) -> Iterator[Page]:
    """A wide window."""
    with browser.new_context(viewport={"width": 1360, "height": 850}) as context:
        yield watched(context, problems)
    assert problems == []


def watched(context: BrowserContext, problems: list[str]) -> Page:
    """A window whose complaints are written down."""
    page = context.new_page()
    page.on("console", lambda one: problems.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    # What was still on its way when the next page was asked for is aborted, and no failure.
    page.on("requestfailed", lambda one: one.failure == "net::ERR_ABORTED" or problems.append(f"{one.url} failed"))
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1360, "light"), (390, "dark")], ids=["wide-light", "narrow-dark"])
def test_every_page_opens_fits_and_draws_its_charts(
    browser: Browser, url: str, problems: list[str], tmp_path: Path, width: int, scheme: str
) -> None:
    with browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme) as context:  # type: ignore[arg-type]
        page = watched(context, problems)
        for name, address in ADDRESSES.items():
            page.goto(f"{url}{address}")
            if name in CHARTED:
                expect(page.locator(".chart svg.main-svg").first).to_be_visible()
                assert page.locator(".chart").count() == page.locator(".chart .plot-container").count()
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
            page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
            assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        ink = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ink == ("rgb(246, 247, 249)" if scheme == "light" else "rgb(17, 21, 26)")
    assert problems == []


def press(page: Page, key: str) -> None:
    """Press a key once the page listens: its script runs when the document has been read to its end."""
    page.wait_for_load_state()
    page.keyboard.press(key)


def test_the_keyboard_goes_to_every_page_and_asks_a_question(page: Page, url: str) -> None:
    page.goto(url)
    for number, name in enumerate(TABS, 1):
        press(page, str(number))
        expect(page.locator("#tabs a[aria-current=page]")).to_contain_text(name)
    press(page, "1")
    expect(page.locator("h1")).to_have_text("Overview")
    press(page, "/")
    query = page.locator("#query")
    expect(query).to_be_focused()
    query.fill("SELECT variant, count() AS n FROM predictions WHERE variant != '' GROUP BY variant ORDER BY variant")
    page.keyboard.press("Control+Enter")
    expect(page.locator("table.answer td").first).to_have_text("logistic")
    query.fill("DROP TABLE predictions")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".failed")).to_contain_text("only questions are answered")
    page.get_by_role("link", name="Is the split the one that was planned?").click()
    expect(page.locator("table.answer th").last).to_have_text("chi_square")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    text = Path(download.value.path()).read_text("utf-8")
    assert text.startswith('"logistic","mlp"')


def test_arrows_move_in_the_heat_map_and_a_cell_opens_its_histogram(page: Page, url: str) -> None:
    page.goto(f"{url}/drift")
    cells = page.locator("#heat tbody tr").first.locator("a.cell")
    cells.first.focus()
    page.keyboard.press("ArrowRight")
    expect(cells.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    below = page.locator("#heat tbody tr").nth(1).locator("a.cell").nth(1)
    expect(below).to_be_focused()
    label = below.get_attribute("aria-label") or ""
    page.keyboard.press("Enter")
    expect(page.locator("#detail h2")).to_contain_text(label.split(",")[0])
    expect(page.locator("#chart-histogram svg.main-svg").first).to_be_visible()
    assert "feature=" in page.url
    expect(below).to_have_attribute("aria-current", "true")
    page.locator("select[name=metric]").select_option("js")
    expect(page.locator("#map")).to_contain_text("Jensen-shannon")


def test_the_overview_asks_again_without_drawing_anew(page: Page, url: str) -> None:
    page.clock.install()
    page.goto(f"{url}/?span=6h")
    expect(page.locator("#chart-rate svg.main-svg").first).to_be_visible()
    page.evaluate("document.querySelector('#chart-rate').kept = true")
    with page.expect_response(lambda one: one.url.endswith("/?span=6h")):
        page.clock.fast_forward(6_000)
    expect(page.locator("#as-of")).to_contain_text("predictions in all")
    assert page.evaluate("document.querySelector('#chart-rate').kept") is True


def test_the_theme_that_is_chosen_stays_on_the_next_page(page: Page, url: str) -> None:
    page.goto(f"{url}/alerts")
    button = page.locator("#theme")
    for name in ("Light", "Dark"):
        button.click()
        expect(button).to_have_text(name)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 26)"
    page.goto(f"{url}/models")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    expect(button).to_have_text("Dark")


def test_who_knows_the_token_signs_in_and_comes_where_they_wanted(
    browser: Browser, flights: Warehouse, world: World, problems: list[str]
) -> None:
    with (
        page_over(flights, Access(TOKEN), now=world.now) as app,
        AppServer(app, "127.0.0.1", 0) as server,
        browser.new_context() as context,
    ):
        page = watched(context, problems)
        page.goto(f"{server.url}/drift?metric=ks")
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Drift")
        assert page.url.endswith("/drift?metric=ks")
        page.get_by_role("button", name="Leave").click()
        expect(page.locator("#token")).to_be_visible()
    assert problems == []

"""The page of a report: everything is on it, nothing can break it, and a broken split greys what it would say."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_readings as made

from analytics.experiment_store import Crossed
from analytics.readings import Reading
from analytics.report_bounds import bounds_ahead
from analytics.report_figures import alpha_spent, exposures_by_day, lift_over_looks, lift_range
from analytics.report_html import page
from analytics.report_markup import Markup, element, text
from analytics.report_words import why_untrusted
from analytics.sequential import SequentialPlan, bounds
from analytics.spending import Spending
from benchmarks.report_picture import browser, photograph
from benchmarks.simulated_reading import simulated_reading

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Elements with their attributes, text by enclosing classes; fails where an element is not closed in its turn."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, frozenset[str]]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        inside = {name for _, attributes in self.open for name in (attributes.get("class") or "").split()}
        tags = {f"<{tag}>" for tag, _ in self.open}
        self.texts.append((data, frozenset(inside | tags)))

    def words(self, *inside: str) -> str:
        """All text within elements of these classes or tags."""
        return " ".join(data for data, around in self.texts if set(inside) <= around)

    def count(self, tag: str, class_: str) -> int:
        return sum(1 for name, some in self.elements if name == tag and class_ in (some.get("class") or "").split())


@pytest.fixture(scope="module")
def nine() -> Reading:
    return simulated_reading(9)


def test_every_metric_variant_and_verdict_is_in_the_table(nine: Reading) -> None:
    found = Page(page(nine))
    table = found.words("metrics")
    for one in nine.arms:
        assert one.metric.name in table
        assert one.verdict in table
    assert "+7.5%" in table
    assert "5.28%" in table
    assert found.words("<h1>") == "search-ranking"
    assert "Keep going" in found.words("decision")
    assert nine.reason in found.words("decision")
    assert nine.plan.definition.hypothesis in found.words("lead")


def test_the_checks_say_shares_and_p_value(nine: Reading) -> None:
    checks = Page(page(nine)).words("checks")
    assert "ranker-6 21,726 units, 50.1% (planned 50%)" in checks
    assert "sample ratio: p 1.00" in checks
    assert "41 of 43,403 units (0.09%)" in checks
    assert "10 days 2 h, of at least 7 days" in checks


def test_each_look_is_drawn_with_its_bounds_and_is_in_numbers_too(nine: Reading) -> None:
    found = Page(page(nine))
    # A wide drawing and a narrow one.
    assert found.count("svg", "wide") == found.count("svg", "narrow") == 7
    assert found.count("circle", "now") == 4
    for look in range(1, 10):
        assert f"look {look}, " in found.words("<title>")
    looks = found.words("<details>")
    assert "+1.81" in looks
    assert "1.215%" in looks
    labels = [some["aria-label"] for tag, some in found.elements if tag == "svg" and some.get("role") == "img"]
    assert all(labels)
    assert any("at last: look 9, 12 Nov 2026, 10:00 UTC: +7.51%" in (label or "") for label in labels)


def test_a_page_stands_alone_and_runs_nothing(nine: Reading) -> None:
    source = page(nine)
    found = Page(source)
    assert not re.search(r"(?:src|href|srcset|action|data)=", source)
    assert "url(" not in source
    assert "@import" not in source
    assert "://" not in source
    assert not {"script", "link", "img", "iframe", "a", "object"} & {tag for tag, _ in found.elements}
    assert any(some.get("content") == "default-src 'none'; style-src 'unsafe-inline'" for _, some in found.elements)
    assert not any(key.startswith("on") for _, some in found.elements for key in some)
    assert len(source) < 200_000


def test_what_users_wrote_is_text_wherever_it_stands() -> None:
    source = page(made.hostile())
    found = Page(source)
    assert "<script" not in source
    assert not any(tag == "script" for tag, _ in found.elements)
    assert "<script>alert(\"1\")</script> & 'two'" in found.words("lead")
    assert "<script>" in found.words("metrics")
    source.encode("utf-8")
    assert "\x00" not in source


def test_while_the_split_is_broken_all_results_are_grey_and_said_to_be_untrustworthy() -> None:
    reading = simulated_reading(9, lost=0.04)
    found = Page(page(reading))
    assert "Sample ratio mismatch" in found.words("check", "bad")
    assert "p 0.0002" in found.words("check", "bad")
    assert "Not to be trusted: the units do not split as planned" in found.words("warning")
    assert sum("not to be trusted" in data for data, around in found.texts if "<h2>" in around) == 3
    for data, around in found.texts:
        if {"metrics", "figures"} & around and "empty" not in around:
            assert "untrusted" in around, data
    assert "Lift, bought" in found.words("tiles", "untrusted")
    healthy = Page(page(simulated_reading(9)))
    assert healthy.count("div", "untrusted") == 0
    assert healthy.words("warning") == ""


def test_too_many_units_in_two_variants_grey_results_as_well(nine: Reading) -> None:
    reading = replace(nine, crossed=Crossed(1000, 11))
    assert "too many units met two variants" in Page(page(reading)).words("warning")
    assert why_untrusted(replace(nine, crossed=Crossed(1000, 10))) == ""


def test_a_result_that_is_not_defined_shows_its_reason() -> None:
    found = Page(page(made.undefined()))
    assert made.REASON in found.words("metrics", "reason")
    assert found.words("figure", "empty") == ""
    assert made.REASON in found.words("<figure>", "empty")
    assert "+28.1%" not in found.words("metrics")
    assert "nan" not in page(made.undefined()).lower().replace("dominant", "")


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (made.not_started(), "`penstock experiments start search-ranking` starts it"),
        (made.nobody_counts(timedelta(hours=3)), "the first at 3 Nov 2026, 10:00 UTC; look again then"),
        (made.nobody_counts(timedelta(days=3)), "in the view `exposures`"),
    ],
)
def test_where_nothing_is_known_the_page_says_what_to_do(reading: Reading, said: str) -> None:
    found = Page(page(reading))
    assert said in found.words("empty")
    assert "`penstock experiments watch search-ranking` looks and keeps what it finds" in found.words("empty")
    assert "Nobody has met a variant yet" in found.words("empty")
    assert "Split not known yet" in found.words("checks")


def test_one_look_is_a_bar_and_says_that_a_curve_follows() -> None:
    found = Page(page(simulated_reading(1)))
    assert "One look: a curve begins with the next." in found.words("figcaption") or "One look" in found.words(
        "<figcaption>"
    )
    assert found.count("polygon", "band") == 0


def test_several_arms_and_open_intervals_have_their_places() -> None:
    found = Page(page(made.three_arms()))
    table = found.words("metrics")
    assert table.count("ranker-8") >= 4
    assert "at least −2.0%" in table
    assert "met two variants" in found.words("legend")
    assert "Lift on bought, ranker-8" in found.words("<figcaption>")
    assert found.count("path", "arrow") >= 1


def test_a_thousand_looks_are_lines_without_a_dot_each_and_tables_that_end() -> None:
    source = page(made.many_looks(1000))
    found = Page(source)
    assert found.count("circle", "dot") == 2, "the last one of each drawing"
    assert "940 earlier looks are left out here." in found.words("hint")
    assert found.count("rect", "bar") == 0
    assert len(source) < 1_500_000


def test_tables_keep_their_roles_and_name_their_columns(nine: Reading) -> None:
    found = Page(page(nine))
    for tag, role in (("table", "table"), ("tr", "row"), ("td", "cell")):
        assert all(some.get("role") == role for name, some in found.elements if name == tag)
    heads = [some for tag, some in found.elements if tag == "th"]
    assert all(some.get("scope") in ("col", "row") for some in heads)
    assert found.words("<caption>").startswith("Units by slice Metrics: each variant against the control")


def test_bounds_ahead_are_those_that_the_whole_plan_gives(nine: Reading) -> None:
    looks = [one for one in nine.history if one.metric == "bought"]
    ahead = bounds_ahead(nine.plan.definition.test, looks)
    assert len(ahead) == 5
    assert ahead[-1].fraction == pytest.approx(1.0)
    whole = bounds(SequentialPlan(), [*(one.fraction or 0 for one in looks), *(one.fraction for one in ahead)])
    assert [one.upper for one in ahead] == pytest.approx(whole.upper[9:])
    assert [one.lower for one in ahead] == pytest.approx(whole.lower[9:])


def test_bounds_ahead_are_not_guessed(nine: Reading) -> None:
    test = nine.plan.definition.test
    looks = [one for one in nine.history if one.metric == "bought"]
    stricter = [replace(one, upper=(one.upper or 0) * 1.1) for one in looks]
    assert bounds_ahead(test, stricter) == (), "bounds of another alpha than the plan's"
    assert bounds_ahead(replace(test, kind="always-valid"), looks) == ()
    assert bounds_ahead(test, [replace(looks[-1], fraction=1.2)]) == ()
    assert bounds_ahead(test, [replace(one, fraction=None) for one in looks]) == ()


def test_a_curve_shows_its_end_although_its_beginning_knew_nothing(nine: Reading) -> None:
    looks = [one for one in nine.history if one.metric == "bought"]
    low, high = lift_range(looks)
    assert low < (looks[-1].low or 0) < (looks[-1].high or 0) < high
    assert looks[0].high is not None
    assert looks[0].high > high, "the first interval leaves the figure"
    assert all(low <= (one.lift or 0) <= high for one in looks)


def test_no_drawing_holds_a_number_that_is_none(nine: Reading) -> None:
    looks = [one for one in made.three_arms().history if one.variant == "ranker-8" and one.metric == "bought"]
    drawn = [
        lift_over_looks(looks, 520, 1),
        alpha_spent(looks, 0.05, Spending(), 2, 330, 1),
        exposures_by_day(nine.exposures, ["ranker-6", "ranker-7"], 330),
    ]
    for one in drawn:
        assert not re.search(r'"[^"]*\b(?:nan|inf)\b', str(one))


def test_the_spent_alpha_lies_on_the_planned_curve(nine: Reading) -> None:
    looks = [one for one in nine.history if one.metric == "bought"]
    for one in looks:
        assert one.fraction is not None
        assert 2 * Spending().spent(one.fraction, 0.025) == pytest.approx(one.alpha_spent)


def test_markup_is_only_what_was_made_as_such() -> None:
    assert element("p", "<b>", class_='"x"') == '<p class="&quot;x&quot;">&lt;b&gt;</p>'
    assert element("p", element("b", "x"), hidden=True, title=None) == "<p hidden><b>x</b></p>"
    assert element("line", x1=1.0, stroke_width=2.345) == '<line x1="1" stroke-width="2.35"/>'
    assert text(Markup("<b>")) == "<b>"


@pytest.mark.skipif(browser() is None, reason="no chromium is on PATH")
@pytest.mark.parametrize("dark", [False, True])
def test_a_real_browser_draws_it(tmp_path: Path, nine: Reading, dark: bool) -> None:
    picture = tmp_path / "report.png"
    photograph(page(nine), picture, (800, 600), dark=dark)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000, "a page with nothing on it is smaller"

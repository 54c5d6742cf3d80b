"""The drift job on a small world: what is counted, when, once, and what becomes of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from analytics import profiles
from analytics.drift_axes import SCORE
from analytics.drift_job import DriftJob, Outcome, Watched
from analytics.drift_store import WHOLE, DriftStore
from analytics.profiles import Label, Profile
from analytics.warehouse import Warehouse
from analytics.window_profile import profile_of_window

# Predictions older than their time to live are gone as they are inserted.
DAY0 = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=60)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def deciles(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """A number's part of a profile."""
    edges = np.unique(np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf"))
    axis = profiles.NumberAxis(
        "x", float(values.min()), float(values.max()), tuple(edges[edges < values.max()].tolist())
    )
    return profiles.number_document(axis, axis.count(values).tolist(), float(values.mean()), float(values.std()))


RNG = np.random.default_rng(1)
BODY: dict[str, Any] = {
    "rows": 20_000,
    "features": {
        "it's": deciles(RNG.normal(size=20_000)),
        "size": deciles(RNG.exponential(size=20_000)),
        "carrier": {"kind": "categorical", "shares": {"A'A": 0.6, "UA": 0.4}, "null_share": 0.0, "unseen_share": 0.0},
    },
    "score": {**deciles(RNG.uniform(size=20_000)), "positive_share": 0.5, "confidence": 0.75},
    "label": {"outcome": "late", "rate": 0.5, "delay_hours": 24},
    "performance": {"rows": 20_000, "accuracy": 0.75, "f1": 0.75, "auc": 0.8333, "log_loss": 0.5},
}
TAKES = {"it's": "numeric", "size": "numeric", "carrier": "categorical"}


class World:
    """Writes rows as ingest would and makes rounds at a time of its own."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.store = DriftStore(warehouse)
        self.versions = [Watched("m", "1", BODY, TAKES)]
        self.now = DAY0 + DAY + HOUR
        self._rows = self._outcomes = 0
        self.rng = np.random.default_rng(7)

    def round(self, **how: Any) -> list[Outcome]:
        return DriftJob(self.warehouse, lambda: self.versions, clock=lambda: self.now).run(**how)

    def score(
        self,
        at: datetime,
        rows: int,
        *,
        shift: float = 0.0,
        version: str = "1",
        features: Sequence[Mapping[str, float]] | None = None,
        carriers: Sequence[str] | None = None,
        variant: str = "",
        scores: Sequence[float] | None = None,
    ) -> list[str]:
        """Rows at a time; returns their ids."""
        numbers = features
        if numbers is None:
            first, size = self.rng.normal(size=rows) + shift, self.rng.exponential(size=rows)
            numbers = [{"it's": a, "size": b} for a, b in zip(first.tolist(), size.tolist(), strict=True)]
        carriers = carriers or self.rng.choice(["A'A", "UA"], rows, p=[0.6, 0.4]).tolist()
        ids = [f"r{self._rows + one}" for one in range(rows)]
        self._rows += rows
        texts = pa.map_(pa.string(), pa.string())
        self.warehouse.insert(
            "predictions",
            pa.table(
                {
                    "request_id": ids,
                    "user_id": ids,
                    "model": ["m"] * rows,
                    "version": [version] * rows,
                    "variant": [variant] * rows,
                    "scored_at": pa.array([at] * rows, pa.timestamp("us", "UTC")),
                    "code": ["OK"] * rows,
                    "score": pa.array(self.rng.uniform(size=rows) if scores is None else scores, pa.float64()),
                    "features": pa.array([list(one.items()) for one in numbers], pa.map_(pa.string(), pa.float64())),
                    "categories": pa.array([[("carrier", one)] if one else [] for one in carriers], texts),
                    "log_time": pa.array([at] * rows, pa.timestamp("ms", "UTC")),
                }
            ),
        )
        return ids

    def happen(self, ids: Sequence[str], values: Sequence[float], at: datetime, names: Sequence[str] = ()) -> None:
        """Outcomes, logged at a time."""
        rows = len(ids)
        self.warehouse.insert(
            "outcomes",
            pa.table(
                {
                    "outcome_id": list(names) or [f"{one}/late" for one in ids],
                    "request_id": list(ids),
                    "user_id": list(ids),
                    "model": ["m"] * rows,
                    "name": ["late"] * rows,
                    "value": pa.array(values, pa.float64()),
                    "log": ["o@1"] * rows,
                    "log_offset": pa.array(range(self._outcomes, self._outcomes + rows), pa.int64()),
                    "log_time": pa.array([at] * rows, pa.timestamp("ms", "UTC")),
                }
            ),
        )
        self._outcomes += rows

    def figures(self, where: str = "1") -> dict[tuple[Any, ...], dict[str, Any]]:
        """What was written of days, by (day's number, slice, feature, metric)."""
        rows = self.warehouse.query(f"SELECT * FROM drift_days WHERE {where}").dicts()  # noqa: S608 - words of ours
        return {((one["window_start"] - DAY0).days, one["slice"], one["feature"], one["metric"]): one for one in rows}


@pytest.fixture
def world(warehouse: Warehouse) -> World:
    return World(warehouse)


def profile() -> Profile:
    return profiles.from_json(BODY, "m", "1")


def test_clickhouse_counts_what_numpy_counts_nulls_and_unseen_values_among_them(world: World) -> None:
    nan = float("nan")
    numbers = [{"it's": 0.1, "size": nan}, {"it's": -99.0}, {"size": 99.0}, {"it's": float("inf"), "size": 0.0}, {}]
    carriers = ["A'A", "ZZ", "", "UA", ""]
    world.score(DAY0 + HOUR, 5, features=numbers, carriers=carriers, scores=[0.0, 0.25, 1.0, 0.5, 0.75])
    counts = world.store.counts(profile(), ("carrier",), "day", DAY0, DAY0 + DAY)[DAY0]
    by_name = {one.axis.name: one.axis for one in profile().features}
    first = np.array([0.1, -99, nan, np.inf])
    size = np.array([nan, nan, 99, 0.0])
    # The last row names nothing at all: it has a score and no features to be counted.
    assert counts[WHOLE]["it's"].tolist() == by_name["it's"].count(first).tolist()
    assert counts[WHOLE]["size"].tolist() == by_name["size"].count(size).tolist()
    assert counts[WHOLE]["carrier"].tolist() == [1, 1, 1, 1]
    assert counts[WHOLE][SCORE].sum() == 5
    assert set(counts) == {WHOLE, ("carrier", "A'A"), ("carrier", "UA"), ("carrier", "ZZ")}
    assert counts["carrier", "ZZ"]["it's"].tolist() == by_name["it's"].count(np.array([-99.0])).tolist()


def test_a_day_that_is_over_is_counted_once_and_again_where_rows_came_late(world: World) -> None:
    world.score(DAY0 + HOUR, 900)
    world.now = DAY0 + 23 * HOUR
    assert world.round()[0].days == 0, "it is not over"
    world.now = DAY0 + DAY + HOUR
    assert (world.round()[0].days, world.round()[0].days) == (1, 0)
    assert {one["verdict"] for one in world.figures("metric IN ('psi', 'ks')").values()} == {"ok"}
    world.score(DAY0 + 2 * HOUR, 100)
    assert (world.round()[0].rows, world.round()[0].rows) == (1000, 0)
    assert world.figures()[0, "", "size", "psi"]["n"] == 1000
    assert world.round(again=(DAY0, DAY0 + DAY))[0].days == 1


def test_a_day_whose_rows_are_forgotten_is_not_counted_again(world: World) -> None:
    ids = world.score(DAY0 + HOUR, 600)
    world.happen(ids, [1.0, 0.0] * 300, DAY0 + 2 * HOUR)
    world.now = DAY0 + 2 * DAY + HOUR
    [found] = world.round()
    assert (found.days, found.outcome_days) == (1, 1)
    # As their time to live does, which goes by the block.
    world.warehouse.command("ALTER TABLE predictions DELETE WHERE toUInt32(substring(request_id, 2)) < 400", {})
    world.warehouse.command("OPTIMIZE TABLE predictions FINAL")
    assert world.store.days() == {("m", "1"): {DAY0: 200}}
    world.happen(ids[500:501], [1.0], world.now)
    world.now += HOUR
    [found] = world.round()
    assert (found.days, found.outcome_days, found.rows) == (0, 0, 0)
    assert world.figures()[0, "", "size", "psi"]["n"] == 600
    assert world.figures()[0, "", "", "auc"]["n"] == 600
    world.score(DAY0 + 2 * HOUR, 401)
    [found] = world.round()
    assert (found.days, found.outcome_days, found.rows) == (1, 1, 601)


def test_a_shift_is_seen_on_its_day_with_its_feature_its_bins_and_why(world: World) -> None:
    for day in range(3):
        world.score(DAY0 + day * DAY, 1000, shift=0.5 if day == 1 else 0.0)
    world.now = DAY0 + 3 * DAY + HOUR
    [found] = world.round()
    loud = {((one.start - DAY0).days, one.figure.feature) for one in found.alarms if one.figure.verdict == "drift"}
    assert loud == {(1, "it's")}
    one = world.figures()[1, "", "it's", "ks"]
    assert one["value"] > one["threshold"] > one["quiet_95"] > 0
    assert one["reference_n"] == 20_000
    assert "in the reference" in one["message"]
    bins = world.warehouse.query(
        "SELECT label, reference_share, current_share FROM drift_bins FINAL WHERE feature = {name:String} "
        "AND window_start = {day:DateTime64(6)} ORDER BY bin",
        {"name": "it's", "day": DAY0 + DAY},
    ).rows
    assert [bins[0][0][:5], bins[-1][0]] == ["below", "null"]
    assert sum(one[1] for one in bins) == pytest.approx(1)
    assert sum(one[2] for one in bins) == pytest.approx(1)


def test_what_goes_wrong_today_is_seen_at_the_next_full_hour_and_once(world: World) -> None:
    world.score(DAY0 + 9 * HOUR, 800, shift=2.0)
    world.now = DAY0 + 10 * HOUR + timedelta(minutes=6)
    [found] = world.round()
    assert (found.hours, found.days) == (1, 0)
    assert any(one.figure.verdict == "drift" for one in found.alarms)
    assert {one.end for one in found.alarms} == {DAY0 + 10 * HOUR}
    assert world.round()[0].hours == 0
    assert world.figures() == {}


def test_outcomes_are_counted_after_the_labels_delay_and_again_where_more_came(world: World) -> None:
    scores = world.rng.uniform(size=2000)
    ids = world.score(DAY0 + HOUR, 2000, scores=scores.tolist())
    late = (world.rng.random(2000) < scores).astype(float)
    world.happen(ids[:1500], late[:1500].tolist(), DAY0 + 5 * HOUR)
    # Of a request that nobody knows, and the same outcome once more.
    world.happen(["nobody"], [1.0], DAY0 + 6 * HOUR)
    world.happen(ids[:1], late[:1].tolist(), DAY0 + 7 * HOUR)
    world.now = DAY0 + 2 * DAY - HOUR
    assert world.round()[0].outcome_days == 0, "an outcome may take a day"
    world.now = DAY0 + 2 * DAY + HOUR
    assert (world.round()[0].outcome_days, world.round()[0].outcome_days) == (1, 0)
    found = world.figures("kind = 'concept'")
    assert found[0, "", "", "auc"]["n"] == 1500
    right = (scores[:1500] > 0.5) == (late[:1500] > 0.5)
    assert found[0, "", "", "accuracy"]["value"] == pytest.approx(right.mean())
    assert found[0, "", "", "auc"]["verdict"] == "ok"
    world.happen(ids[1500:], late[1500:].tolist(), world.now)
    world.now += timedelta(hours=1)
    assert (world.round()[0].outcome_days, world.round()[0].outcome_days) == (1, 0)
    assert world.figures()[0, "", "", "auc"]["n"] == 2000


def test_an_outcome_that_is_no_number_says_nothing_of_the_model(world: World) -> None:
    scores = [0.9] * 300 + [0.1] * 300
    ids = world.score(DAY0 + HOUR, 600, scores=scores)
    world.happen(ids[:200], [1.0] * 200, DAY0 + 2 * HOUR)
    world.happen(ids[200:400], [float("nan")] * 100 + [float("inf")] * 100, DAY0 + 2 * HOUR)
    world.happen(ids[400:], [0.0] * 200, DAY0 + 2 * HOUR)
    # What was a number first and is none by the last word.
    world.happen(ids[:50], [float("nan")] * 50, DAY0 + 3 * HOUR)
    world.now = DAY0 + 2 * DAY + HOUR
    world.round()
    found = world.figures("kind = 'concept'")
    assert (found[0, "", "", "accuracy"]["value"], found[0, "", "", "accuracy"]["n"]) == (1.0, 350)


def test_a_model_that_is_worth_less_is_in_drift_while_its_data_are_not(world: World) -> None:
    ids = world.score(DAY0 + HOUR, 2000)
    world.happen(ids, (world.rng.random(2000) < 0.5).astype(float).tolist(), DAY0 + 2 * HOUR)
    world.now = DAY0 + 2 * DAY + HOUR
    world.round()
    found = world.figures()
    assert found[0, "", "", "auc"]["verdict"] == "drift"
    assert found[0, "", "", "cbpe_auc"]["verdict"] == "ok", "the scores know nothing of it"
    assert found[0, "", "@score", "psi"]["verdict"] == "ok"


def test_a_variant_is_held_against_the_whole_and_too_few_rows_are_said_once(world: World) -> None:
    world.score(DAY0 + HOUR, 1000, variant="a")
    world.score(DAY0 + HOUR, 1000, variant="b", shift=1.0)
    world.score(DAY0 + HOUR, 10, variant="c")
    world.round()
    found = world.figures("slice_by = 'variant'")
    assert found[0, "b", "it's", "psi"]["verdict"] == "drift"
    assert found[0, "a", "it's", "psi"]["verdict"] == "ok"
    assert [key[1:] for key in found if key[1] == "c"] == [("c", "@score", "psi")]
    assert found[0, "c", "@score", "psi"]["verdict"] == "too few"


def test_one_row_an_all_null_feature_and_a_new_category_have_defined_answers(world: World) -> None:
    world.score(DAY0 + HOUR, 1)
    world.score(DAY0 + DAY, 500, features=[{"size": 1.0}] * 500, carriers=["ZZ"] * 500)
    world.now = DAY0 + 2 * DAY + HOUR
    [found] = world.round()
    assert found.error == ""
    figures = world.figures()
    assert {one["verdict"] for key, one in figures.items() if key[0] == 0 and key[3] in ("psi", "ks")} == {"too few"}
    assert figures[1, "", "it's", "psi"]["verdict"] == "drift", "all of it is null"
    assert figures[1, "", "it's", "null_share"]["value"] == 1
    assert figures[1, "", "it's", "ks"]["verdict"] == "too few"
    assert figures[1, "", "it's", "ks"]["message"] == "the window has no value of it"
    assert figures[1, "", "carrier", "unseen_share"]["value"] == 1
    assert figures[1, "", "carrier", "psi"]["message"].startswith("PSI")
    assert "unseen 100.0%" in figures[1, "", "carrier", "psi"]["message"]


def test_a_feature_that_was_constant_or_null_in_the_reference_has_defined_answers(world: World) -> None:
    constant = {"kind": "numeric", "low": 3, "high": 3, "edges": [], "shares": [1.0], "mean": 3, "deviation": 0}
    never = {"kind": "numeric", "low": None, "high": None, "edges": [], "shares": [0.0], "null_share": 1.0}
    body = {"rows": 1000, "features": {"c": constant, "n": never}}
    world.versions = [Watched("m", "1", body, {"c": "numeric", "n": "numeric"})]
    world.score(DAY0, 200, features=[{"c": 3.0}] * 200)
    world.score(DAY0 + DAY, 200, features=[{"c": 4.0, "n": 1.0}] * 200)
    world.now = DAY0 + 2 * DAY + HOUR
    assert world.round()[0].error == ""
    found = world.figures()
    assert found[0, "", "c", "psi"]["value"] == found[0, "", "n", "psi"]["value"] == 0
    assert found[0, "", "c", "wasserstein"]["message"].startswith("the reference does not vary")
    assert found[1, "", "c", "psi"]["verdict"] == found[1, "", "n", "psi"]["verdict"] == "drift"
    assert found[1, "", "c", "ks"]["value"] == 1
    assert found[1, "", "n", "ks"]["message"] == "the reference has no value of it"


def test_a_profile_for_another_signature_is_an_error_that_harms_no_other_version(world: World) -> None:
    world.versions = [
        Watched("m", "1", BODY, {**TAKES, "seats": "numeric", "size": "categorical"}),
        Watched("m", "2", BODY, TAKES),
    ]
    for version in ("1", "2", "3"):
        world.score(DAY0 + HOUR, 100, version=version)
    first, second, third = world.round()
    assert "another signature: it has no seats; size is numeric there and categorical in the model" in first.error
    assert (second.error, second.days) == ("", 1)
    assert "m 3 has no reference profile" in third.error
    assert "penstock drift profile m --version 3" in third.error


def test_four_weeks_show_what_no_day_does(world: World) -> None:
    rng = np.random.default_rng(3)
    for day in range(28):
        world.score(DAY0 + day * DAY, 60, shift=0.6 if day >= 7 else float(rng.normal() * 0.1))
    world.now = DAY0 + 28 * DAY + HOUR
    [found] = world.round()
    long = [one for one in found.alarms if one.end - one.start == 28 * DAY and one.figure.verdict == "drift"]
    assert {(one.end, one.figure.feature) for one in long} >= {(DAY0 + 28 * DAY, "it's")}
    assert all(one.figure.n == 28 * 60 for one in long if one.end == DAY0 + 28 * DAY and one.figure.metric == "psi")


def test_a_profile_made_of_logged_predictions_finds_no_drift_in_them_and_some_in_others(world: World) -> None:
    ids = []
    for day in range(8):
        scores = world.rng.uniform(size=600)
        mine = world.score(DAY0 + day * DAY, 600, scores=scores.tolist())
        world.happen(mine, (world.rng.random(600) < scores).astype(float).tolist(), DAY0 + day * DAY + HOUR)
        ids += mine
    label = Label("late", 0.0, DAY)
    body = profile_of_window(world.warehouse, "m", "1", DAY0, DAY0 + 8 * DAY, label=label, sliced_by=("carrier",))
    made = profiles.from_json(body, "m", "1")
    profiles.check_signature(made, TAKES)
    assert made.rows == 4800
    assert made.performance is not None
    assert made.performance.figures["auc"] == pytest.approx(0.833, abs=0.02)
    assert set(made.performance.days) == {"accuracy", "f1", "auc", "log_loss", "calibration"}
    assert set(made.slices) == {("carrier", "A'A"), ("carrier", "UA")}
    first = next(one for one in made.features if one.axis.name == "it's")
    assert np.array(first.counts[1:-2]) / made.rows == pytest.approx(np.full(10, 0.1), abs=0.02)
    assert first.worst_psi > 0
    world.versions = [Watched("m", "1", body, TAKES)]
    world.score(DAY0 + 8 * DAY, 600, shift=1.0)
    world.now = DAY0 + 9 * DAY + HOUR
    [found] = world.round()
    loud = {(one.start - DAY0).days for one in found.alarms if one.figure.verdict == "drift"}
    assert loud == {8}
    with pytest.raises(profiles.ProfileError, match="scored nothing"):
        profile_of_window(world.warehouse, "m", "1", DAY0 - 9 * DAY, DAY0 - 8 * DAY)
    with pytest.raises(profiles.ProfileError, match="no category 'planet'"):
        profile_of_window(world.warehouse, "m", "1", DAY0, DAY0 + DAY, sliced_by=("planet",))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, 0.0),
        (0.5, 0.5),
        (0.12345678, 0.123457),
        (1234567.89123412, 1234567.891234),
        (-1.7e9 - 0.25, -1.7e9 - 0.25),
        (2.34567891e-8, 2.34568e-8),
        (-0.000123456789, -0.000123457),
        (1e300, 1e300),
        (5e-324, 5e-324),
    ],
)
def test_a_number_is_written_in_six_digits_however_small_it_is(value: float, written: float) -> None:
    assert profiles.short(value) == written


def test_a_range_is_written_in_six_digits_that_hold_all_of_it() -> None:
    assert profiles.outward(2.34567891e-8, 0.12345678) == (2.34567e-8, 0.123457)
    assert profiles.outward(-0.000123456789, 0.0) == (-0.000123457, 0.0)
    assert profiles.outward(-1234567.89123412, 1e300) == (-1234567.891235, 1e300)
    # The nearest number below 0.58: times a million it is 580,000.
    assert profiles.outward(0.5799999999999998, 0.5800000000000001) == (0.579999, 0.580001)


def test_a_feature_of_tiny_values_has_bins_that_tell_them_apart(world: World) -> None:
    tiny = [{"tiny": 2e-8 + one * 1e-11} for one in range(1000)]
    world.score(DAY0 + HOUR, 1000, features=tiny)
    body = profile_of_window(world.warehouse, "m", "1", DAY0, DAY0 + DAY)
    [one] = [one for one in profiles.from_json(body, "m", "1").features if one.axis.name == "tiny"]
    assert one.axis.bins == 9 + 4
    assert (one.counts[0], one.counts[-2], one.counts[-1]) == (0, 0, 0)
    assert np.array(one.counts[1:-2]) == pytest.approx(np.full(10, 100), abs=5)
    assert one.deviation == pytest.approx(2.88675e-9, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "rows: expected a number of 1 or more, got 0"),
        ({"features": {"x": {"kind": "ordinal"}}}, "features.x.kind: expected numeric or categorical, got 'ordinal'"),
        ({"features": {"x": {"kind": "numeric", "edges": [2, 1], "shares": [1, 0, 0]}}}, "x.edges: expected ascending"),
        ({"features": {"x": {"kind": "numeric", "edges": [1], "shares": [1]}}}, "1 edges need 2 shares, there are 1"),
        ({"features": {"x": {"kind": "numeric", "edges": [], "shares": [1], "low": 2, "high": 1}}}, "must ascend"),
        ({"score": {"histogram": [1, 2]}}, "score.edges: missing; train the version anew"),
        ({"label": {"outcome": 3}}, "label.outcome: expected the name of an outcome, got 3"),
        ({"slices": {"planet": {}}}, "slices.planet: no feature of this profile has that name"),
        (
            {"slices": {"carrier": {"UA": {"rows": 3, "features": {"size": [1]}}}}},
            "expected the counts of a feature's bins",
        ),
    ],
)
def test_a_profile_that_cannot_be_read_names_the_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(profiles.ProfileError) as caught:
        profiles.from_json({**BODY, **change}, "m", "1")
    assert str(caught.value).startswith("profile of m 1: ")
    assert message in str(caught.value)

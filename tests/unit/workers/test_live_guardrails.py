"""A breach begins once, goes on while it lasts, ends once, and stops a variant only where that one is to blame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from monitor_records import NOON, FixedRules, summary
from scipy.stats import chi2

from models.registry import ModelStore
from schemas.records import BatchSummary
from stream_workers.guardrails import Breach, Limits, Recovery
from stream_workers.guardrails import summary as line
from stream_workers.monitor_alerts import alert_of
from stream_workers.monitor_rules import LimitTable, LiveRules, Plans
from stream_workers.monitor_shift import Reference, from_profile, shift_of
from stream_workers.monitor_watch import Entries, Span, Watch, partition_of
from stream_workers.monitor_windows import MICRO, Series

SPAN = Span(20 * MICRO, 5 * MICRO)


class Played:
    """A watch, its entries as a changelog keeps them, and what it would have told."""

    def __init__(self, rules: FixedRules, recovery: Recovery | None = None) -> None:
        self.rules = rules
        self.recovery = recovery or Recovery(share=0.8, seconds=10)
        self.watch = Watch(3, rules, SPAN, self.recovery)
        self.kept: dict[str, str] = {}
        self.told: list[tuple[str, str]] = []
        self.offset = 0

    def send(self, *records: BatchSummary) -> None:
        for one in records:
            self._keep(self.watch.take([(self.offset, one, False)], one.scored_at))
            self.offset += 1
            self.tell()

    def idle(self, seconds: float) -> None:
        self._keep(self.watch.idle(NOON + round(seconds * MICRO)))
        self.tell()

    def tell(self) -> None:
        for breach in self.watch.untold():
            self.told.append((breach.alert_id, breach.state))
            self._keep(self.watch.told(breach))

    def restart(self, seconds: float = 0.0) -> None:
        self.watch = Watch.restored(3, self.rules, SPAN, self.recovery, self.kept, NOON + round(seconds * MICRO))

    def breach(self, series: Series, rule: str) -> Breach:
        return next(one for key, one in self.watch.breaches.items() if key[:2] == (series, rule))

    def _keep(self, entries: Entries) -> None:
        for key, text in entries.items():
            assert partition_of(key) == 3
            if text is None:
                self.kept.pop(key, None)
            else:
                self.kept[key] = text


def states(played: Played) -> list[str]:
    return [state for _, state in played.told]


def test_a_breach_needs_enough_rows_and_begins_above_the_limit() -> None:
    played = Played(FixedRules())
    played.send(summary(0, rows=49, failed=49))
    assert played.told == []
    played.send(summary(0.1, rows=951, failed=1))
    assert played.told == [], "exactly 5% is no breach"
    played.send(summary(0.2, rows=1, failed=1))
    assert states(played) == ["raising"]


def test_a_value_that_dances_about_the_limit_is_one_breach() -> None:
    played = Played(FixedRules())
    for second in range(0, 120, 1):
        played.send(summary(second, rows=100, failed=7 if second % 10 < 5 else 4))
    assert states(played) == ["raising"]
    for second in range(120, 160):
        played.send(summary(second, rows=100))
    assert states(played) == ["raising", "resolving"]
    assert played.told[0][0] == played.told[1][0]
    for second in range(160, 170):
        played.send(summary(second, rows=100, failed=60))
    assert states(played) == ["raising", "resolving", "raising"]
    assert played.told[2][0] != played.told[0][0], "another breach has an id of its own"


def test_a_series_that_falls_silent_is_over_after_a_window_and_its_panes_are_forgotten() -> None:
    played = Played(FixedRules())
    played.send(summary(0, failed=50))
    played.idle(1.5)
    assert states(played) == ["raising"], "a moment without records is no silence"
    played.idle(19.9)
    assert states(played) == ["raising"]
    played.idle(20)
    assert states(played) == ["raising", "resolving"]
    assert [json.loads(key)[1] for key in played.kept] == ["mark"]


@pytest.mark.parametrize("cut", range(9))
def test_a_watch_restored_at_any_moment_goes_on_as_if_nothing_had_happened(cut: int) -> None:
    sent = [summary(second * 6, rows=100, failed=20 if 1 < second < 4 else 0) for second in range(9)]
    whole, broken = Played(FixedRules()), Played(FixedRules())
    for at, one in enumerate(sent):
        whole.send(one)
        if at == cut:
            broken.restart()
        broken.send(one)
    assert broken.told == whole.told
    assert broken.kept == whole.kept
    assert states(whole) == ["raising", "resolving"]
    broken.restart()
    broken.offset = 0
    broken.send(*sent)
    assert (broken.told, broken.kept) == (whole.told, whole.kept), "what is read again counts once"


def test_a_clock_that_is_ahead_makes_nobody_late() -> None:
    watch = Watch(0, FixedRules(), SPAN)
    watch.take([(0, summary(3600), False), (1, summary(1), False)], NOON + 2 * MICRO)
    assert watch.windows.late == 0
    assert watch.windows.total(Series("m", "1")).rows == 200


def blamed(sent: Sequence[BatchSummary], rules: FixedRules | None = None, rule: str = "error_rate") -> tuple[bool, str]:
    played = Played(rules or FixedRules())
    played.send(*sent)
    evidence = played.breach(Series("m", "2", "e", "new"), rule).evidence
    return evidence["at_fault"], evidence["why"]


def control(at: float = 0.0, **more: object) -> BatchSummary:
    return summary(at, variant="control", **more)  # type: ignore[arg-type]


def new(at: float = 0.1, **more: object) -> BatchSummary:
    return summary(at, variant="new", version="2", **more)  # type: ignore[arg-type]


def test_a_variant_is_to_blame_for_what_befalls_it_alone() -> None:
    assert blamed([control(), new(failed=20)])[0]
    assert blamed([control(rows=10, failed=10), new(failed=20)])[0], "the control has too few rows to excuse it"
    fault, why = blamed([control(failed=12), new(failed=20)])
    assert (fault, why) == (False, "the control has 0.12 at the same time: it is not the variant alone")
    fault, why = blamed([new(failed=20)], FixedRules(controls={"e": "new"}))
    assert (fault, why) == (False, "it is the control: there is nothing to go back to")


def test_a_slow_variant_is_to_blame_although_it_makes_the_control_late_too() -> None:
    late = {"bucket": 9, "rows": 100}
    assert not blamed([control(**late), new(**late)], rule="latency_p99")[0], "a backlog is nobody's fault"
    fault, why = blamed([control(**late), new(**late, infer_us=400_000)], rule="latency_p99")
    assert fault
    assert why == "its model runs 400 ms a batch, the control's 1 ms"


def test_a_sender_s_own_errors_count_only_where_the_control_takes_what_the_variant_refuses() -> None:
    played = Played(FixedRules())
    played.send(summary(0, failed=90, code="INVALID_ARGUMENT"), summary(1, failed=90, code="UNKNOWN_MODEL"))
    assert played.told == []
    assert blamed([control(), new(failed=20, code="INVALID_ARGUMENT")])[0]


def test_names_that_anybody_can_make_up_do_not_make_series() -> None:
    played = Played(FixedRules())
    made_up = [
        replace(summary(at, version="", failed=100, code="UNKNOWN_MODEL"), model=f"made-up-{at}") for at in range(50)
    ]
    outside = [replace(summary(50 + at), experiment=f"made-up-{at}") for at in range(5)]
    played.send(*made_up, *outside, summary(55, version="", code="DEADLINE_EXCEEDED", failed=100))
    assert {series for series, _ in played.watch.windows.totals()} == {
        Series("other", ""), Series("m", "1"), Series("m", ""),
    }  # fmt: skip
    assert [one.series for one in played.watch.breaches.values()] == [Series("m", "")]


def test_what_has_no_limit_is_shown_and_never_a_breach() -> None:
    played = Played(FixedRules(Limits(), {"1": Reference("the profile", 100, (1.0, 1.0), {"hour": (1.0, 0.0)})}))
    played.send(summary(0, failed=100, bucket=15, scores=(0, 2000), features={"hour": (0, 2000)}))
    assert played.told == []
    shown = {one.rule: one.value for one in played.watch.readings[Series("m", "1")]}
    assert set(shown) == {"latency_p99", "error_rate", "score_shift", "feature_shift"}
    assert shown["error_rate"] == 1.0


def test_scores_are_held_against_the_profile_and_without_one_against_the_control() -> None:
    limits = Limits(score_psi=0.25, min_score_rows=100)
    flat, moved = (100,) * 10, (0,) * 5 + (200,) * 5
    rules = FixedRules(limits, {"2": Reference("the profile", 1000, tuple(map(float, flat)))})
    played = Played(rules)
    played.send(new(scores=flat), new(1, scores=flat))
    assert played.told == []
    assert blamed([new(scores=moved), control(0.2, scores=flat)], rules, "score_shift")[0]
    live = FixedRules(limits)
    assert blamed([control(scores=flat), new(scores=moved)], live, "score_shift")[0]
    reading = Played(live)
    reading.send(control(scores=flat), new(scores=moved))
    evidence = reading.breach(Series("m", "2", "e", "new"), "score_shift").evidence
    assert evidence["reference"] == "the control 'control', live"


def test_a_feature_that_moves_is_an_alert_and_no_version_s_fault() -> None:
    limits = Limits(feature_psi=0.2, min_score_rows=100)
    reference = Reference("the profile", 10_000, (), {"hour": (0.5, 0.5, 0.0)})
    played = Played(FixedRules(limits, {"2": reference}))
    played.send(new(features={"hour": (900, 100, 0), "unknown": (5, 5)}))
    (breach,) = played.watch.breaches.values()
    assert (breach.labels["feature"], breach.evidence["at_fault"]) == ("hour", False)
    assert line(breach).endswith("PSI 0.879 over 1,000 rows, at most 0.200 may be")


def test_an_alert_says_what_was_measured_when_and_what_was_done() -> None:
    played = Played(FixedRules())
    played.watch.take([(0, new(failed=20), False)], NOON + MICRO)
    (breach,) = played.watch.untold()
    alert = alert_of(breach, SPAN, NOON + 2 * MICRO, {"stopped": ["e assigns nobody any more"]})
    assert alert.summary == "m 2 as 'new' of 'e': 20.0% of 100 rows failed, at most 5.0% may"
    assert (alert.state, alert.severity, alert.source, alert.n) == ("firing", "critical", "monitor", 100)
    assert (alert.window_start, alert.window_end) == (NOON - 15 * MICRO, NOON + 5 * MICRO)
    assert alert.labels == {"model": "m", "version": "2", "experiment": "e", "variant": "new"}
    assert json.loads(alert.evidence)["stopped"] == ["e assigns nobody any more"]
    again = Played(FixedRules())
    again.watch.take([(0, new(failed=20), False)], NOON + MICRO)
    assert again.watch.untold()[0].alert_id == alert.alert_id, "the same breach has the same id"
    over = alert_of(replace(breach, state="resolving", n=0), SPAN, NOON + 9 * MICRO, {})
    assert (over.alert_id, over.state) == (alert.alert_id, "resolved")
    assert over.summary == "m 2 as 'new' of 'e': error_rate is over: no rows in a whole window"


def test_psi_is_its_formula_and_without_a_shift_it_stays_below_its_noise() -> None:
    # Siddiqi's formula by hand: (0.6 - 0.5) ln(0.6 / 0.5) + (0.4 - 0.5) ln(0.4 / 0.5)
    assert shift_of((60, 40), (0.5, 0.5), 0).psi == pytest.approx(0.1 * np.log(1.2) - 0.1 * np.log(0.8))
    assert shift_of((60, 40), (0.5, 0.5), 100).noise == pytest.approx(0.02 * chi2.isf(1e-4, 1))
    rng = np.random.default_rng(5)
    shares = rng.dirichlet(np.full(20, 5.0))
    above = 0
    for n in (1000, 10_000):
        for _ in range(500):
            shift = shift_of(rng.multinomial(n, shares).tolist(), rng.multinomial(50_000, shares).tolist(), 50_000)
            above += shift.psi > shift.noise
    assert above <= 1, "one in 10,000 looks, and a little more where bins hold few rows"


def test_what_is_empty_or_constant_has_a_defined_shift() -> None:
    assert np.isnan(shift_of((), (1.0, 2.0), 3).psi)
    assert np.isnan(shift_of((5,), (), 0).psi)
    constant = shift_of((5, 0), (9.0,), 9)
    assert (constant.psi, constant.noise) == (0.0, 0.0)
    assert np.isfinite(shift_of((0, 5), (9.0, 0.0), 9).psi), "a bin that was empty is news, not infinity"


def test_a_version_without_a_readable_profile_is_compared_with_nothing_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from schemas.codec import Codec

    store, now = ModelStore("models/zoo"), [0.0]
    table = LimitTable(Limits(error_rate=0.05), {"flight-delay": {"p99_ms": 0.0}}, {"e": {"error_rate": 0.5}})
    rules = LiveRules(table, store, Plans(Codec()), clock=lambda: now[0])
    known = rules.reference(Series("flight-delay", "2"))
    assert known is not None
    assert known.rows == sum(known.scores) > 10_000
    assert set(known.features) >= {"distance", "carrier", "seats"}
    assert all(sum(shares) == pytest.approx(1.0, abs=1e-4) for shares in known.features.values())
    for now[0] in (0.0, 1.0, 40.0):
        assert rules.reference(Series("flight-delay", "9")) is None
    assert caplog.text.count("compared with nothing") == 1
    assert rules.limits(Series("flight-delay", "2")).p99_ms is None, "0 is no limit"
    assert rules.limits(Series("other", "1")).p99_ms == 1000.0
    assert rules.limits(Series("other", "1", "e", "new")).error_rate == 0.5
    manifest = store.manifest("flight-delay", "2")
    with pytest.raises(ValueError, match="the profile: KeyError: 'rows'"):
        from_profile("the profile", {"score": {}}, manifest.signature)

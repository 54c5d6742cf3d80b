"""Performance from histograms of scores: the values of all rows one by one, of print, and of an independent package."""

from __future__ import annotations

import numpy as np
import pytest

from analytics import performance_metrics as metrics
from analytics.drift_figures import Limits
from analytics.performance_figures import concept
from analytics.performance_metrics import BINS, Calibrator, ScoredOutcomes
from analytics.profiles import Performance
from analytics.results import StatisticError, UndefinedError


def _sample(n: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.beta(1.2, 4, n)
    return scores, (rng.random(n) < scores).astype(float)


def test_the_figures_are_those_of_the_rows_one_by_one() -> None:
    scores, labels = _sample(4000)
    some = ScoredOutcomes.of(scores[:1500], labels[:1500]) + ScoredOutcomes.of(scores[1500:], labels[1500:])
    calls = scores > 0.5
    right = calls == (labels > 0.5)
    assert metrics.accuracy(some).value == pytest.approx(right.mean())
    hit = (calls & (labels > 0.5)).sum()
    assert metrics.f1(some).value == pytest.approx(2 * hit / (calls.sum() + labels.sum()))
    loss = -np.where(labels > 0.5, np.log(scores), np.log(1 - scores))
    assert metrics.log_loss(some).value == pytest.approx(loss.mean())
    assert metrics.log_loss(some).error == pytest.approx(loss.std() / np.sqrt(4000))
    late, early = scores[labels > 0.5], scores[labels <= 0.5]
    pairs = (late[:, None] > early[None, :]) + 0.5 * (late[:, None] == early[None, :])
    assert metrics.auc(some).value == pytest.approx(pairs.mean(), abs=2e-4)
    # DeLong's variance from the structural components, pair by pair.
    spread = pairs.mean(1).var(ddof=1) / len(late) + pairs.mean(0).var(ddof=1) / len(early)
    assert metrics.auc(some).error == pytest.approx(np.sqrt(spread), rel=1e-3)
    tenths = np.clip(np.ceil(scores * 10).astype(int) - 1, 0, 9)
    gaps = [abs(scores[tenths == at].sum() - labels[tenths == at].sum()) for at in range(10)]
    assert metrics.calibration_error(some).value == pytest.approx(sum(gaps) / 4000)


def test_the_area_is_that_of_scikit_learns_example() -> None:
    some = ScoredOutcomes.of(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0, 1, 1]))
    assert metrics.auc(some).value == 0.75


def test_standard_errors_are_those_of_simulated_samples() -> None:
    samples = [ScoredOutcomes.of(*_sample(800, seed)) for seed in range(400)]
    for figure in (metrics.accuracy, metrics.f1, metrics.auc, metrics.log_loss):
        found = [figure(one) for one in samples]
        spread = np.std([one.value for one in found])
        assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.12), figure.__name__
    quiet = [metrics.calibration_error(one).value > metrics.calibration_quiet(one, 1.645) for one in samples]
    assert np.mean(quiet) == pytest.approx(0.05, abs=0.035)


def test_expected_performance_is_that_of_nannyml() -> None:
    # NannyML 0.13.1, confidence_based.metrics: estimate_accuracy, estimate_f1, estimate_roc_auc of these probabilities.
    scores = np.round(((np.arange(1, 1001) * 0.618034) % 1) ** 2, 3)
    at = metrics.bins_of(scores)
    counts = np.bincount(at, minlength=BINS).astype(float)
    sums = np.bincount(at, weights=scores, minlength=BINS)
    found = metrics.expected_performance(counts, sums, None)
    assert found.accuracy.value == pytest.approx(0.804746, abs=1e-9)
    assert found.f1 is not None
    assert found.f1.value == pytest.approx(0.6882579845832562, abs=1e-9)
    assert found.auc is not None
    # Theirs leaves out one triangle in a thousand rows.
    assert found.auc.value == pytest.approx(0.875004164011328, abs=5e-4)


def test_an_estimate_follows_the_inputs_and_not_what_they_mean() -> None:
    scores, labels = _sample(20_000)
    both = [ScoredOutcomes.of(scores, labels), ScoredOutcomes.of(scores, 1 - labels)]
    some = both[0]
    counts = some.positive + some.negative
    found = metrics.expected_performance(counts, some.scores, None)
    assert found.auc is not None
    assert found.auc.value == pytest.approx(metrics.auc(both[0]).value, abs=0.01)
    assert metrics.auc(both[1]).value < 0.5


def test_a_calibrator_moves_scores_to_the_shares_of_their_groups_and_keeps_their_order() -> None:
    one = Calibrator.of([(100, 0.1, 0.2), (100, 0.3, 0.25), (100, 0.5, 0.4), (100, 0.6, 0.38)])
    found = one.probabilities(np.array([0.0, 0.1, 0.2, 0.55, 1.0]))
    assert found[1] == pytest.approx(0.2)
    assert found[2] == pytest.approx(0.225)
    assert np.all(np.diff(found) >= 0)
    with pytest.raises(StatisticError, match="in order"):
        Calibrator.of([(1, 0.3, 0.1), (1, 0.1, 0.2)])


def test_what_these_rows_do_not_have_is_said_and_not_guessed() -> None:
    nothing = ScoredOutcomes.nothing()
    with pytest.raises(UndefinedError, match="no row has an outcome"):
        metrics.accuracy(nothing)
    only_early = ScoredOutcomes.of(np.array([0.1, 0.2]), np.zeros(2))
    with pytest.raises(UndefinedError, match="needs both classes"):
        metrics.auc(only_early)
    by_name = {one.metric: one for one in concept(only_early, None, Limits())}
    assert by_name["auc"].verdict == "too few"
    assert "both classes" in by_name["auc"].message
    with pytest.raises(StatisticError, match="probabilities"):
        ScoredOutcomes.of(np.array([1.5]), np.ones(1))


def test_a_fall_of_five_percent_gives_alarm_where_chance_would_not_reach_it() -> None:
    scores, labels = _sample(20_000)
    some = ScoredOutcomes.of(scores, labels)
    same = Performance(20_000, {"auc": metrics.auc(some).value, "log_loss": metrics.log_loss(some).value})
    calm = {one.metric: one.verdict for one in concept(some, same, Limits())}
    assert calm["auc"] == calm["log_loss"] == "ok"
    better = Performance(20_000, {"auc": metrics.auc(some).value / 0.93})
    assert {one.metric: one.verdict for one in concept(some, better, Limits())}["auc"] == "drift"
    few = ScoredOutcomes.of(scores[:120], labels[:120])
    higher = Performance(20_000, {"auc": metrics.auc(few).value / 0.93})
    assert {one.metric: one.verdict for one in concept(few, higher, Limits())}["auc"] == "ok"

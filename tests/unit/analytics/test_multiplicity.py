"""p-values adjusted for several metrics and arms are those of the papers and of statsmodels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.multiplicity import adjust, benjamini_hochberg, hochberg, holm
from analytics.results import StatisticError
from analytics.statistics import compare
from analytics.sufficient import Proportion

GIVEN = (0.0131, 0.0498, 0.0249, 0.3077, 0.0113)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # statsmodels 0.15.0: multipletests, method "holm", "simes-hochberg", "fdr_bh".
        (holm, (0.0565, 0.0996, 0.0747, 0.3077, 0.0565)),
        (hochberg, (0.0524, 0.0996, 0.0747, 0.3077, 0.0524)),
        (benjamini_hochberg, (0.03275, 0.06225, 0.0415, 0.3077, 0.03275)),
    ],
)
def test_adjusted_p_values_as_statsmodels(method: object, expected: tuple[float, ...]) -> None:
    assert callable(method)
    assert method(GIVEN) == pytest.approx(expected, rel=1e-12)


@given(p_values)
def test_the_corrections_keep_their_order_of_severity(values: list[float]) -> None:
    for value, bh, middle, strict in zip(
        values, benjamini_hochberg(values), hochberg(values), holm(values), strict=True
    ):
        assert value <= bh * (1 + 1e-12)
        assert bh <= middle * (1 + 1e-12)
        assert middle <= strict * (1 + 1e-12)
        assert strict <= min(1.0, value * len(values)) * (1 + 1e-12)


@given(p_values, st.randoms())
def test_the_order_of_the_metrics_does_not_matter(values: list[float], random: object) -> None:
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined] # hypothesis' own Random
    for method in (holm, hochberg, benjamini_hochberg):
        plain, shuffled = method(values), method([values[at] for at in order])
        assert [plain[at] for at in order] == pytest.approx(list(shuffled))


def test_results_without_a_p_value_count_for_nothing() -> None:
    results = {
        "clicks": compare(Proportion(1000, 50), Proportion(1000, 75)),
        "orders": compare(Proportion(1000, 20), Proportion(1000, 24)),
        "nothing": compare(Proportion(0, 0), Proportion(10, 1)),
    }
    adjusted = adjust(results, "holm")
    assert adjusted["nothing"] == results["nothing"]
    assert adjusted["clicks"].p_value == pytest.approx(2 * results["clicks"].p_value)
    assert adjusted["clicks"].method.endswith(", holm over 2")
    assert adjusted["clicks"].interval == results["clicks"].interval
    assert adjust(results, "none") == results
    assert adjust({}, "holm") == {}
    assert holm(()) == hochberg(()) == benjamini_hochberg(()) == ()


def test_a_p_value_out_of_range_and_an_unknown_correction_are_refused() -> None:
    with pytest.raises(StatisticError, match="must lie from 0 to 1"):
        holm((0.1, 1.5))
    with pytest.raises(StatisticError, match="must lie from 0 to 1"):
        benjamini_hochberg((float("nan"),))
    with pytest.raises(StatisticError, match="correction must be one of"):
        adjust({}, "bonferroni")  # type: ignore[arg-type] # what a definition file may say

"""Sequential bounds, powers and estimates are those of others' packages and of the textbook.

"JT" is Jennison and Turnbull (2000), "Group Sequential Methods with Applications to Clinical Trials".
"""

from __future__ import annotations

import math

import pytest
from scipy import integrate, optimize, stats

from analytics.results import Alternative
from analytics.sequential import (
    SequentialPlan,
    bounds,
    classic_bounds,
    drift_for_power,
    equal_looks,
    inflation,
    shaped_bounds,
)
from analytics.sequential_analysis import stagewise
from analytics.spending import Spending


def test_obrien_fleming_spending_with_five_looks_as_ldbounds() -> None:
    upper = bounds(SequentialPlan(Spending("obrien-fleming"), 0.05), equal_looks(5)).upper
    # ldbounds (and ld98), two-sided 0.05. Their grid is coarse: it makes 3.3569 of the second, which is 3.35701.
    assert upper == pytest.approx((4.8769, 3.3569, 2.6803, 2.2898, 2.0310), abs=1.2e-4)
    assert [round(one, 4) for one in upper] == [4.8769, 3.3570, 2.6803, 2.2898, 2.0310]


def test_the_second_bound_is_that_of_a_bivariate_normal() -> None:
    found = bounds(SequentialPlan(Spending("obrien-fleming"), 0.05), equal_looks(5))
    first, root = found.upper[0], math.sqrt(0.5)

    def crossed(bound: float) -> float:
        """P(no crossing first, then Z2 >= bound), by quadrature over the first Z of a bivariate normal."""
        tail = integrate.quad(
            lambda z: stats.norm.pdf(z) * stats.norm.sf((bound - root * z) / root), -first, first, epsabs=1e-14
        )[0]
        return float(tail) - (found.spent[1] - found.spent[0]) / 2

    assert found.upper[1] == pytest.approx(optimize.brentq(crossed, 3.0, 3.7, xtol=1e-12), abs=1e-8)


@pytest.mark.parametrize(
    ("kind", "looks", "alpha", "last"),
    [
        # JT table 2.1, C_P, and table 2.3, C_B.
        ("pocock", 2, 0.05, 2.178),
        ("pocock", 5, 0.05, 2.413),
        ("pocock", 10, 0.05, 2.555),
        ("pocock", 5, 0.01, 2.986),
        ("obrien-fleming", 2, 0.05, 1.977),
        ("obrien-fleming", 5, 0.05, 2.040),
        ("obrien-fleming", 10, 0.05, 2.087),
        ("obrien-fleming", 4, 0.01, 2.609),
        ("obrien-fleming", 5, 0.01, 2.621),
    ],
)
def test_classic_constants_as_the_textbook(kind: str, looks: int, alpha: float, last: float) -> None:
    found = classic_bounds(kind, looks, alpha=alpha)  # type: ignore[arg-type] # the parametrised names are the kinds
    assert round(found.upper[-1], 3) == last
    assert found.spent[-1] == pytest.approx(alpha, abs=1e-9)


def test_obrien_flemings_own_bounds_as_rpact_and_gsdesign() -> None:
    # rpact 3.x, getDesignInverseNormal() with its defaults: three looks, one-sided 0.025.
    one_sided = classic_bounds("obrien-fleming", 3, alpha=0.025, alternative="greater")
    assert one_sided.upper == pytest.approx((3.4710914, 2.4544323, 2.0040356), abs=1e-6)
    assert one_sided.spent == pytest.approx((0.00025917372, 0.0071600594, 0.025), abs=1e-7)
    # gsDesign's own check (Deming conference 2008, slides 23 and 24): four looks, two-sided 0.05.
    two_sided = classic_bounds("obrien-fleming", 4)
    assert [round(one, 2) for one in two_sided.upper] == [4.05, 2.86, 2.34, 2.02]


@pytest.mark.parametrize(
    ("looks", "error"),
    # gsDesign's own checks (Deming conference 2008, slide 19): tests repeated at 1.96, one side.
    [(2, 0.042), (4, 0.063), (10, 0.097), (20, 0.124)],
)
def test_naive_looks_raise_the_error_as_gsdesign_says(looks: int, error: float) -> None:
    found = shaped_bounds(0.5, equal_looks(looks))
    recursion = found.recursion.__class__(equal_looks(looks))
    total = recursion.beyond(0, 1.959964)
    for look in range(1, looks):
        recursion.proceed(-1.959964, 1.959964)
        total += recursion.beyond(look, 1.959964)
    assert round(total, 3) == error


RPACT_DESIGNS = [
    # rpact 3.x, tests of getDesignInverseNormal: asHSD with gammaA 0 and -1, asKD with gammaA 2.2; one-sided.
    (
        Spending("hwang-shih-decani", 0.0),
        0.03,
        (0.2, 0.4, 1.0),
        (2.5121443, 2.4228747, 2.0280392),
        (0.006, 0.012, 0.03),
    ),
    (
        Spending("hwang-shih-decani", -1.0),
        0.07,
        (0.2, 0.4, 1.0),
        (2.364813, 2.1928805, 1.5660474),
        (0.0090195874, 0.020036136, 0.07),
    ),
    (
        Spending("power", 2.2),
        0.03,
        (0.3, 0.7, 1.0),
        (2.8594012, 2.2435708, 1.9735737),
        (0.0021222083, 0.013687904, 0.03),
    ),
]


@pytest.mark.parametrize(("spending", "alpha", "fractions", "upper", "spent"), RPACT_DESIGNS)
@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_unequal_looks_as_rpact(
    spending: Spending,
    alpha: float,
    fractions: tuple[float, ...],
    upper: tuple[float, ...],
    spent: tuple[float, ...],
    alternative: Alternative,
) -> None:
    found = bounds(SequentialPlan(spending, alpha, alternative), fractions)
    reach = found.upper if alternative == "greater" else tuple(-one for one in found.lower)
    assert reach == pytest.approx(upper, abs=1e-7)
    assert found.spent == pytest.approx(spent, abs=1e-9)


def test_power_inflation_and_expected_size_as_rpact() -> None:
    found = bounds(SequentialPlan(Spending("hwang-shih-decani", 0.0), 0.03, "greater"), (0.2, 0.4, 1.0))
    drift = drift_for_power(found, 0.86)
    # rpact 3.x, getDesignCharacteristics: shift, inflationFactor, rejectionProbabilities, averageSampleNumber1 and 0.
    assert drift**2 == pytest.approx(9.4594101, abs=1e-5)
    assert inflation(found, 0.86) == pytest.approx(1.0788327, abs=1e-6)
    assert found.crossing(drift)[0] == pytest.approx((0.12783451, 0.21271713, 0.51944835), abs=1e-6)
    assert found.expected_fraction(drift) * inflation(found, 0.86) == pytest.approx(0.83081135, abs=1e-6)
    assert found.expected_fraction(0.0) * inflation(found, 0.86) == pytest.approx(1.0697705, abs=1e-6)


def test_stagewise_p_value_estimate_and_interval_as_rpact() -> None:
    found = shaped_bounds(0.25, (0.2, 0.4, 1.0), alpha=0.025, alternative="greater")
    ended = stagewise(found, 2, 2.9)
    # rpact 3.x, getAnalysisResults for survival data: log ranks 1.52, 1.38, 2.9 and 38 events: information 38 / 4.
    unit = math.sqrt(38 / 4)
    assert ended.p_value == pytest.approx(0.0074535505, abs=1e-9)
    assert math.exp(ended.estimate / unit) == pytest.approx(2.4764002, abs=1e-6)
    assert math.exp(ended.interval.low / unit) == pytest.approx(1.222663, abs=1e-6)
    # Its upper bound belongs to a two-sided interval at twice the level: the same tail from the other end.
    two_sided = shaped_bounds(0.25, (0.2, 0.4, 1.0), alpha=0.025, alternative="greater")
    assert two_sided.upper == pytest.approx((3.03663, 2.55349, 2.03072), abs=1e-5)


@pytest.mark.parametrize(
    ("fractions", "parameter", "sides", "upper"),
    [
        # spotify-confidence 4.1.0, sequential_bound_solver.bounds, alpha 0.05; its grid is ld98's.
        (
            (0.1, 0.25, 0.45, 0.7, 1.0),
            2.0,
            2,
            (3.4807564043462422, 2.9966036435904266, 2.648893563277758, 2.3503367669437973, 2.0764628217952104),
        ),
        (
            (0.2292, 0.3333, 0.4375, 0.5833, 0.7083, 0.8333),
            1.0,
            2,
            (
                2.52835013611326,
                2.6098001897531344,
                2.568908868575014,
                2.46779210596625,
                2.4297764671239435,
                2.38406872163,
            ),
        ),
        (
            (0.2, 0.4, 0.6, 0.8, 1.0),
            3.0,
            1,
            (3.3527947805048592, 2.7525340843573747, 2.350262376606631, 2.0188959223660716, 1.7223394087630706),
        ),
    ],
)
def test_the_power_family_as_spotify_confidence(
    fractions: tuple[float, ...], parameter: float, sides: int, upper: tuple[float, ...]
) -> None:
    plan = SequentialPlan(Spending("power", parameter), 0.05, "two-sided" if sides == 2 else "greater")
    assert bounds(plan, fractions).upper == pytest.approx(upper, abs=2e-4)

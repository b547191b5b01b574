"""Fits of the gap model: planted parameters come back, intervals cover or refuse, two rates are found."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, isfinite

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.stats import t as student

from selfdev.dynamics import Curve, GapModel, Model, Noise, compare, conserved, fit, forecast, held_out_error, simulate
from selfdev.dynamics.fit import alone, data, identified, line_bend
from selfdev.dynamics.profile import Data, profile

MODEL = GapModel(alpha=1.0, beta=0.5, k=0.8, b=1.6, solver0=30.0, verifier0=23.0)  # rate 0.4, limits 20 and 18
TRUE = {"rate": 0.4, "ratio": 2.0, "gap_limit": 2.0, "solver_limit": 20.0, "verifier_limit": 18.0}


def times(points: int, until: float = 10.0) -> list[float]:
    return np.linspace(0.0, until, points).tolist()


def with_errors(curve: Curve, solver: float, verifier: float, correlation: float = 0.0) -> Curve:
    n = len(curve)
    return replace(curve, solver_se=(solver,) * n, verifier_se=(verifier,) * n, correlation=correlation)


def two_rates(rates: tuple[float, float], noise: float, seed: int = 0, points: int = 20) -> Curve:
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, 10.0, points)
    solver = 20 + 10 * np.exp(-rates[0] * t) + rng.normal(0, 10 * noise, points)
    verifier = 18 + 5 * np.exp(-rates[1] * t) + rng.normal(0, 5 * noise, points)
    return Curve(tuple(t.tolist()), tuple(solver.tolist()), tuple(verifier.tolist()))


# -- recovery ---------------------------------------------------------------------------------------------------------


def test_times_count_as_they_are() -> None:
    """Exact curves at uneven times; the gain of one whole step from 3 on, though the last point is at 3.75."""
    uneven = (1.0, 1.25, 2.0, 2.5, 3.0, 3.75)
    curve = Curve(uneven, tuple(10 + 8 * exp(-0.7 * t) for t in uneven), tuple(6 + 4 * exp(-0.7 * t) for t in uneven))
    found = fit(curve, 1.0, now=3.0)
    assert found.rate.value == pytest.approx(0.7, rel=1e-5)
    assert found.next_gain.value == pytest.approx(8 * (exp(-2.1) - exp(-2.8)), rel=1e-5)
    assert found.solver_left.value == pytest.approx(8 * exp(-2.1), rel=1e-5)
    assert (found.now, fit(curve).now) == (3.0, 3.75)
    assert fit(curve).next_gain.value == pytest.approx(8 * (exp(-0.7 * 3.75) - exp(-0.7 * 4.75)), rel=1e-5)
    later, _ = forecast(curve, Model.SHARED, [5.5])
    assert later == pytest.approx([10 + 8 * exp(-0.7 * 5.5)], rel=1e-5)
    # the same values at even times are another curve
    even = replace(curve, times=tuple(map(float, range(6))))
    assert fit(even).rate.value != pytest.approx(0.7, rel=0.2)
    for bad in (0.5, inf):
        with pytest.raises(ValueError, match="need a time from the first measurement on"):
            fit(curve, now=bad)


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.1, 0.9), st.floats(0.5, 6.0), st.floats(0.0, 5.0), st.floats(1.0, 100.0), st.integers(3, 25),
    st.sampled_from([1e-3, 1.0, 1e4]),
)  # fmt: skip
def test_exact_curves_give_back_what_was_planted(
    beta: float, turns: float, gap: float, drop: float, points: int, duration: float
) -> None:
    k = turns / duration / (1 - beta)
    model = GapModel(1.0, beta, k, k * gap, 50 + drop, 50 - gap + beta * drop)
    found = fit(simulate(model, times(points, duration)), step=duration)
    assert found.rate.value == pytest.approx(model.rate, rel=1e-3)
    assert found.ratio.value == pytest.approx(1 / beta, rel=1e-4)
    assert found.gap_limit.value == pytest.approx(gap, abs=2e-3 * drop)
    assert found.solver_limit.value == pytest.approx(50.0, abs=2e-3 * drop)
    assert found.r2 == pytest.approx((1.0, 1.0))
    next_gain = model.at(duration)[0] - model.at(2 * duration)[0]
    assert found.next_gain.value == pytest.approx(next_gain, abs=2e-3 * drop)


def test_units_do_not_matter() -> None:
    curve = simulate(MODEL, times(12), (0.2, 0.1), 0.5, seed=1)
    other = Curve(
        tuple(100 + 60 * t for t in curve.times), tuple(3 * u + 7 for u in curve.solver),
        tuple(3 * u + 7 for u in curve.verifier),
    )  # fmt: skip
    one, two = fit(curve), fit(other, step=60.0)
    for bound in ("value", "low", "high"):
        assert getattr(two.rate, bound) == pytest.approx(getattr(one.rate, bound) / 60, rel=1e-4)
        assert getattr(two.ratio, bound) == pytest.approx(getattr(one.ratio, bound), rel=1e-4)
        assert getattr(two.solver_limit, bound) == pytest.approx(3 * getattr(one.solver_limit, bound) + 7, rel=1e-4)
        assert getattr(two.next_gain, bound) == pytest.approx(3 * getattr(one.next_gain, bound), rel=1e-3)


def test_one_curve_agrees_with_scipy() -> None:
    """Nearly linear problem: the profile interval is estimate +- t standard errors."""
    curve = simulate(MODEL, times(20), (0.02, 0.02), seed=4)
    t, y = np.array(curve.times), np.array(curve.solver)
    best, covariance = curve_fit(lambda x, u, a, r: u + a * np.exp(-r * x), t, y, p0=(20, 10, 0.3))
    reach = student.ppf(0.975, 17) * np.sqrt(np.diag(covariance))
    found = alone(Data(t, y[:, None], None))
    assert found.rate.value == pytest.approx(best[2], rel=1e-5)
    assert found.rate.high - found.rate.low == pytest.approx(2 * reach[2], rel=0.02)
    assert found.limit.value == pytest.approx(best[0], rel=1e-5)
    assert found.limit.high - found.limit.low == pytest.approx(2 * reach[0], rel=0.02)


def test_known_errors_agree_with_scipy() -> None:
    curve = with_errors(simulate(MODEL, times(9), (0.05, 0.05), seed=8), 0.05, 0.05)
    t = np.tile(curve.times, 2)
    y = np.concatenate([curve.solver, curve.verifier])
    first = np.repeat([1.0, 0.0], len(curve))

    def both(x: np.ndarray, us: float, a: float, uv: float, c: float, r: float) -> np.ndarray:
        return np.where(first > 0, us + a * np.exp(-r * x), uv + c * np.exp(-r * x))

    best, covariance = curve_fit(both, t, y, p0=(20, 10, 18, 5, 0.3), sigma=np.full(18, 0.05), absolute_sigma=True)
    reach = 1.96 * np.sqrt(np.diag(covariance))
    found = fit(curve)
    assert found.noise is Noise.GIVEN
    assert found.rate.value == pytest.approx(best[4], rel=1e-5)
    assert found.rate.high - found.rate.low == pytest.approx(2 * reach[4], rel=0.02)
    assert found.verifier_limit.high - found.verifier_limit.low == pytest.approx(2 * reach[2], rel=0.02)


@pytest.mark.parametrize(("points", "given"), [(6, False), (12, False), (4, True), (10, True)])
def test_intervals_cover(points: int, given: bool) -> None:
    """Coarse: 95 % of 60 is 57, four standard deviations below are 50. `benchmarks/bench_gap_fit.py` counts well."""
    held = dict.fromkeys(TRUE, 0)
    for seed in range(60):
        curve = simulate(MODEL, times(points), (0.2, 0.1), 0.5, seed)
        found = identified(profile(data(with_errors(curve, 0.2, 0.1, 0.5) if given else curve)), 1.0)
        for name, value in TRUE.items():
            held[name] += value in found[name]
    assert min(held.values()) >= 50


def test_forecasts_have_intervals() -> None:
    found = fit(simulate(MODEL, times(11), (0.1, 0.05), seed=2))
    solver, verifier = found.at(14.0)
    assert MODEL.at(14.0)[0] in solver
    assert MODEL.at(14.0)[1] in verifier
    assert found.at(10.0)[0].value - found.at(11.0)[0].value == pytest.approx(found.next_gain.value)
    assert found.solver_left.value == pytest.approx(found.at(10.0)[0].value - found.solver_limit.value)
    with pytest.raises(ValueError, match="before"):
        found.at(-1.0)
    with pytest.raises(ValueError, match="step"):
        fit(found.curve, step=0.0)
    with pytest.raises(ValueError, match="confidence"):
        fit(found.curve, confidence=1.0)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [3, 4, 5])
def test_few_points_without_errors_have_no_intervals(points: int) -> None:
    found = fit(simulate(MODEL, times(points), (0.1, 0.1), seed=1))
    assert found.noise is Noise.UNKNOWN
    assert found.equal_rates_p is None
    for name in (*TRUE, "solver_left", "next_gain"):
        assert not getattr(found, name).bounded
        assert isfinite(getattr(found, name).value)


def test_three_points_with_errors_tell_something() -> None:
    found = fit(with_errors(simulate(MODEL, times(3), (0.1, 0.05), 0.5, seed=1), 0.1, 0.05, 0.5))
    assert all(getattr(found, name).bounded and value in getattr(found, name) for name, value in TRUE.items())


def test_a_straight_line_has_no_limit() -> None:
    rng = np.random.default_rng(0)
    line = np.array([30 - 0.5 * t for t in range(10)])
    curve = Curve(tuple(range(10)), tuple((line + rng.normal(0, 0.1, 10)).tolist()),
                  tuple((20 + line / 2 + rng.normal(0, 0.05, 10)).tolist()))  # fmt: skip
    found = fit(curve)
    assert found.straight
    assert found.rate.low == 0.0
    assert found.solver_limit.low == -inf
    assert found.solver_left.high == inf
    assert 2.0 in found.ratio
    assert found.ratio.bounded
    assert 0.5 in found.next_gain
    assert found.next_gain.bounded


def test_curves_that_do_not_move_have_no_rate() -> None:
    still = GapModel(1.0, 0.5, 0.8, 1.6, 20.0, 18.0)
    found = fit(simulate(still, times(12), (0.1, 0.1), seed=5))
    assert (found.rate.low, found.rate.high) == (0.0, inf)
    assert not found.ratio.bounded
    assert 0.0 in found.next_gain
    constant = fit(Curve((0, 1, 2, 3, 4, 5), (2.0,) * 6, (1.0,) * 6))
    assert constant.next_gain.value == pytest.approx(0.0, abs=1e-9)


def test_a_verifier_that_stays_has_a_ratio_without_upper_bound() -> None:
    model = GapModel(1.0, 0.0, 0.4, 0.8, 30.0, 18.0)
    found = fit(simulate(model, times(15), (0.1, 0.1), seed=6))
    assert found.ratio.low > 10
    assert found.ratio.high == inf


def test_wrong_errors_are_widened() -> None:
    curve = simulate(MODEL, times(12), (0.3, 0.15), seed=7)
    believed, small = fit(with_errors(curve, 0.3, 0.15)), fit(with_errors(curve, 0.03, 0.015))
    assert small.scatter == pytest.approx(100 * (believed.scatter or 0.0), rel=1e-3)
    width = believed.rate.high - believed.rate.low
    assert small.rate.high - small.rate.low == pytest.approx(width * (believed.scatter or 0) ** 0.5, rel=0.1)


# -- does the model hold? ---------------------------------------------------------------------------------------------


def test_two_rates_are_found_although_r2_is_high() -> None:
    curve = two_rates((0.4, 0.25), 0.01)
    found = fit(curve)
    assert min(found.r2) > 0.99
    assert found.equal_rates_p is not None
    assert found.equal_rates_p < 0.01
    assert found.line_bend_p is not None
    assert found.line_bend_p < 0.01
    assert 0.4 in found.solver_alone.rate
    assert 0.25 in found.verifier_alone.rate


def test_one_rate_is_not_rejected() -> None:
    found = fit(two_rates((0.4, 0.4), 0.01))
    assert found.equal_rates_p is not None
    assert found.equal_rates_p > 0.05
    assert found.equal_rates_p == fit(two_rates((0.4, 0.4), 0.01)).equal_rates_p


def test_conserved_line() -> None:
    curve = simulate(MODEL, times(8))
    assert conserved(curve, 2.0) == pytest.approx([8.0] * 8)  # 23 - 30 / 2
    assert fit(curve).line_r2 == pytest.approx(1.0)
    assert line_bend(data(curve.first(5)), 0.5) is None
    with pytest.raises(ValueError, match="ratio 0"):
        conserved(curve, 0.0)


def test_held_out_error_by_hand() -> None:
    curve = Curve((0, 1, 2, 3, 4), (5, 4, 3, 2, 1), (1, 1, 1, 1, 1))
    # the last solver value, 2, against 1: a quarter of the range; the verifier is right
    assert held_out_error(curve, Model.PERSISTENCE, 4) == pytest.approx((0.25**2 / 2) ** 0.5)
    assert forecast(curve.first(4), Model.PERSISTENCE, [9.0]) == ([2.0], [1.0])
    for train in (3, 5):
        with pytest.raises(ValueError, match="need 4 to 4"):
            held_out_error(curve, Model.PERSISTENCE, train)


def test_the_model_that_holds_forecasts_best() -> None:
    ranked = compare(two_rates((0.5, 0.15), 0.003))
    assert ranked is not None
    assert ranked[0].model is Model.FREE
    assert sum(row.won for row in ranked) == ranked[0].origins == 10
    exact = compare(simulate(MODEL, times(9)))
    assert exact is not None
    assert exact[-1].model is Model.PERSISTENCE
    assert exact[0].error < 1e-4
    solver, verifier = forecast(simulate(MODEL, times(5, 4.0)), Model.SHARED, [8.0])
    assert (solver[0], verifier[0]) == pytest.approx((20 + 10 * exp(-3.2), 18 + 5 * exp(-3.2)), rel=1e-5)
    assert compare(simulate(MODEL, times(4))) is None


def test_persistence_wins_where_nothing_moves() -> None:
    still = GapModel(1.0, 0.5, 0.8, 1.6, 20.0, 18.0)
    won = [compare(simulate(still, times(12), (0.1, 0.1), seed=seed)) for seed in range(5)]
    errors = {
        model: np.mean([next(r.error for r in rows or [] if r.model is model) for rows in won]) for model in Model
    }
    assert errors[Model.PERSISTENCE] < errors[Model.FREE]


@pytest.mark.parametrize(
    ("solver", "verifier"),
    [
        ((5.0, 4.0, 3.5, 3.2, 3.1, 3.0), (5.0, 4.0, 3.5, 3.2, 3.1, 3.0)),  # no gap at all
        ((0.0,) * 6, (0.0,) * 6),
        ((1e12, 1e12 - 1, 1e12 - 2, 1e12 - 2, 1e12 - 2, 1e12 - 2), (1e-9, 1e-9, 0.0, 0.0, 0.0, 0.0)),
        ((1.0, 2.0, 4.0, 8.0, 16.0, 32.0), (0.0, 1.0, 0.0, 1.0, 0.0, 1.0)),  # explodes, oscillates
    ],
)
def test_odd_curves_are_fitted_without_a_warning(solver: tuple[float, ...], verifier: tuple[float, ...]) -> None:
    found = fit(Curve((0, 1, 2, 3, 4, 5), solver, verifier))
    for name in (*TRUE, "solver_left", "next_gain"):
        estimate = getattr(found, name)
        assert estimate.low <= estimate.value <= estimate.high
    assert compare(found.curve) is not None

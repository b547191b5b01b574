"""The gap model: closed form against numbers worked by hand and numerical integration; external verification."""

from __future__ import annotations

from math import e, exp, inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdev.dynamics import (
    Curve,
    GapModel,
    cross_limit,
    cross_rounds,
    cross_verified,
    fit_gamma,
    integrate,
    mean_interval,
    simulate,
)

# gap 7 at first, b/k = 2, so delta = 5; rate 0.8 * 0.5; the solver falls by 1/0.5 * 5 = 10, the verifier by 5
MODEL = GapModel(alpha=1.0, beta=0.5, k=0.8, b=1.6, solver0=30.0, verifier0=23.0)


def test_by_hand() -> None:
    assert MODEL.rate == pytest.approx(0.4)
    assert MODEL.gap_limit == pytest.approx(2.0)
    assert MODEL.surplus == pytest.approx(5.0)
    assert (MODEL.solver_limit, MODEL.verifier_limit) == pytest.approx((20.0, 18.0))
    assert MODEL.at(0.0) == (30.0, 23.0)
    assert MODEL.at(log(2) / 0.4) == pytest.approx((25.0, 20.5))  # half of the way
    assert MODEL.at(200.0) == pytest.approx((20.0, 18.0))
    assert MODEL.time_to_within(0.5) == pytest.approx(log(10) / 0.4)
    assert MODEL.time_to_within(6.0) == 0.0


def test_a_gap_at_its_limit_stays() -> None:
    still = GapModel(1.0, 0.5, 0.8, 1.6, 20.0, 18.0)
    assert still.at(3.0) == (20.0, 18.0)
    assert still.time_to_within(1e-9) == 0.0


@pytest.mark.parametrize(
    "values",
    [(1, 1, 1, 0, 2, 1), (1, 2, 1, 0, 2, 1), (1, -0.1, 1, 0, 2, 1), (1, 0.5, 0, 0, 2, 1), (1, 0.5, 1, 0, inf, 1)],
)
def test_parameters_that_the_model_rules_out(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="alpha > beta >= 0"):
        GapModel(*values)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.5, 2.0), st.floats(0.0, 0.9), st.floats(0.1, 2.0), st.floats(0.0, 2.0), st.floats(1.0, 50.0),
    st.floats(-3.0, 20.0),
)  # fmt: skip
def test_closed_form_solves_the_equations(a: float, share: float, k: float, b: float, v: float, gap: float) -> None:
    model = GapModel(a, share * a, k, b, v + gap, v)
    times = [0.0, 0.4, 1.0, 2.5]
    solver, verifier = integrate(model, times)
    closed = np.array([model.at(time) for time in times])
    assert solver == pytest.approx(closed[:, 0], abs=1e-5)
    assert verifier == pytest.approx(closed[:, 1], abs=1e-5)
    line = model.beta * closed[:, 0] - model.alpha * closed[:, 1]
    assert line == pytest.approx(np.full(4, line[0]), abs=1e-9)
    assert model.solver_limit - model.verifier_limit == pytest.approx(model.gap_limit, abs=1e-9)


def test_any_force_conserves_the_line() -> None:
    solver, verifier = integrate(MODEL, [0.0, 1.0, 3.0, 9.0], force=lambda gap: 0.1 * gap**2)
    line = 0.5 * solver - verifier
    assert line == pytest.approx(np.full(4, line[0]))
    # dG/dt = -(alpha - beta) 0.1 G^2 from 7: G = 1 / (1/7 + 0.05 t)
    assert solver[-1] - verifier[-1] == pytest.approx(1 / (1 / 7 + 0.45), rel=1e-5)
    with pytest.raises(ValueError, match="ascending"):
        integrate(MODEL, [1.0, 0.5])


def test_noise_has_the_spread_and_correlation_asked_for() -> None:
    times = np.linspace(0, 10, 4000).tolist()
    curve = simulate(MODEL, times, (0.2, 0.1), 0.6, seed=3)
    errors = np.column_stack([curve.solver, curve.verifier]) - np.array([MODEL.at(t) for t in times])
    assert errors.std(axis=0) == pytest.approx([0.2, 0.1], rel=0.05)
    assert np.corrcoef(errors.T)[0, 1] == pytest.approx(0.6, abs=0.05)
    assert simulate(MODEL, times, (0.2, 0.1), 0.6, seed=3) == curve
    with pytest.raises(ValueError, match="noise"):
        simulate(MODEL, [0, 1, 2], (-1.0, 0.0))


# -- curves -----------------------------------------------------------------------------------------------------------


def test_curves_are_checked() -> None:
    good = Curve((0, 1, 2), (3, 2, 1), (1, 1, 1), score=(0.1, 0.2, 0.3))
    assert good.gap == (2, 1, 0)
    assert len(good.first(2 + 1)) == 3
    for wrong, words in [
        ({"times": (0, 1)}, "2 points"),
        ({"times": (0, 1, 1)}, "ascend"),
        ({"solver": (1, 2)}, "solver: 2 values for 3"),
        ({"verifier": (1, 2, float("nan"))}, "finite"),
        ({"solver_se": (1, 1, 1)}, "both"),
        ({"solver_se": (1, 1, 0), "verifier_se": (1, 1, 1)}, "above 0"),
        ({"score_se": (1, 1, 1)}, "score_se without score"),
        ({"correlation": 1.0}, "correlation"),
    ]:
        with pytest.raises(ValueError, match=words):
            Curve(**({"times": (0, 1, 2), "solver": (3, 2, 1), "verifier": (1, 1, 1)} | wrong))  # type: ignore[arg-type]


# -- external verification --------------------------------------------------------------------------------------------


def test_external_verification_by_hand() -> None:
    assert cross_verified(10.0, 0.5, 0.4) == pytest.approx(10 / 1.2)
    # a verifier that does not move by itself (beta 0) keeps what it was given: 20 / 1.25, then the solver follows
    model = GapModel(1.0, 0.0, 1.0, 0.0, 30.0, 20.0)
    start, after = cross_rounds(model, 0.25, [1.0])
    assert start == (30.0, 20.0)
    assert after == pytest.approx((16 + 14 * exp(-1), 16.0))
    assert cross_limit(model, 0.25, [1.0]) == pytest.approx(16.0)


def test_without_external_data_the_rounds_are_the_model() -> None:
    states = cross_rounds(MODEL, 0.3, [0.0] * 4)
    assert states == [pytest.approx(MODEL.at(t)) for t in range(5)]


def test_timing_is_free_for_small_gamma_only() -> None:
    model = GapModel(1.0, 0.0, 1.0, 0.0, 30.0, 20.0)  # beta 0: the division is all that moves the verifier
    many = [1 / 1000] * 1000
    assert cross_limit(model, 0.01, many) == pytest.approx(cross_limit(model, 0.01, [1.0]), rel=1e-4)
    assert cross_limit(model, 1.0, [1.0]) == pytest.approx(20 / 2)
    assert cross_limit(model, 1.0, many) == pytest.approx(20 / e, rel=1e-3)


def test_gamma_is_fitted() -> None:
    before, shares = [20.0, 18.0, 17.0, 16.0], [0.5, 0.3, 0.0, 0.2]
    after = [cross_verified(u, 0.4, share) for u, share in zip(before, shares, strict=True)]
    found = fit_gamma(before, after, shares)
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))
    # two rounds, ratios 1.3 and 1.1 at shares 0.5 and 0.5: slope (0.15 + 0.05) / 0.5 = 0.4
    noisy = fit_gamma([13.0, 11.0], [10.0, 10.0], [0.5, 0.5])
    assert noisy.value == pytest.approx(0.4)
    # residuals +-0.1: variance 0.02 / 1, of the slope 0.02 / 0.5 = 0.04; t with one degree of freedom is 12.706
    assert noisy.high == pytest.approx(0.4 + 12.706 * 0.2, rel=1e-4)
    assert not fit_gamma([13.0], [10.0], [1.0]).bounded
    for arguments in (([1.0], [1.0], []), ([1.0], [0.0], [0.5]), ([1.0], [1.0], [1.5]), ([1.0], [1.0], [0.0])):
        with pytest.raises(ValueError, match=r"need|tells"):
            fit_gamma(*arguments)


def test_mean_over_seeds() -> None:
    # mean 2, standard deviation 1, standard error 1 / sqrt 3; t with two degrees of freedom is 4.3027
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.value, found.high) == pytest.approx((2.0, 2 + 4.3027 / 3**0.5), rel=1e-4)
    assert not mean_interval([1.0]).bounded
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])

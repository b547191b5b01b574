"""Fits of the solver-verifier gap model to measured curves, with intervals of what curves can tell. Pure.

Three models of one pair of curves: one rate for both, which the coupled equations demand (Sun et al., arXiv 2507.00075,
Proposition 3.1); a rate for each; and nothing changes any more. A high R2 does not choose between them: exponentials
with rates that differ twofold all reach 0.99 (see `compare` for held-out forecasts, `equal_rates` for a test).

Reported is only what curves identify: the rate k (alpha - beta), the ratio alpha / beta, the gap's limit b / k and the
limits of both curves. alpha, beta and k by themselves are not identified.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from selfdev.dynamics.curves import Curve
from selfdev.dynamics.profile import (
    Data,
    Estimate,
    Profile,
    Solved,
    Spent,
    at_time,
    best_rate,
    drop_between,
    profile,
    rate_grid,
    solve,
    widening,
)

Array = NDArray[np.float64]

SOLVER, VERIFIER = 0, 1
REPLICATES = 499  # of the bootstrap test


class Noise(StrEnum):
    """Where the intervals take the noise from."""

    GIVEN = "given standard errors"
    ESTIMATED = "scatter around the fit"
    UNKNOWN = "unknown: too few points without standard errors"


@dataclass(frozen=True, slots=True)
class FreeFit:
    """One curve with a rate of its own."""

    rate: Estimate
    limit: Estimate
    r2: float


@dataclass(frozen=True, slots=True)
class GapFit:
    """The model with one rate, beside each curve alone. Uncertainties in nats, times as given."""

    curve: Curve
    noise: Noise
    confidence: float
    rate: Estimate  # k (alpha - beta)
    ratio: Estimate  # alpha / beta
    gap_limit: Estimate  # b / k
    solver_limit: Estimate
    verifier_limit: Estimate
    now: float  # the time from which the two gains below count
    solver_left: Estimate  # U_s now (fitted) minus its limit
    step: float  # one more iteration, in units of time
    next_gain: Estimate  # U_s now minus U_s one step later, fitted
    r2: tuple[float, float]  # solver, verifier
    scatter: float | None  # chi squared per degree of freedom; None without standard errors
    straight: bool  # a straight line fits as well: no levelling off is seen
    solver_alone: FreeFit
    verifier_alone: FreeFit
    gap_alone: FreeFit
    equal_rates_p: float | None  # chance of rates this different if they are the same
    line_r2: float  # of the conserved line, U_s against U_v
    line_bend_p: float | None  # chance of a bend like this if it is straight
    shared: Profile

    def at(self, time: float) -> tuple[Estimate, Estimate]:
        """(U_s, U_v) of the model with one rate at a time, also after the last; intervals without measuring noise."""
        if time < self.curve.times[0]:
            raise ValueError(f"time {time} lies before the first measurement, {self.curve.times[0]}")
        loading = at_time(time - self.curve.times[0])
        return self.shared.estimate({SOLVER: 1.0}, loading), self.shared.estimate({VERIFIER: 1.0}, loading)


def fit(curve: Curve, step: float = 1.0, confidence: float = 0.95, seed: int = 0, now: float | None = None) -> GapFit:
    """Fit one run. Times need not be evenly spaced.

    Args:
        step: one more iteration, in the curve's units of time.
        confidence: of every interval, each by itself.
        seed: of the bootstrap test of equal rates.
        now: the time from which what is left to gain and the gain of one more step count; None: the last one.
    """
    if not 0 < step < inf:
        raise ValueError(f"step {step}: need a finite number above 0")
    since = curve.times[-1] if now is None else now
    if not curve.times[0] <= since < inf:
        raise ValueError(f"now {now}: need a time from the first measurement on, {curve.times[0]}")
    both = data(curve)
    shared, noise = profile(both, confidence), _noise(curve)
    return GapFit(
        curve=curve,
        noise=noise,
        confidence=confidence,
        **identified(shared, step, since - curve.times[0]),
        now=since,
        step=step,
        r2=(_r2(both, shared.best, SOLVER), _r2(both, shared.best, VERIFIER)),
        scatter=shared.scatter,
        straight=shared.straight,
        solver_alone=alone(_column(both, {SOLVER: 1.0}), confidence),
        verifier_alone=alone(_column(both, {VERIFIER: 1.0}), confidence),
        gap_alone=alone(_column(both, {SOLVER: 1.0, VERIFIER: -1.0}), confidence),
        equal_rates_p=None if noise is Noise.UNKNOWN else equal_rates(both, shared, seed),
        line_r2=_line_r2(both),
        line_bend_p=line_bend(both, shared.ratio(VERIFIER, SOLVER).value),
        shared=shared,
    )


def identified(shared: Profile, step: float, now: float | None = None) -> dict[str, Estimate]:
    """All that the curves identify, by the names of `GapFit`; `now` counts from the first time, None is the last."""
    last, limit = float(shared.data.times[-1]) if now is None else now, at_time(inf)
    solver, verifier, gap = {SOLVER: 1.0}, {VERIFIER: 1.0}, {SOLVER: 1.0, VERIFIER: -1.0}
    return {
        "rate": shared.rate,
        "ratio": _inverse(shared.ratio(VERIFIER, SOLVER)),
        "gap_limit": shared.estimate(gap, limit, Spent.GAP_LIMIT, limit=True),
        "solver_limit": shared.estimate(solver, limit, Spent.LIMIT, limit=True),
        "verifier_limit": shared.estimate(verifier, limit, Spent.LIMIT, limit=True),
        "solver_left": shared.estimate(solver, drop_between(last, inf), limit=True),
        "next_gain": shared.estimate(solver, drop_between(last, last + step)),
    }


def data(curve: Curve) -> Data:
    """A curve as arrays."""
    times = np.asarray(curve.times) - curve.times[0]
    values = np.column_stack([curve.solver, curve.verifier]).astype(np.float64)
    if curve.solver_se is None or curve.verifier_se is None:
        return Data(times, values, None)
    deviations = np.column_stack([curve.solver_se, curve.verifier_se])
    covariance = deviations[:, :, None] * deviations[:, None, :]
    covariance[:, 0, 1] *= curve.correlation
    covariance[:, 1, 0] *= curve.correlation
    return Data(times, values, np.asarray(np.linalg.inv(covariance), dtype=np.float64))


def alone(column: Data, confidence: float = 0.95) -> FreeFit:
    """One curve with a rate of its own: u + a e^(-rate t), as the paper fits each curve."""
    found = profile(column, confidence)
    limit = found.estimate({0: 1.0}, at_time(inf), Spent.LIMIT, limit=True)
    return FreeFit(found.rate, limit, _r2(column, found.best, 0))


def _column(both: Data, weights: dict[int, float]) -> Data:
    """A weighted sum of the curves as a curve."""
    vector = np.zeros(both.values.shape[1])
    for index, weight in weights.items():
        vector[index] = weight
    precision = None
    if both.precision is not None:
        variance = np.einsum("ijk,j,k->i", np.linalg.inv(both.precision), vector, vector)
        precision = (1 / variance)[:, None, None]
    return Data(both.times, (both.values @ vector)[:, None], precision)


def _noise(curve: Curve) -> Noise:
    if curve.has_errors:
        return Noise.GIVEN
    return Noise.ESTIMATED if len(curve) >= 6 else Noise.UNKNOWN


def _inverse(ratio: Estimate) -> Estimate:
    """beta / alpha as alpha / beta. The verifier may not move: then there is no upper bound."""
    value = 1 / ratio.value if ratio.value else inf
    if not ratio.bounded or ratio.low <= 0 <= ratio.high:
        low = 1 / ratio.high if ratio.bounded and ratio.high > 0 else -inf
        return Estimate(value, min(low, value), inf)
    return Estimate(value, 1 / ratio.high, 1 / ratio.low)


def _r2(data: Data, best: Solved, curve: int) -> float:
    """1 - residual / total sum of squares; 1 where nothing varies."""
    total = float(len(data.values) * np.var(data.values[:, curve]))
    return 1 - float((best.residual[0, :, curve] ** 2).sum()) / total if total else 1.0


def _line_r2(both: Data) -> float:
    """Squared correlation of the two curves; 0 where one does not move."""
    solver, verifier = (both.values - both.values.mean(axis=0)).T
    moved = float((solver @ solver) * (verifier @ verifier))
    return float(solver @ verifier) ** 2 / moved if moved else 0.0


# -- does one rate do? ------------------------------------------------------------------------------------------------


def equal_rates(both: Data, shared: Profile, seed: int = 0, replicates: int = REPLICATES) -> float:
    """Parametric bootstrap test that all curves have the rate of the shared fit.

    The statistic is twice the log likelihood that rates of their own gain, as if errors of the curves were independent;
    the replicates have the errors' covariance (given, or that of the residuals), so that its level is right all the
    same.
    """
    weights = _weights(both)
    observed = float(_gain(both, weights, both.values[None])[0])
    rng = np.random.default_rng(seed)
    fitted = both.values - shared.best.residual[0]
    errors = rng.standard_normal((replicates, *fitted.shape))
    if both.precision is None:
        residual = shared.best.residual[0]
        covariance = residual.T @ residual / (len(fitted) - 2.5)
        root = np.broadcast_to(_root(covariance), (len(fitted), *covariance.shape))
    else:
        root = np.linalg.cholesky(np.linalg.inv(both.precision) * widening(both, shared.scatter))
    replicated = _gain(both, weights, fitted + np.einsum("ijk,bik->bij", root, errors))
    return float((1 + np.sum(replicated >= observed)) / (replicates + 1))


def _weights(both: Data) -> Array | None:
    if both.precision is None:
        return None
    return np.asarray(1 / np.einsum("ijj->ij", np.linalg.inv(both.precision)), dtype=np.float64)


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)), dtype=np.float64)


def _gain(both: Data, weights: Array | None, values: Array) -> Array:
    """What rates of their own gain over one rate, for each of many pairs of curves: (replicates, points, curves)."""
    grid = rate_grid(both.times)
    z = np.expm1(-grid[:, None] * both.times)
    rests = []
    for curve in range(values.shape[2]):
        w = np.ones(len(both.times)) if weights is None else weights[:, curve]
        x = (z - (z @ w)[:, None] / w.sum()) * np.sqrt(w)
        y = (values[:, :, curve] - (values[:, :, curve] @ w)[:, None] / w.sum()) * np.sqrt(w)
        total = (y**2).sum(axis=1)
        explained = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ y.T  # (rates, replicates)
        rest = np.maximum(total - explained**2, 1e-14 * total + 1e-300)
        rests.append(rest if weights is not None else len(both.times) * np.log(rest))
    together = np.sum(rests, axis=0).min(axis=0)
    return np.asarray(together - sum(rest.min(axis=0) for rest in rests), dtype=np.float64)


def line_bend(both: Data, share: float) -> float | None:
    """Is the path in the (U_s, U_v) plane straight, as a conserved beta U_s - alpha U_v demands?

    The t test, p-value, of the square of the solver beside the solver, for U_v - share U_s. The solver on the right is
    its own fit, not its measurement: noise in a regressor would bend the line. None below six points or where the
    solver does not move.

    Args:
        share: beta / alpha, about.
    """
    points = len(both.times)
    if points < 6 or not isfinite(share):
        return None
    column = _column(both, {SOLVER: 1.0})
    smooth = column.values[:, 0] - solve(column, np.array([best_rate(column)])).residual[0, :, 0]
    span = float(smooth.max() - smooth.min())
    if not span > 0:
        return None
    x = (smooth - smooth.mean()) / span
    design = np.column_stack([np.ones_like(x), x, x**2])
    line = both.values[:, VERIFIER] - share * both.values[:, SOLVER]
    coefficients, *_ = np.linalg.lstsq(design, line, rcond=None)
    residual = line - design @ coefficients
    floor = (1e-9 * max(1e-300, float(np.abs(both.values).max()))) ** 2  # exact curves have rounding for noise
    variance = (float(residual @ residual) / (points - 3) + floor) * np.linalg.pinv(design.T @ design)[2, 2]
    return float(2 * stats.t.sf(abs(coefficients[2]) / np.sqrt(variance), points - 3)) if variance > 0 else None


def conserved(curve: Curve, ratio: float) -> tuple[float, ...]:
    """U_v - U_s / ratio at each time, ratio = alpha / beta: the same everywhere if the model holds."""
    if not ratio:
        raise ValueError("ratio 0: need alpha / beta, which the model has above 1")
    return tuple(v - s / ratio for s, v in zip(curve.solver, curve.verifier, strict=True))

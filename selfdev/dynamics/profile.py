"""Least squares of exponentials that share a rate, and intervals from the profile over that rate. Pure.

For a given rate, y = u + a e^(-rate t) is linear in everything else, for one curve or for several at once (variable
projection, Golub and Pereyra 1973). So the search is over one number, on a grid that covers every rate the times could
show, then by scipy's bounded minimiser from the best local minima: no starting value, no wrong optimum.

Noise. With standard errors the objective is the weighted sum of squares; where the scatter contradicts them, they are
scaled up (Birge 1932). Without, errors of several curves at one time may have any covariance, which is estimated:
for a given rate all curves have the same regressors, so least squares stays the maximum of the likelihood (Zellner
1962) and the objective is log det of the residual cross products.

Intervals hold every value that the profile likelihood-ratio test keeps, with the t quantile in place of the normal one.
A quantity that is linear for a given rate (limit, forecast, gain) has at each rate an interval in closed form; the
union over all rates that are kept is its profile interval. Where a rate of 0 is kept (a straight line) limits are
unbounded, and the intervals say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import exp, inf, isfinite, log, log1p

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Array = NDArray[np.float64]
Loading = Callable[[Array, Array], tuple[Array, Array]]  # rates, z(T) -> coefficients of (u, a) for a quantity

GRID = 320  # rates searched
STARTS = 4  # local minima refined; noise makes a second one, rounding any number
FINE = 240  # rates of which the intervals are made
SLOWEST = 1e-3  # smallest rate * duration: the curve is a straight line within 0.05 % of its drop
FASTEST = 9.0  # largest rate * shortest step: what is left after one step is 0.01 % of the drop
CONTRADICTED = 0.05  # p-value of chi squared below which given standard errors are widened
RIDGE = 1e-10  # errors of two curves count as correlated by no more than 1 less this
FLOOR = 1e-12  # residuals below this share of a curve's size count as rounding


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; an end is infinite where the data set no bound."""

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether the data tell it at all."""
        return isfinite(self.low) and isfinite(self.high)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean of one quantity over runs that differ in their seed, with its t interval; unbounded with one run."""
    if not values:
        raise ValueError("no values: need at least one run")
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, -inf, inf)
    reach = float(special.stdtrit(len(values) - 1, (1 + confidence) / 2) * np.std(values, ddof=1)) / len(values) ** 0.5
    return Estimate(mean, mean - reach, mean + reach)


@dataclass(frozen=True, slots=True)
class Data:
    """Curves as arrays; time starts at 0."""

    times: Array  # (points,)
    values: Array  # (points, curves)
    precision: Array | None  # (points, curves, curves), inverse covariances; None: noise unknown


@dataclass(frozen=True, slots=True)
class Solved:
    """Everything else, for each of a list of rates. Rows are y = u + a z / z(T), z = e^(-rate t) - 1."""

    rates: Array  # (rates,)
    end: Array  # (rates,), z(T): between -1 and 0
    theta: Array  # (rates, curves, 2): u at time 0 and a, the change until the last time
    covariance: Array  # (rates, 2 curves, 2 curves), of theta; to be scaled
    residual: Array  # (rates, points, curves)
    objective: Array  # (rates,)


def solve(data: Data, rates: Array, pooled: bool = False) -> Solved:
    """Least squares at each rate.

    Args:
        pooled: noise unknown and too few points for its covariance: curves count by their squared range.
    """
    z = np.expm1(-rates[:, None] * data.times[None, :])
    basis = np.stack([np.ones_like(z), z / z[:, -1:]], axis=2)  # (rates, points, 2)
    if data.precision is not None:
        return _weighted(data, data.precision, rates, z[:, -1], basis)
    return _unweighted(data, rates, z[:, -1], basis, pooled)


def _weighted(data: Data, precision: Array, rates: Array, end: Array, basis: Array) -> Solved:
    """Noise known: every curve at every time is a row, whitened."""
    n, curves = data.values.shape
    whiten = np.linalg.cholesky(precision).transpose(0, 2, 1)  # (points, curves, curves)
    rows = whiten[None, :, :, :, None] * basis[:, :, None, None, :]
    design = rows.reshape(len(rates), n * curves, 2 * curves)
    target = np.einsum("ijk,ik->ij", whiten, data.values).ravel()
    turned = design.transpose(0, 2, 1)
    inverse: Array = np.asarray(np.linalg.inv(turned @ design), dtype=np.float64)
    theta = (inverse @ (turned @ target)[:, :, None])[:, :, 0]
    white = target - (design @ theta[:, :, None])[:, :, 0]
    shaped = theta.reshape(len(rates), curves, 2)
    residual = data.values - basis @ shaped.transpose(0, 2, 1)
    return Solved(rates, end, shaped, inverse, residual, (white**2).sum(axis=1))


def _unweighted(data: Data, rates: Array, end: Array, basis: Array, pooled: bool) -> Solved:
    """Noise unknown: all curves have the same regressors."""
    curves = data.values.shape[1]
    turned = basis.transpose(0, 2, 1)
    inverse = np.linalg.inv(turned @ basis)
    theta = inverse @ (turned @ data.values)  # (rates, 2, curves)
    residual = data.values - basis @ theta
    size = _sizes(data)
    cross = residual.transpose(0, 2, 1) @ residual + np.diag((FLOOR * size) ** 2)
    cross += RIDGE * cross * np.eye(curves)
    covariance = (cross[:, :, None, :, None] * inverse[:, None, :, None, :]).reshape(-1, 2 * curves, 2 * curves)
    scaled = cross / np.outer(size, size)
    objective = np.trace(scaled, axis1=1, axis2=2) if pooled else np.linalg.slogdet(scaled)[1]
    return Solved(rates, end, theta.transpose(0, 2, 1), covariance, residual, objective)


def _sizes(data: Data) -> Array:
    """Of each curve, above 0: its range, or what rounding leaves of one that stays."""
    span = np.ptp(data.values, axis=0)
    largest = np.abs(data.values).max(axis=0)
    return np.asarray(np.where(largest > 0, np.maximum(span, 1e-9 * largest), 1.0), dtype=np.float64)


class Spent(float, Enum):
    """Degrees of freedom that a quantity of two curves with unknown noise costs: t has (points - spent) of them.

    For the rate, exact when linearised: with the rate known the other combination of the curves is a covariate (growth
    curve model, Rao 1965), so two of the regression, the rate and the covariate count. For the ratio, exact: the
    conserved combination is a constant under any rate. Between these, chosen so that simulated intervals cover.
    """

    RATE = 4.0
    GAIN = 4.0
    LIMIT = 3.5
    GAP_LIMIT = 3.25
    RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Profile:
    """The best fit and every rate that the test keeps, with how far each is from the best."""

    data: Data
    confidence: float
    best: Solved  # of one rate
    kept: Solved
    rise: Array  # (kept rates,), of the objective; empty where the noise cannot be told from so few points
    rate: Estimate
    straight: bool  # whether a rate of 0 is kept: no levelling off is seen
    scatter: float | None  # chi squared per degree of freedom; None without standard errors

    def estimate(
        self, curves: Mapping[int, float], loading: Loading, spent: Spent = Spent.GAIN, limit: bool = False
    ) -> Estimate:
        """A quantity that is linear in u and a of the curves.

        Args:
            curves: weight per curve, e.g. {0: 1, 1: -1} for the difference.
            loading: coefficients of u and a per rate.
            spent: which quantity it is.
            limit: it runs off as the rate goes to 0.
        """
        value = float(_rows(self.best, curves, loading)[0] @ self.best.theta[0].ravel())
        if not len(self.rise):
            return Estimate(value, -inf, inf)
        inside, slack = self._slack(spent)
        rows = _rows(self.kept, curves, loading)
        centre = np.einsum("rp,rp->r", rows, self.kept.theta.reshape(len(rows), -1))
        variance = np.einsum("rp,rpq,rq->r", rows, self.kept.covariance, rows)
        reach = np.sqrt(np.maximum(variance, 0.0) * slack)
        lows, highs = np.where(inside, centre - reach, inf), np.where(inside, centre + reach, -inf)
        runs_off = limit and self.straight and bool(inside[0])
        low = -inf if runs_off and int(lows.argmin()) == 0 else float(lows.min())
        high = inf if runs_off and int(highs.argmax()) == 0 else float(highs.max())
        return Estimate(value, min(low, value), max(high, value))

    def ratio(self, over: int, under: int) -> Estimate:
        """Drop of one curve over the drop of another: every ratio that the test keeps (Fieller 1954)."""
        value = _divide(float(self.best.theta[0, over, 1]), float(self.best.theta[0, under, 1]))
        if not len(self.rise):
            return Estimate(value, -inf, inf)
        inside, slack = self._slack(Spent.RATIO)
        top, bottom = self.kept.theta[inside, over, 1], self.kept.theta[inside, under, 1]
        i, j = 2 * over + 1, 2 * under + 1
        c = self.kept.covariance[inside] * slack[inside, None, None]
        # (top - x bottom)^2 <= c_ii - 2 x c_ij + x^2 c_jj
        square, middle, constant = bottom**2 - c[:, j, j], top * bottom - c[:, i, j], top**2 - c[:, i, i]
        if np.any(square <= 0):
            return Estimate(value, -inf, inf)
        root = np.sqrt(np.maximum(middle**2 - square * constant, 0.0))
        low, high = float(((middle - root) / square).min()), float(((middle + root) / square).max())
        return Estimate(value, min(value, low), max(value, high))

    def _slack(self, spent: Spent) -> tuple[NDArray[np.bool_], Array]:
        """Which rates are kept for a quantity, and the squared reach that each leaves, in units of its variance."""
        left = _room(self.data, self.confidence, spent, self.scatter) - self.rise
        inside = left >= 0
        inside[int(self.rise.argmin())] = True
        left = np.maximum(left, 0.0)
        return inside, left if self.data.precision is not None else np.expm1(left)


def _divide(top: float, bottom: float) -> float:
    return top / bottom if bottom else inf


def _rows(solved: Solved, curves: Mapping[int, float], loading: Loading) -> Array:
    u, a = loading(solved.rates, solved.end)
    rows = np.zeros((len(solved.rates), solved.theta.shape[1], 2))
    for index, weight in curves.items():
        rows[:, index, 0], rows[:, index, 1] = weight * u, weight * a
    return rows.reshape(len(rows), -1)


def at_time(time: float) -> Loading:
    """The curve at a time (0 is the first measurement); infinity is the limit."""

    def loading(rates: Array, end: Array) -> tuple[Array, Array]:
        z = np.full_like(rates, -1.0) if time == inf else np.expm1(-rates * time)
        return np.ones_like(rates), z / end

    return loading


def drop_between(start: float, stop: float) -> Loading:
    """How much the curve falls between two times."""

    def loading(rates: Array, end: Array) -> tuple[Array, Array]:
        (u, first), (_, second) = at_time(start)(rates, end), at_time(stop)(rates, end)
        return 0.0 * u, first - second

    return loading


def best_rate(data: Data, pooled: bool = False) -> float:
    """The rate of the best fit: grid, then bounded minimisation from its best local minima."""
    grid = rate_grid(data.times)
    values = solve(data, grid, pooled).objective
    padded = np.concatenate([[inf], values, [inf]])
    starts = np.flatnonzero((padded[1:-1] <= padded[:-2]) & (padded[1:-1] < padded[2:])).tolist()
    starts = sorted(starts, key=lambda i: float(values[i]))[:STARTS]
    found = [(float(values[i]), float(grid[i])) for i in starts]
    for i in starts:
        bounds = (log(grid[max(i - 1, 0)]), log(grid[min(i + 1, GRID - 1)]))
        result = optimize.minimize_scalar(
            lambda x: float(solve(data, np.array([exp(x)]), pooled).objective[0]),
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-9},
        )
        found.append((float(result.fun), exp(float(result.x))))
    return min(found)[1] if found else float(grid[0])


def rate_grid(times: Array) -> Array:
    """Every rate that the times could show, evenly in its logarithm."""
    return np.geomspace(SLOWEST / times[-1], FASTEST / np.diff(times).min(), GRID)


def profile(data: Data, confidence: float = 0.95, fewest: int | None = None) -> Profile:
    """Best fit and intervals.

    Args:
        fewest: points from which on unknown noise is estimated; default: 4 for one curve, 6 for several.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: need a value strictly between 0 and 1")
    points, curves = data.values.shape
    few = data.precision is None and points < (fewest or (4 if curves == 1 else 6))
    best = solve(data, np.array([best_rate(data, pooled=few)]), pooled=few)
    value, lowest = float(best.rates[0]), float(best.objective[0])
    if few:
        return Profile(data, confidence, best, best, np.empty(0), Estimate(value, 0.0, inf), True, None)
    scatter = _scatter(data, lowest)
    low, high = _kept_rates(data, value, lowest + _room(data, confidence, Spent.RATE, scatter))
    grid = rate_grid(data.times)
    straight, sudden = low <= grid[0], high >= grid[-1]
    kept = solve(data, np.unique(np.concatenate([np.geomspace(low, high, FINE), [value]])))
    rise = np.maximum(kept.objective - lowest, 0.0)
    rate = Estimate(value, 0.0 if straight else low, inf if sudden else high)
    return Profile(data, confidence, best, kept, rise, rate, straight, scatter)


def _scatter(data: Data, lowest: float) -> float | None:
    """Chi squared per degree of freedom; None where the noise is unknown or nothing is left."""
    points, curves = data.values.shape
    freedom = points * curves - 2 * curves - 1
    return lowest / freedom if data.precision is not None and freedom else None


def _room(data: Data, confidence: float, spent: Spent, scatter: float | None) -> float:
    """How far the objective may rise above its minimum."""
    upper = (1 + confidence) / 2
    points, curves = data.values.shape
    if data.precision is not None:
        return widening(data, scatter) * float(special.ndtri(upper)) ** 2
    freedom = points - (spent if curves > 1 else 3)
    return log1p(float(special.stdtrit(freedom, upper)) ** 2 / freedom)


def widening(data: Data, scatter: float | None) -> float:
    """Factor on given variances: 1, or the scatter where chi squared contradicts them."""
    points, curves = data.values.shape
    freedom = points * curves - 2 * curves - 1
    if scatter is None or float(special.chdtrc(freedom, scatter * freedom)) >= CONTRADICTED:
        return 1.0
    return scatter


def _kept_rates(data: Data, best: float, bound: float) -> tuple[float, float]:
    """The outermost rates whose objective is within the bound."""
    grid = np.unique(np.append(rate_grid(data.times), best))
    inside = np.flatnonzero((solve(data, grid).objective <= bound) | (grid == best))
    first, last = int(inside[0]), int(inside[-1])

    def edge(inner: float, outer: float) -> float:
        def excess(x: float) -> float:
            return float(solve(data, np.array([exp(x)])).objective[0]) - bound

        if excess(log(inner)) >= 0 or excess(log(outer)) <= 0:  # apart by rounding only, in exact data
            return inner if excess(log(inner)) >= 0 else outer
        return exp(float(optimize.brentq(excess, log(inner), log(outer), xtol=1e-7)))

    low = float(grid[0]) if first == 0 else edge(float(grid[first]), float(grid[first - 1]))
    high = float(grid[-1]) if last == len(grid) - 1 else edge(float(grid[last]), float(grid[last + 1]))
    return low, high

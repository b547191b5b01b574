"""Which model forecasts held-out points: one rate, a rate each, or no change. Pure.

In-sample R2 cannot choose: every exponential fits a smooth curve. So models are fitted to the first points of a curve
and judged by what comes after, from every origin in its second half (rolling origin).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from selfdev.dynamics.curves import Curve
from selfdev.dynamics.fit import data
from selfdev.dynamics.profile import Data, at_time, best_rate, solve

Array = NDArray[np.float64]

FEWEST_TRAINED = 4  # points behind a forecast: with three, every exponential passes through all of them


class Model(StrEnum):
    """What is fitted; `persistence` is the null: the last values stay."""

    SHARED = "one rate"
    FREE = "a rate each"
    PERSISTENCE = "persistence"


@dataclass(frozen=True, slots=True)
class Forecasts:
    """How one model forecasts one curve."""

    model: Model
    error: float  # root mean square over origins, later points, solver and verifier; in shares of each curve's range
    won: int  # origins from which it was the best
    origins: int


def forecast(curve: Curve, model: Model, times: Sequence[float]) -> tuple[list[float], list[float]]:
    """Solver and verifier at later times."""
    both = data(curve)
    later = [time - curve.times[0] for time in times]
    values = _FORECASTS[model](both, later)
    return values[:, 0].tolist(), values[:, 1].tolist()


def held_out_error(curve: Curve, model: Model, train: int) -> float:
    """Root mean square error of all points after the first `train`, in shares of each curve's range."""
    if not FEWEST_TRAINED <= train < len(curve):
        raise ValueError(f"train {train} of {len(curve)} points: need {FEWEST_TRAINED} to {len(curve) - 1}")
    solver, verifier = forecast(curve.first(train), model, curve.times[train:])
    true = data(curve).values
    spans = np.ptp(true, axis=0)
    errors = (np.column_stack([solver, verifier]) - true[train:]) / np.where(spans > 0, spans, 1.0)
    return float(np.sqrt((errors**2).mean()))


def compare(curve: Curve) -> list[Forecasts] | None:
    """All models by rolling origin, best first; None below five points."""
    origins = range(max(FEWEST_TRAINED, (len(curve) + 1) // 2), len(curve))
    if not origins:
        return None
    errors = {model: [held_out_error(curve, model, train) for train in origins] for model in Model}
    counts = [len(curve) - train for train in origins]
    best = [min(Model, key=lambda model: errors[model][i]) for i in range(len(origins))]
    rows = [
        Forecasts(model, _pooled(errors[model], counts), sum(b is model for b in best), len(origins)) for model in Model
    ]
    return sorted(rows, key=lambda row: row.error)


def _pooled(errors: Sequence[float], counts: Sequence[int]) -> float:
    """Root mean square over all forecast points."""
    return float(np.sqrt(np.average(np.square(errors), weights=counts)))


def _one_rate(both: Data, later: Sequence[float]) -> Array:
    pooled = both.precision is None and len(both.times) < 6
    solved = solve(both, np.array([best_rate(both, pooled)]), pooled)
    columns = []
    for time in later:
        u, a = at_time(time)(solved.rates, solved.end)
        columns.append(solved.theta[0, :, 0] * u[0] + solved.theta[0, :, 1] * a[0])
    return np.array(columns)


def _rate_each(both: Data, later: Sequence[float]) -> Array:
    columns = []
    for curve in range(both.values.shape[1]):
        precision = (
            None if both.precision is None else 1 / np.linalg.inv(both.precision)[:, curve, curve][:, None, None]
        )
        columns.append(_one_rate(Data(both.times, both.values[:, curve : curve + 1], precision), later)[:, 0])
    return np.column_stack(columns)


def _no_change(both: Data, later: Sequence[float]) -> Array:
    return np.repeat(both.values[-1:], len(later), axis=0)


_FORECASTS: dict[Model, Callable[[Data, Sequence[float]], Array]] = {
    Model.SHARED: _one_rate,
    Model.FREE: _rate_each,
    Model.PERSISTENCE: _no_change,
}

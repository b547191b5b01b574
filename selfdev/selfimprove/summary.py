"""What came of a self-improvement: the table, the forecast from its beginning, the effect of external answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite, isnan
from typing import Any

from rich.table import Table

from selfdev.dynamics import Curve, Estimate, Model, cross, fit, forecast
from selfdev.dynamics.compare import FEWEST_TRAINED
from selfdev.selfimprove.improve import Improvement
from selfdev.selfimprove.measure import Point, level_errors, summary, table, to_curve
from selfdev.selfimprove.settings import ImproveConfig

FITTED = ("one_rate", "a_rate_each", "r2_one_rate", "equal_rates_p", "forecast")
CHANGE = {"score": "J(f)", "solver": "U_s", "verifier": "U_v"}


def points_table(points: Sequence[Point]) -> Table:
    """One row per measurement; +- is the standard error of the row alone, over questions. Fits 80 columns."""
    heads = ("time", "U_s", "U_v", "gap", "all", "tokens", "J(f)", r"J(f\[w])", "pass@N", "kept", "cut")
    found = Table(
        *heads, title="measurement questions", title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    for point in points:
        found.add_row(
            f"{point.time:.3g}",
            _with_error(point, "solver"),
            _with_error(point, "verifier"),
            _number(point.gap, 2),
            _number(point.mean("solver_all"), 2),
            f"{_number(point.mean('tokens'), 0)} {_number(point.mean('selected_tokens'), 0)}",
            _number(point.mean("score"), 3),
            _number(point.mean("selected_score"), 3),
            _number(point.mean("any_right"), 3),
            f"{point.kept}/{len(point.questions)}",
            f"{point.mean('truncated'):.0%}",
        )
    found.caption = (
        "uncertainty in nats: U_s and U_v over samples that ended, of the questions of which the verifier keeps one "
        "(kept); all: U_s over all samples; tokens: of a sample, of the selected one; J: share of right answers; "
        "cut: share of samples that the token limit cut"
    )
    found.caption_justify = "left"
    return found


def _number(value: float, digits: int) -> str:
    return "-" if isnan(value) else f"{value:.{digits}f}"


def _with_error(point: Point, name: str) -> str:
    error = float(level_errors(table([point], name))[0])
    return _number(point.mean(name), 2) + ("" if isnan(error) else f" ±{error:.2f}")


def end_forecast(curve: Curve, until: float) -> dict[str, Any] | None:
    """The last point forecast from the points up to a time, by each model; None where there are too few of them.

    Misses are in shares of the curve's change from its first to its last point; above 0: too little change forecast.
    """
    count = sum(time <= until for time in curve.times)
    if not FEWEST_TRAINED <= count < len(curve):
        return None
    early, end = curve.first(count), curve.times[-1]
    rows: dict[str, Any] = {}
    for model in Model:
        values = {name: v[0] for name, v in zip(("solver", "verifier"), forecast(early, model, [end]), strict=True)}
        rows[model.value] = {name: {"value": v, "miss": _miss(curve, name, v)} for name, v in values.items()}
    intervals = dict(zip(("solver", "verifier"), fit(early).at(end), strict=True))
    return {
        "from": [curve.times[0], early.times[-1]],
        "points": count,
        "to": end,
        "actual": {"solver": curve.solver[-1], "verifier": curve.verifier[-1]},
        "models": rows,
        "interval_one_rate": {name: as_json(estimate) for name, estimate in intervals.items()},
    }


def _miss(curve: Curve, name: str, value: float) -> float | None:
    values: tuple[float, ...] = getattr(curve, name)
    change = values[-1] - values[0]
    return (values[-1] - value) / change if change else None


def result(config: ImproveConfig, done: Improvement) -> dict[str, Any]:
    """Everything found, as JSON."""
    curve = to_curve(done.points)
    rows = [trained.external for trained in done.trained]
    constant = cross.gamma_of_epochs([point.mean("verifier") for point in done.ends], rows)
    return {
        "points": [summary(point) for point in done.points],
        "train_points": [summary(point) for point in done.train_points],
        "trained": [asdict(trained) for trained in done.trained],
        **(dict.fromkeys(FITTED) if curve is None else fits(curve, config)),
        "external": {"rows": rows, "gamma": None if constant is None else as_json(constant)},
    }


def fits(curve: Curve, config: ImproveConfig) -> dict[str, Any]:
    """What is fitted to the curve of the measurement questions, as JSON; its keys are `FITTED`."""
    found = fit(curve, seed=config.seed)
    names = ("rate", "ratio", "gap_limit", "solver_limit", "verifier_limit", "next_gain")
    return {
        "one_rate": {name: as_json(getattr(found, name)) for name in names},
        "a_rate_each": {
            name: {"rate": as_json(alone.rate), "limit": as_json(alone.limit), "r2": alone.r2}
            for name, alone in (("solver", found.solver_alone), ("verifier", found.verifier_alone))
        },
        "r2_one_rate": list(found.r2),
        "equal_rates_p": found.equal_rates_p,
        "forecast": end_forecast(curve, config.early_end),
    }


def as_json(estimate: Estimate) -> dict[str, float | None]:
    """null where a bound is infinite."""
    return {name: value if isfinite(value) else None for name, value in asdict(estimate).items()}


def lines(config: ImproveConfig, found: dict[str, Any]) -> list[str]:
    """What a user reads below the tables."""
    said = []
    first, last = found["points"][0], found["points"][-1]
    changed = {word: last[n] - first[n] for n, word in CHANGE.items() if None not in (first[n], last[n])}
    said.append("change over all epochs: " + ", ".join(f"{word} {value:+.3f}" for word, value in changed.items()))
    if found["one_rate"] is None:
        said.append("no fit: at fewer than 3 measurements the verifier kept a sample; lower --threshold, or give more "
                    "--max-new-tokens")  # fmt: skip
    ahead = found["forecast"]
    if ahead is not None:
        told = ", ".join(
            f"{model} U_s {row['solver']['value']:.3f} U_v {row['verifier']['value']:.3f}"
            for model, row in ahead["models"].items()
        )
        actual = ahead["actual"]
        said.append(
            f"forecast of time {ahead['to']:g} from the {ahead['points']} points up to {ahead['from'][1]:g}: {told}; "
            f"measured: U_s {actual['solver']:.3f} U_v {actual['verifier']:.3f}"
        )
    if any(found["external"]["rows"]):
        said.append(f"external answers per epoch: {', '.join(map(str, found['external']['rows']))}{_gamma_text(found)}")
    said.append(
        "intervals above are about the shape of the curve on these questions, which are asked every time, not about "
        "the level on other questions"
    )
    return said


def _gamma_text(found: dict[str, Any]) -> str:
    gamma = found["external"]["gamma"]
    if gamma is None:
        return ""
    span = "one round: no interval" if gamma["low"] is None else f"{gamma['low']:.3f} to {gamma['high']:.3f}"
    return f"; gamma {gamma['value']:.3f} ({span}), what the model taught itself in these epochs included"

"""`selfdev gap`: a run's gap (`gap_run`); the solver-verifier gap model fitted to measured curves, or simulated.

A curves file is CSV with a header. Needed: `time` (or `epoch`, or `iteration`), `solver`, `verifier` (uncertainties in
nats, lower is better). Optional: `solver_se` and `verifier_se` (standard errors), with `correlation` (of both errors),
`score` (accuracy, higher is better; empty where it was not measured) with `score_se`, `assessed` (the model's own
judgement, higher is better), and `setting`, `seed`: rows that share both are one curve. Times may be any numbers; they
need not be whole or evenly spaced.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from io import StringIO
from math import inf, isfinite
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from selfdev.cli.gap_run import Group, gap_of_run
from selfdev.errors import DataError, UsageError

if TYPE_CHECKING:
    from selfdev.dynamics import Alarm, Curve, Estimate, Forecasts, GapFit

TIMES = ("time", "epoch", "iteration")
NEEDED = ("solver", "verifier")
OPTIONAL = ("solver_se", "verifier_se", "score", "score_se", "assessed")
MAY_BE_EMPTY = ("score", "score_se")
GROUPS = ("setting", "seed")
QUANTITIES = {
    "rate": "rate, k (alpha - beta)",
    "ratio": "alpha / beta",
    "gap_limit": "limit of the gap, b / k",
    "solver_limit": "limit of the solver",
    "verifier_limit": "limit of the verifier",
    "solver_left": "solver: still to gain",
    "next_gain": "solver: gain of one more step",
}

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    subcommand_metavar="RUN | COMMAND [ARGS]...",
    help="Solver-verifier gap: `selfdev gap RUN` shows a run's. Or fit measured curves, simulate the model.",
)
app.command("run")(gap_of_run)


@app.command("fit")
def fit(
    curves: Annotated[Path, typer.Argument(help="A .csv file: time, solver, verifier, ...", metavar="CURVES.csv")],
    step: Annotated[float, typer.Option("--step", help="One more iteration, in the file's units of time.")] = 1.0,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="A next gain (nats) that counts as none; default: 1 % of the drop so far."),
    ] = None,
    confidence: Annotated[float, typer.Option("--confidence", help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap test.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Fit one rate, a rate each and no change; forecast held-out points; say whether one more iteration pays."""
    from selfdev.dynamics import blind_spot, compare
    from selfdev.dynamics import fit as fit_curve

    _check(step, tolerance, confidence)
    read, ignored = read_curves(curves)
    console = Console(soft_wrap=False)
    results = []
    for curve in read:
        found, alarm, forecasts = fit_curve(curve, step, confidence, seed), blind_spot(curve), compare(curve)
        results.append((found, alarm, forecasts))
        if not as_json:
            print_fit(console, found, alarm, forecasts, tolerance)
    if as_json:
        records = [fit_record(*result, tolerance) for result in results]
        typer.echo(json.dumps({"curves": records, "ignored_columns": ignored}, indent=2, allow_nan=False))
        return
    for table in _across_seeds([found for found, _, _ in results]):
        console.print(table)
    if ignored:
        console.print(f"columns that no fit needs: {', '.join(ignored)}", markup=False, highlight=False)


def _check(step: float, tolerance: float | None, confidence: float) -> None:
    if not 0 < step < inf:
        raise UsageError(f"--step {step}: need a number above 0")
    if tolerance is not None and not 0 <= tolerance < inf:
        raise UsageError(f"--tolerance {tolerance}: need 0 or more")
    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence}: need a value strictly between 0 and 1")


# -- reading ----------------------------------------------------------------------------------------------------------


def read_curves(path: Path) -> tuple[list[Curve], list[str]]:
    """The file's curves, in the order in which they begin, and the columns that are not used.

    Raises:
        DataError: no such file, a missing column, a value that is no number, a curve that cannot be fitted.
    """
    if not path.exists() or path.is_dir():  # a pipe will do
        raise DataError(f"no file {path}; give a .csv file with the columns time, solver, verifier")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path} is no text in UTF-8; give a .csv file with the columns time, solver, verifier")
    reader = csv.DictReader(StringIO(text, newline=""), restkey="", skipinitialspace=True)
    try:
        header = [name.strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = header
        time = _time_column(header, path)
        groups: dict[tuple[str, ...], list[dict[str, float | None]]] = {}
        used = [time, *NEEDED, *(name for name in (*OPTIONAL, "correlation") if name in header)]
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if row.get(""):
                raise DataError(f"{place}: more values than columns")
            key = tuple((row.get(name) or "").strip() for name in GROUPS)
            groups.setdefault(key, []).append({name: _cell(row[name], name, place) for name in used})
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    if not groups:
        raise DataError(f"{path} holds no rows below its header")
    ignored = [name for name in header if name not in used and name not in GROUPS]
    return [_curve(key, rows, time, path) for key, rows in groups.items()], ignored


def _time_column(header: Sequence[str], path: Path) -> str:
    found = ", ".join(name for name in header if name) or "none"
    times = [name for name in TIMES if name in header]
    for name in NEEDED:
        if name not in header:
            raise DataError(f"{path}: column {name!r} is missing; found columns: {found}")
    if not times:
        raise DataError(f"{path}: column 'time' (or 'epoch', 'iteration') is missing; found columns: {found}")
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        raise DataError(f"{path}: column {repeated[0]!r} occurs twice")
    return times[0]


def _cell(text: str | None, name: str, place: str) -> float | None:
    return None if name in MAY_BE_EMPTY and not (text or "").strip() else _number(text, name, place)


def _number(text: str | None, name: str, place: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = inf
    if not isfinite(value):
        raise DataError(f"{place}: column {name!r} holds {text!r}; a finite number is needed")
    return value


def _curve(key: tuple[str, ...], rows: list[dict[str, float | None]], time: str, path: Path) -> Curve:
    from selfdev.dynamics import Curve

    rows = sorted(rows, key=lambda row: row[time] or 0.0)
    columns: dict[str, Any] = {name: tuple(row[name] for row in rows) for name in rows[0]}
    columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    name = _name(key)
    correlations = sorted(set(columns.pop("correlation", (0.0,))))
    if len(correlations) > 1:
        raise DataError(f"{path}{f', {name}' if name else ''}: one correlation per curve is needed, got several")
    try:
        return Curve(times=columns.pop(time), name=name, correlation=correlations[0], **columns)
    except ValueError as error:
        hint = "; is a column setting or seed missing?" if "ascend" in str(error) else ""
        raise DataError(f"{path}{f', {name}' if name else ''}: {error}{hint}") from error


def _name(key: tuple[str, ...]) -> str:
    setting, seed = key
    return ", ".join(part for part in (setting, f"seed {seed}" if seed else "") if part)


# -- printing ---------------------------------------------------------------------------------------------------------


def print_fit(
    console: Console, found: GapFit, alarm: Alarm | None, forecasts: list[Forecasts] | None, tolerance: float | None
) -> None:
    """A fit's tables, tests, alarm, advice, and what its points cannot tell."""
    from selfdev.dynamics import notes

    console.print(_quantities(found), _alone(found))
    if forecasts is not None:
        console.print(_forecasts(forecasts))
    lines = [*_tests(found), *_alarm(alarm), f"advice: {_advice(found, alarm, tolerance)}"]
    for line in [*lines, *(f"note: {note}" for note in notes(found))]:
        console.print(line, markup=False, highlight=False)
    console.print()


def _quantities(found: GapFit) -> Table:
    title = f"{found.curve.name or 'curve'}: {len(found.curve)} points, one rate; noise: {found.noise}"
    table = Table("quantity", "value", f"{100 * found.confidence:g} % interval", title=title, title_justify="left")
    for name, words in QUANTITIES.items():
        estimate: Estimate = getattr(found, name)
        table.add_row(words, _value(estimate), _interval(estimate, positive=name in ("rate", "ratio")))
    table.caption = (
        f"R2: solver {found.r2[0]:.4f}, verifier {found.r2[1]:.4f} (high for any smooth curve). Still to gain, and the "
        f"gain of a step of {found.step:g}: from time {found.now:g} on"
    )
    table.caption_justify = "left"
    return table


def _alone(found: GapFit) -> Table:
    heads = ("a rate each", "rate", "interval", "limit", "interval", "R2")
    table = Table(*heads)
    for name, single in (("solver", found.solver_alone), ("verifier", found.verifier_alone), ("gap", found.gap_alone)):
        rate, limit = single.rate, single.limit
        table.add_row(name, _value(rate), _interval(rate, True), _value(limit), _interval(limit), f"{single.r2:.4f}")
    return table


def _forecasts(forecasts: Sequence[Forecasts]) -> Table:
    table = Table("held-out forecast", "error", "best from")
    for row in forecasts:
        table.add_row(row.model, f"{row.error:.4f}", f"{row.won} of {row.origins} origins")
    table.caption = "error: root mean square, in shares of each curve's range"
    table.caption_justify = "left"
    return table


def _tests(found: GapFit) -> Iterator[str]:
    if found.equal_rates_p is not None:
        yield f"same rate for solver and verifier: p {found.equal_rates_p:.3f}"
    if found.line_bend_p is not None:
        yield f"straight line in the (U_v, U_s) plane: R2 {found.line_r2:.4f}, p {found.line_bend_p:.3f}"


def _alarm(alarm: Alarm | None) -> Iterator[str]:
    if alarm is None:
        yield "alarm: cannot be given without a score (four points, or two with score_se)"
    elif alarm.fired:
        before = "after a rise, " if alarm.rose_before else ""
        yield (
            f"ALARM: {before}the score falls by {-alarm.fall:.3g} from time {alarm.since:g} on (p {alarm.p_value:.2g}) "
            f"while self-assessed quality rises by {alarm.rise:.3g}"
        )
    else:
        yield f"alarm: silent (a fall of the score: p {alarm.p_value:.2g})"


def _advice(found: GapFit, alarm: Alarm | None, tolerance: float | None) -> str:
    from selfdev.dynamics import advise, default_tolerance

    least = default_tolerance(found.curve) if tolerance is None else tolerance
    return f"{advise(found, alarm, least)} (tolerance {least:.3g} nats)"


def _value(estimate: Estimate) -> str:
    return f"{estimate.value:.4g}" if isfinite(estimate.value) else "none"


def _interval(estimate: Estimate, positive: bool = False) -> str:
    """Bounds as text; for a positive quantity a lower end of 0 is no bound."""
    low = isfinite(estimate.low) and not (positive and estimate.low <= 0)
    if low and isfinite(estimate.high):
        return f"{estimate.low:.4g} to {estimate.high:.4g}"
    if low:
        return f"above {estimate.low:.4g}"
    return f"below {estimate.high:.4g}" if isfinite(estimate.high) else "not told"


def _across_seeds(fits: Sequence[GapFit]) -> Iterator[Table]:
    """Per setting with several seeds: mean over the seeds, with the t interval of that mean."""
    settings: dict[str, list[GapFit]] = {}
    for found in fits:
        if "seed " in found.curve.name:
            settings.setdefault(found.curve.name.rpartition("seed ")[0].rstrip(", "), []).append(found)
    for setting, group in settings.items():
        if len(group) > 1:
            yield _seed_table(setting, group)


def _seed_table(setting: str, group: Sequence[GapFit]) -> Table:
    from selfdev.dynamics import mean_interval

    table = Table("quantity", "mean over seeds", "interval", "standard deviation")
    table.title, table.title_justify = f"{setting or 'all'}: {len(group)} seeds", "left"
    for name, words in QUANTITIES.items():
        values = [getattr(found, name).value for found in group]
        if all(map(isfinite, values)):
            estimate = mean_interval(values, group[0].confidence)
            table.add_row(words, _value(estimate), _interval(estimate), f"{stdev(values):.3g}")
    return table


def fit_record(
    found: GapFit, alarm: Alarm | None, forecasts: list[Forecasts] | None, tolerance: float | None
) -> dict[str, Any]:
    """One curve's results as JSON; null where a bound is infinite."""
    from selfdev.dynamics import advise, default_tolerance, notes

    least = default_tolerance(found.curve) if tolerance is None else tolerance
    singles = {"solver": found.solver_alone, "verifier": found.verifier_alone, "gap": found.gap_alone}
    return {
        "name": found.curve.name,
        "points": len(found.curve),
        "noise": found.noise.name.lower(),
        "confidence": found.confidence,
        "one_rate": {name: _json(getattr(found, name)) for name in QUANTITIES},
        "r2": {"solver": found.r2[0], "verifier": found.r2[1]},
        "alone": {
            name: {"rate": _json(single.rate), "limit": _json(single.limit), "r2": single.r2}
            for name, single in singles.items()
        },
        "equal_rates_p": found.equal_rates_p,
        "line": {"r2": found.line_r2, "bend_p": found.line_bend_p},
        "scatter": found.scatter,
        "forecasts": forecasts and [asdict(row) for row in forecasts],
        "alarm": alarm and asdict(alarm),
        "now": found.now,
        "step": found.step,
        "tolerance": least,
        "advice": advise(found, alarm, least).name.lower(),
        "notes": notes(found),
    }


def _json(estimate: Estimate) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in asdict(estimate).items()}


# -- simulating -------------------------------------------------------------------------------------------------------


@app.command("simulate")
def simulate(
    alpha: Annotated[float, typer.Option("--alpha", help="Speed of the solver.")] = 1.0,
    beta: Annotated[float, typer.Option("--beta", help="Speed of the verifier; below alpha.")] = 0.5,
    k: Annotated[float, typer.Option("--k", help="Energy per nat of gap.")] = 0.8,
    b: Annotated[float, typer.Option("--b", help="Energy that a gap of 0 lacks.")] = 1.6,
    solver: Annotated[float, typer.Option("--solver", help="Solver's uncertainty at time 0, in nats.")] = 30.0,
    verifier: Annotated[float, typer.Option("--verifier", help="Verifier's uncertainty at time 0.")] = 23.0,
    points: Annotated[int, typer.Option("--points", "-n", help="Measurements, the start included.")] = 21,
    until: Annotated[float, typer.Option("--until", help="Time of the last.")] = 10.0,
    noise: Annotated[float, typer.Option("--noise", help="Standard deviation, in shares of each curve's drop.")] = 0.0,
    correlation: Annotated[float, typer.Option("--correlation", help="Of the two curves' errors.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the noise.")] = 0,
    external: Annotated[
        str | None,
        typer.Option("--external", help="Shares of outside verification, one a round (1,0,0); replaces points, until."),
    ] = None,
    gamma: Annotated[float, typer.Option("--gamma", help="Strength of outside verification.")] = 0.1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A .csv file; default: print it.")] = None,
) -> None:
    """Write curves of the model, for `selfdev gap fit` and for plans; standard errors are written beside noise."""
    from selfdev.dynamics import Curve, GapModel, add_noise, cross_rounds

    if points < 3 or not 0 < until < inf:
        raise UsageError(f"--points {points}, --until {until}: need at least 3 points and a time above 0")
    try:
        model = GapModel(alpha, beta, k, b, solver, verifier)
        times = [until * i / (points - 1) for i in range(points)]
        states = [model.at(time) for time in times]
        if external is not None:
            states = cross_rounds(model, gamma, _shares(external))
            times = [float(i) for i in range(len(states))]
        clean = Curve(tuple(times), tuple(s for s, _ in states), tuple(v for _, v in states))
        deviations = (noise * _span(clean.solver), noise * _span(clean.verifier))
        curve = add_noise(clean, deviations, correlation, seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _write(_csv(curve, deviations, correlation), output)


def _shares(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--external {text!r}: need numbers with commas, one share a round") from None


def _span(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _csv(curve: Curve, deviations: tuple[float, float], correlation: float) -> str:
    if not min(deviations) > 0:
        return curves_text([curve])
    solver_se, verifier_se = ((deviation,) * len(curve) for deviation in deviations)
    return curves_text([replace(curve, solver_se=solver_se, verifier_se=verifier_se, correlation=correlation)])


def curves_text(curves: Sequence[Curve]) -> str:
    """A curves file, which `read_curves` reads: columns that no curve has are left out, names are settings."""
    rows = [row for curve in curves for row in _rows(curve)]
    names = ("setting", "time", *NEEDED, "solver_se", "verifier_se", "correlation", "score", "score_se", "assessed")
    columns = [name for name in names if any(row[name] for row in rows) or name in ("time", *NEEDED)]
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)
    return stream.getvalue()


def _rows(curve: Curve) -> Iterator[dict[str, str]]:
    columns = {"time": curve.times, "correlation": (curve.correlation if curve.has_errors else None,) * len(curve)}
    columns |= {name: getattr(curve, name) or (None,) * len(curve) for name in (*NEEDED, *OPTIONAL)}
    for i in range(len(curve)):
        cells = {name: "" if values[i] is None else f"{values[i]:.10g}" for name, values in columns.items()}
        yield {"setting": curve.name} | cells


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    from selfdev.rundir import check_writable, write_atomic

    check_writable(output)
    write_atomic(output, text)
    typer.echo(f"curves: {output}")

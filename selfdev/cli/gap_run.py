"""`selfdev gap RUN`: the solver-verifier gap of a run, from its samples and judgements; also at its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from selfdev.cli.show import RunPath, open_store
from selfdev.store import STOPPED

if TYPE_CHECKING:
    from selfdev.config import RunConfig
    from selfdev.gap_records import Gap, Gaps, Quantity
    from selfdev.report.plot import Panel
    from selfdev.store import Store


class Group(TyperGroup):
    """A group whose first word may be a run directory instead of a command: `gap RUN` is `gap run RUN`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names; `run` where it is a path and no command."""
        if args and args[0] not in self.commands and ("/" in args[0] or Path(args[0]).exists()):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


def gap_of_run(
    run: RunPath,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Samples selected from; default: the run's.")] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0.0, max=1.0, help="Least score; default: the run's.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0.0, help="A next gain (nats) that counts as none; default: 1 % of the drop."),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the curves into this .svg file.")] = None,
    curves: Annotated[Path | None, typer.Option("--csv", help="Write the curves for `selfdev gap fit`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """A run's gap over time and verifier, its fit, the next gain, stop advice; also as `selfdev gap RUN`."""
    from selfdev.report.gap import gap_tables
    from selfdev.rundir import check_writable, read_run_config, write_atomic

    for path in (plot, curves):
        if path is not None:
            check_writable(path)
    config = read_run_config(run)
    changed = {name: value for name, value in (("n", n), ("threshold", threshold)) if value is not None}
    config = config.model_copy(update={"gap": config.gap.model_copy(update=changed)})
    with open_store(run) as store:
        rows = {row["iteration"]: row for row in store.iterations()}
        gaps, gains = _points(store, config, {i: {} if changed else row["gap"] for i, row in rows.items()})
        stopped = store.get_meta(STOPPED)
    if plot is not None:
        from selfdev.report.plot import svg

        write_atomic(plot, svg(panels(gaps, gains, config.gap.verifiers)))
    written = None if curves is None else _csv(gaps, gains, config.gap.verifiers)
    if curves is not None and written is not None:
        write_atomic(curves, written)
    if as_json:
        record = _record(
            gaps,
            gains,
            {i: row["temperature"] for i, row in rows.items()},
            config.gap.verifiers,
            config.gap.confidence,
            tolerance,
        )
        typer.echo(json.dumps(record | {"stopped": stopped}, indent=2, allow_nan=False))
        return
    console = Console()
    for table in gap_tables(gaps, gains, config.gap.confidence):
        console.print(table)
    if not any(gaps.values()):
        _line(console, "no closed iteration with two samples yet")
    _print_fits(console, gaps, gains, config.gap.verifiers, config.gap.confidence, tolerance)
    if stopped is not None:
        _line(console, f"the run ended early, after iteration {stopped}")
    if plot is not None:
        _line(console, f"plot: {plot}")
    if curves is not None:
        none = "none has three points at one temperature; not written: "
        _line(console, f"curves: {none * (written is None)}{curves}")


def _points(
    store: Store, config: RunConfig, rows: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[float, Mapping[str, Gap]], dict[int, Quantity]]:
    """Gaps by time and gains by iteration: as the rows hold them, or measured again where they hold none."""
    from selfdev.gap_records import is_current, recorded, recorded_inside
    from selfdev.verify import gain_over_seed, measure_inside, measure_iteration

    gaps: dict[float, Mapping[str, Gap]] = {}
    gains: dict[int, Quantity] = {}
    for i, record in rows.items():
        if is_current(record):
            gaps[i], gains[i] = recorded(record)
            gaps |= recorded_inside(record)
        else:
            gaps[i], gains[i] = measure_iteration(store, config, i), gain_over_seed(store, config, i)
            gaps |= measure_inside(store, config, i)
    return gaps, gains


def _csv(gaps: Gaps, gains: Mapping[int, Quantity], names: tuple[str, ...]) -> str | None:
    """The curves that are fitted, as a curves file, one setting per verifier; None where there is none."""
    from selfdev.cli.gap import curves_text
    from selfdev.gap import curve_of

    found = (curve_of({t: g[name] for t, g in gaps.items() if name in g}, gains) for name in names)
    curves = [curve for curve in found if curve is not None]
    return curves_text(curves) if curves else None


def _print_fits(
    console: Console, gaps: Gaps, gains: Mapping[int, Quantity], names: tuple[str, ...], confidence: float,
    tolerance: float | None,
) -> None:  # fmt: skip
    from selfdev.cli.gap import print_fit
    from selfdev.dynamics import compare
    from selfdev.verify import fitted, no_fit

    for name in names:
        found = fitted(gaps, gains, name, confidence)
        if found is None:
            _line(console, f"{name}: {no_fit(gaps, name)}")
        else:
            print_fit(console, found.fit, found.alarm, compare(found.curve), tolerance)


def _record(
    gaps: Gaps, gains: Mapping[int, Quantity], temperatures: Mapping[int, float], names: tuple[str, ...],
    confidence: float, tolerance: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Quantities as {value, low, high, se}; null where not told."""
    from dataclasses import asdict

    from selfdev.cli.gap import fit_record
    from selfdev.dynamics import compare
    from selfdev.gap_records import COUNTS
    from selfdev.verify import fitted

    fits = {}
    for name in names:
        found = fitted(gaps, gains, name, confidence)
        fits[name] = None if found is None else fit_record(found.fit, found.alarm, compare(found.curve), tolerance)
    told = {
        time: {
            name: {count: getattr(gap, count) for count in COUNTS}
            | {key: asdict(q) for key, q in gap.quantities.items()}
            for name, gap in measured.items()
        }
        for time, measured in gaps.items()
    }
    rows = [
        {"iteration": i, "temperature": temperatures[i], "gain": asdict(gain), "verifiers": told[i]}
        for i, gain in gains.items()
    ]
    inside = [{"time": time, "verifiers": found} for time, found in told.items() if time not in gains]
    return {"confidence": confidence, "iterations": rows, "inside": inside, "fits": fits}


def panels(gaps: Gaps, gains: Mapping[int, Quantity], names: tuple[str, ...]) -> list[Panel]:
    """Per verifier: uncertainties, also at checkpoints, and gains over the seed, at the iterations."""
    from selfdev.report.plot import Panel, Series

    def curve(label: str, quantities: Mapping[float, Quantity]) -> Series:
        return Series(label, [(float(t), q.value, q.low, q.high) for t, q in quantities.items() if q.value is not None])

    result = []
    for name in names:
        found = {time: measured[name] for time, measured in gaps.items() if name in measured}

        def series(label: str, key: str, found: Mapping[float, Gap] = found) -> Series:
            return curve(label, {time: gap.quantities[key] for time, gap in found.items() if key in gap.quantities})

        heats = {gap.temperature for gap in found.values()}
        mixed = " (temperatures differ)" if len(heats) > 1 else ""
        nll = [series("U_s", "solver_nll"), series("U_v", "verifier_nll"), series("G", "nll_gap")]
        programs = curve("a program", {i: gain for i, gain in gains.items() if i in found})
        result.append(Panel(f"{name}: uncertainty, nats{mixed}", "iteration", nll))
        result.append(
            Panel(f"{name}: gain over the seed", "iteration", [programs, series("best of N", "verifier_gain")])
        )
    return result


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)

"""`selfdev gap RUN`: the solver-verifier gap of a run, from its samples and judgements."""

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
    from selfdev.gap_records import Gap, Quantity
    from selfdev.report.plot import Panel


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """A run's gap per iteration and verifier, its fit, the next gain, stop advice; also as `selfdev gap RUN`."""
    from selfdev.gap_records import recorded
    from selfdev.report.gap import gap_tables
    from selfdev.rundir import check_writable, read_run_config, write_atomic
    from selfdev.verify import gain_over_seed, measure_iteration

    if plot is not None:
        check_writable(plot)
    config = read_run_config(run)
    changed = {name: value for name, value in (("n", n), ("threshold", threshold)) if value is not None}
    config = config.model_copy(update={"gap": config.gap.model_copy(update=changed)})
    with open_store(run) as store:
        rows = {row["iteration"]: row for row in store.iterations()}
        measured = {i: recorded({} if changed else row["gap"]) for i, row in rows.items()}
        gaps = {i: found or measure_iteration(store, config, i) for i, (found, _) in measured.items()}
        gains = {i: gain if found else gain_over_seed(store, config, i) for i, (found, gain) in measured.items()}
        stopped = store.get_meta(STOPPED)
    if plot is not None:
        from selfdev.report.plot import svg

        write_atomic(plot, svg(panels(gaps, gains, config.gap.verifiers)))
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


def _print_fits(
    console: Console, gaps: Mapping[int, Mapping[str, Gap]], gains: Mapping[int, Quantity], names: tuple[str, ...],
    confidence: float, tolerance: float | None,
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
    gaps: Mapping[int, Mapping[str, Gap]], gains: Mapping[int, Quantity], temperatures: Mapping[int, float],
    names: tuple[str, ...], confidence: float, tolerance: float | None,
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
    rows = [
        {
            "iteration": i,
            "temperature": temperatures[i],
            "gain": asdict(gains[i]),
            "verifiers": {
                name: {count: getattr(gap, count) for count in COUNTS}
                | {key: asdict(q) for key, q in gap.quantities.items()}
                for name, gap in measured.items()
            },
        }
        for i, measured in gaps.items()
    ]
    return {"confidence": confidence, "iterations": rows, "fits": fits}


def panels(gaps: Mapping[int, Mapping[str, Gap]], gains: Mapping[int, Quantity], names: tuple[str, ...]) -> list[Panel]:
    """Per verifier: uncertainties, and gains over the seed."""
    from selfdev.report.plot import Panel, Series

    def curve(label: str, quantities: Mapping[int, Quantity]) -> Series:
        return Series(label, [(float(i), q.value, q.low, q.high) for i, q in quantities.items() if q.value is not None])

    result = []
    for name in names:
        found = {i: measured[name] for i, measured in gaps.items() if name in measured}

        def series(label: str, key: str, found: Mapping[int, Gap] = found) -> Series:
            return curve(label, {i: gap.quantities[key] for i, gap in found.items()})

        heats = {gap.temperature for gap in found.values()}
        mixed = " (temperatures differ)" if len(heats) > 1 else ""
        nll = [series("U_s", "solver_nll"), series("U_v", "verifier_nll"), series("G", "nll_gap")]
        programs = curve("a program", {i: gains[i] for i in found})
        result.append(Panel(f"{name}: uncertainty, nats{mixed}", "iteration", nll))
        result.append(
            Panel(f"{name}: gain over the seed", "iteration", [programs, series("best of N", "verifier_gain")])
        )
    return result


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)

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
    from selfdev.report.gap import gap_tables
    from selfdev.rundir import check_writable, read_run_config, write_atomic
    from selfdev.verify import gain_over_seed, measure_iteration

    if plot is not None:
        check_writable(plot)
    config = read_run_config(run)
    changed = {name: value for name, value in (("n", n), ("threshold", threshold)) if value is not None}
    config = config.model_copy(update={"gap": config.gap.model_copy(update=changed)})
    with open_store(run) as store:
        closed = {row["iteration"]: row["temperature"] for row in store.iterations()}
        gaps = {i: measure_iteration(store, config, i) for i in closed}
        gains = {i: gain_over_seed(store, config, i) for i in closed}
        stopped = store.get_meta(STOPPED)
    if plot is not None:
        from selfdev.report.plot import svg

        write_atomic(plot, svg(panels(gaps, config.gap.verifiers)))
    if as_json:
        record = _record(gaps, gains, closed, config.gap.verifiers, config.gap.confidence, tolerance)
        typer.echo(json.dumps(record | {"stopped": stopped}, indent=2, allow_nan=False))
        return
    console = Console()
    for table in gap_tables(gaps, config.gap.confidence):
        console.print(table)
    if not any(gaps.values()):
        _line(console, "no closed iteration with two samples yet")
    _print_fits(console, gaps, gains, config.gap.verifiers, config.gap.confidence, tolerance)
    heats = sorted(set(closed.values()), reverse=True)
    if len(heats) > 1:
        said = ", ".join(f"{heat:.3g}" for heat in closed.values())
        _line(
            console,
            f"note: samples were drawn at temperatures {said}, their NLL is at temperature 1: colder samples have a "
            "lower NLL without any learning, so part of a fall of U_s and U_v is the schedule's",
        )
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
    from selfdev.verify import fitted

    for name in names:
        found = fitted(gaps, gains, name, confidence)
        if found is None:
            count = sum(name in measured for measured in gaps.values())
            _line(console, f"{name}: {count} iterations measured; a fit needs three")
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
                name: {"samples": gap.samples, "scored": gap.scored, "kept": gap.kept, "n": gap.n}
                | {key: asdict(q) for key, q in gap.quantities.items()}
                for name, gap in measured.items()
            },
        }
        for i, measured in gaps.items()
    ]
    return {"confidence": confidence, "iterations": rows, "fits": fits}


def panels(gaps: Mapping[int, Mapping[str, Gap]], names: tuple[str, ...]) -> list[Panel]:
    """Per verifier: uncertainties, and dev scores."""
    from selfdev.report.plot import Panel, Series

    def series(name: str, key: str, label: str) -> Series:
        found = ((i, measured[name].quantities[key]) for i, measured in gaps.items() if name in measured)
        return Series(label, [(float(i), q.value, q.low, q.high) for i, q in found if q.value is not None])

    result = []
    for name in names:
        nll = [series(name, "solver_nll", "U_s"), series(name, "verifier_nll", "U_v"), series(name, "nll_gap", "G")]
        scores = [series(name, "solver_score", "J(f)"), series(name, "verifier_score", "J(f[w])")]
        result.append(Panel(f"{name}: uncertainty, nats", "iteration", nll))
        result.append(Panel(f"{name}: dev score", "iteration", scores))
    return result


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)

"""`selfdev control` and `selfdev baselines`: what the same budget finds without the method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from selfdev.cli.config import Assignments, ConfigFile, Preset, Seed, resolve
from selfdev.cli.run import plain
from selfdev.cli.show import RunPath
from selfdev.cli.test import begun, opened
from selfdev.errors import UsageError

if TYPE_CHECKING:
    from selfdev.evaluation import Run

Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Repeat with so many seeds.")]


def control(
    arm: Annotated[str, typer.Argument(help="untrained, grammar, random, tpe, cma or tuned.", metavar="CONTROL")],
    run: RunPath,
    seeds: Seeds = 1,
) -> None:
    """Run an equal-budget control into the store of a finished run, and print both side by side."""
    from selfdev.controls import ARMS
    from selfdev.controls import control as run_control
    from selfdev.report.arms import arms_table

    if arm not in ARMS:
        raise UsageError(f"there is no control {arm!r}; allowed: {', '.join(ARMS)}")
    console = Console()
    with opened(run, console) as work:
        budget = work.store.evaluations("generated")
        times = "" if seeds == 1 else f", {seeds} times"
        plain(console, f"control {arm}: at most the run's {budget} question-evaluations on dev{times}")
        for repeat in range(seeds):
            run_control(work, arm, repeat)
        console.print(arms_table(work.store))


def baselines(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run directory; without one, --preset or --config begins one.", metavar="RUN"),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Tune: with the run's question-evaluations, or with --budget.")
    ] = False,
    budget: Annotated[
        int | None, typer.Option("--budget", min=1, help="Question-evaluations of --tune; a larger one goes on.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="These methods only; may be repeated.")] = None,
    seeds: Seeds = 1,
    preset: Preset = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    seed: Seed = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Where --preset begins; default runs/PRESET-baselines-seedN.")
    ] = None,
) -> None:
    """Score the human-designed merges at their defaults on the last dev block of a run; with --tune, tune them."""
    from selfdev.loop import score_baselines
    from selfdev.methods import NAMES, evaluate_methods, method_rows, methods_table
    from selfdev.study import cost_line
    from selfdev.tuning import SOUP, check_block

    begins = preset is not None or config is not None
    if begins == (run is not None):
        raise UsageError("give either a run directory, or --preset or --config for a new one")
    if not begins and (assignments or seed is not None or run_dir is not None):
        raise UsageError("--set, --seed and --run-dir belong to --preset or --config; a run's configuration is fixed")
    if tune and budget is None:
        if run is None or only:
            raise UsageError("--tune here needs --budget N: with the budget of a run, RUN is needed and --only is not")
        control("tuned", run, seeds)
        return
    if seeds > 1 or (budget is not None and not tune):
        raise UsageError("--seeds repeats --tune without --budget; --budget belongs to --tune")
    names = only or ([*NAMES, SOUP] if tune else list(NAMES))
    known = (*NAMES, SOUP) if tune else NAMES
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no baseline {name!r}{'' if tune else ' without --tune'}; there are: {', '.join(known)}"
            )
    console = Console()
    if run is not None:
        place, work = run, opened(run, console)
    else:
        resolved = resolve(preset, config, assignments, seed, None, None, None)
        if budget is not None:
            check_block(resolved.task.dev_size)
            _check_budget(budget, resolved.task.dev_size)
        place = run_dir or Path("runs") / f"{config.stem if config else preset}-baselines-seed{resolved.seed}"
        work = begun(place, resolved, console)
    with work as opened_run:
        score_baselines(opened_run)  # a run may have been stopped before
        if budget is not None:
            _tune(opened_run, names, budget, console)
        else:
            count, size = len(method_rows(opened_run, names)), len(opened_run.block_of(0))
            plain(console, f"{count} programs x {size} questions: {cost_line(opened_run.store, count * size)}")
            evaluate_methods(opened_run, names)
            console.print(methods_table(opened_run.store, names))
    if run is None:
        plain(console, f"recorded in {place}")


def _tune(run: Run, names: list[str], budget: int, console: Console) -> None:
    from selfdev.study import cost_line
    from selfdev.tuning import KIND, check_block, tune, tuned_table

    size, spent = len(run.block_of(0)), run.store.evaluations(KIND)
    check_block(size)
    _check_budget(budget, size)
    recorded = f", {spent} of their answers recorded; the rest" if spent else ""
    cost = cost_line(run.store, max(0, budget - spent))
    plain(console, f"tuning, {budget // size} programs x {size} questions{recorded}: {cost}")
    tune(run, names, budget)
    console.print(tuned_table(run, names))


def _check_budget(budget: int, size: int) -> None:
    if budget < size:
        raise UsageError(f"--budget {budget} given; one program answers {size} dev questions, so that is the least")

"""`selfdev control` and `selfdev baselines`: what the same budget finds without the method."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from selfdev.cli.run import plain
from selfdev.cli.show import RunPath
from selfdev.cli.test import opened
from selfdev.errors import UsageError

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
    run: RunPath,
    tune: Annotated[bool, typer.Option("--tune", help="Tune all methods with the run's question-evaluations.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="These methods only; may be repeated.")] = None,
    seeds: Seeds = 1,
) -> None:
    """Score the human-designed merges at their defaults on the run's last dev block; with --tune, tune them all."""
    from selfdev.baselines.registry import METHODS, method
    from selfdev.methods import evaluate_methods, methods_table

    names = [row.name for row in METHODS]
    for name in only or []:
        method(name)
    if tune:
        if only:
            raise UsageError("--tune spends the run's budget over all methods; leave out --only")
        control("tuned", run, seeds)
        return
    console = Console()
    with opened(run, console) as work:
        evaluate_methods(work, only or names)
        console.print(methods_table(work.store, only or names))

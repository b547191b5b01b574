"""`selfdev ablate`: what in a discovered program matters."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from selfdev.cli.run import plain
from selfdev.cli.show import RunPath
from selfdev.cli.study import AllowSeen, ProgramId, say_where, studied


def ablate(
    run: RunPath,
    program: ProgramId,
    budget: Annotated[
        int, typer.Option("--budget", min=1, help="Question-evaluations at most; more of them resolve smaller losses.")
    ] = 8000,
    allow_seen_questions: AllowSeen = False,
) -> None:
    """Remove each constant, branch and statement in turn, and find the simplest program that is not worse."""
    from selfdev import ablation
    from selfdev.report.ablation import ablation_report, write_simplest
    from selfdev.study import cost_line

    console = Console()
    with studied(run, program, console) as (work, row):
        removals = ablation.removals(row.source or "")
        ablation.check_budget(removals, budget)
        most = ablation.least_budget(len(removals))
        short = f"; too few if all {len(removals)} have to be asked, which need {most}" if budget < most else ""
        plain(console, f"{row.id}: {len(removals)} removals; {cost_line(work.store, budget)}{short}")
        found = ablation.ablate(work, row, budget, allow_seen_questions)
        console.print(ablation_report(found))
        say_where(console, run, write_simplest(run, found), found.simplest.candidate)

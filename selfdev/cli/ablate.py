"""`selfdev ablate`: what in a discovered program matters."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from selfdev.cli.run import plain
from selfdev.cli.show import RunPath
from selfdev.cli.test import opened

ProgramId = Annotated[str, typer.Argument(help="An algorithm's id or its beginning, or `winner`.", metavar="ID")]

AllowSeen = Annotated[
    bool,
    typer.Option(
        "--allow-seen-questions", help="Where the task has no others, ask those that the program was chosen by: unfair."
    ),
]


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
    from selfdev.evaluation import check_ended
    from selfdev.report.ablation import ablation_report, write_simplest
    from selfdev.study import cost_line, subject

    console = Console()
    with opened(run, console) as work:
        check_ended(work.store, work.config)
        row = subject(work.store, program)
        count = len(ablation.removals(row.source or ""))
        plain(console, f"{row.id}: {count} removals; {cost_line(work.store, budget)}")
        found = ablation.ablate(work, row, budget, allow_seen_questions)
        console.print(ablation_report(found))
        path = write_simplest(run, found)
    if path is not None:
        plain(console, f"algorithm: {path}; selfdev show {run} {found.simplest.candidate}")

"""`selfdev polish`: the numbers of a discovered program, tuned."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from selfdev.cli.ablate import AllowSeen, ProgramId
from selfdev.cli.run import plain
from selfdev.cli.show import RunPath
from selfdev.cli.test import opened


def polish(
    run: RunPath,
    program: ProgramId,
    budget: Annotated[
        int,
        typer.Option("--budget", min=1, help="Question-evaluations, and as many for Task Arithmetic, the control."),
    ] = 4000,
    allow_seen_questions: AllowSeen = False,
) -> None:
    """Tune the constants of an algorithm, with Task Arithmetic tuned by the same budget beside it."""
    from selfdev import polish as core
    from selfdev.evaluation import check_ended
    from selfdev.report.polish import constants_table, polish_report, write_polished
    from selfdev.study import HELD_OUT, cost_line, subject

    console = Console()
    with opened(run, console) as work:
        check_ended(work.store, work.config)
        row = subject(work.store, program)
        console.print(constants_table(core.tunable(row.source or "")))
        questions = core.plan(budget)
        whole = 2 * budget + 4 * round(HELD_OUT * questions)
        plain(console, f"{row.id}: {questions} questions; {cost_line(work.store, whole)}, control included")
        found = core.polish(work, row, budget, allow_seen_questions)
        console.print(polish_report(found))
        path = write_polished(run, found)
    if path is not None:
        plain(console, f"algorithm: {path}; selfdev show {run} {found.program.row.id}")

"""`selfdev polish`: the numbers of a discovered program, tuned."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from selfdev.cli.run import plain
from selfdev.cli.show import RunPath
from selfdev.cli.study import AllowSeen, ProgramId, say_where, studied


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
    from selfdev.report.polish import constants_table, polish_report, write_polished
    from selfdev.study import HELD_OUT, cost_line

    console = Console()
    questions = core.plan(budget)
    with studied(run, program, console) as (work, row):
        console.print(constants_table(core.tunable(row.source or "")))
        whole = 2 * budget + 4 * round(HELD_OUT * questions)
        plain(console, f"{row.id}: {questions} questions; {cost_line(work.store, whole)}, control included")
        found = core.polish(work, row, budget, allow_seen_questions)
        console.print(polish_report(found))
        say_where(console, run, write_polished(run, found), found.program.row.id)

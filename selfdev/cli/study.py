"""What `selfdev ablate` and `selfdev polish` share: the program under study, its questions, where the result lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from selfdev.cli.run import plain
from selfdev.cli.test import opened

if TYPE_CHECKING:
    from selfdev.evaluation import Run
    from selfdev.store import CandidateRow

ProgramId = Annotated[str, typer.Argument(help="An algorithm's id or its beginning, or `winner`.", metavar="ID")]

AllowSeen = Annotated[
    bool,
    typer.Option(
        "--allow-seen-questions", help="Where the task has no others, ask those that the program was chosen by: unfair."
    ),
]


@contextmanager
def studied(run: Path, program: str, console: Console) -> Iterator[tuple[Run, CandidateRow]]:
    """A run that has ended, locked for writing, and one of its programs.

    Raises:
        RunError: no run, or it goes on; no such program, or one without a merged model.
    """
    from selfdev.evaluation import check_ended
    from selfdev.study import subject

    with opened(run, console) as work:
        check_ended(work.store, work.config)
        yield work, subject(work.store, program)


def say_where(console: Console, run: Path, path: Path | None, program: str) -> None:
    """The file of the program that a study made, and the command that shows it; nothing where it made none."""
    if path is not None:
        plain(console, f"algorithm: {path}; selfdev show {run} {program}")

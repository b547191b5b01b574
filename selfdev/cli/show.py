"""`selfdev show` and `selfdev top`: read a run. Nothing heavy is imported and nothing is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from selfdev.errors import RunError
from selfdev.report import tables
from selfdev.rundir import read_saved_config
from selfdev.store import FILE_NAME, Store

RunPath = Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")]


def show(
    run: RunPath,
    candidate: Annotated[str | None, typer.Argument(help="An algorithm's id or its beginning.", metavar="[ID]")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Every point of the Task Arithmetic grid.")] = False,
    questions: Annotated[bool, typer.Option("--questions", help="Which questions were used when, by whom.")] = False,
) -> None:
    """Show a run's tables, or one algorithm: source, scores, lineage."""
    console = Console()
    with open_store(run) as store:
        if candidate is not None:
            console.print(tables.candidate_panel(store, candidate))
            return
        if grid or questions:
            console.print(tables.grid_table(store) if grid else tables.question_table(store))
            return
        for iteration in sorted({row.iteration for row in store.candidates() if row.iteration > 0}):
            console.print(tables.iteration_summary(store, iteration))
        console.print(tables.final_tables(store))


def top(
    run: RunPath, count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many algorithms.")] = 10
) -> None:
    """List the best discovered algorithms of a run."""
    with open_store(run) as store:
        Console().print(tables.top_table(store, count))


@contextmanager
def open_store(run: Path) -> Iterator[Store]:
    """The store of a run directory, to be read.

    Raises:
        RunError: no run directory, or its store cannot be read.
    """
    read_saved_config(run)
    if not (run / FILE_NAME).exists():
        raise RunError(f"{run} holds no results of a run (no {FILE_NAME})")
    store = Store(run / FILE_NAME, read_only=True)
    try:
        yield store
    except sqlite3.DatabaseError as error:
        raise RunError(f"{run / FILE_NAME} is damaged: {error}") from None
    finally:
        store.close()

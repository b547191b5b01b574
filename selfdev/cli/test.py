"""`selfdev test` and `selfdev register`: open the sealed test set for what was named before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from selfdev.cli.run import plain, prepare_process
from selfdev.cli.show import RunPath
from selfdev.errors import RunError
from selfdev.rundir import RunDirectory, read_run_config
from selfdev.store import FILE_NAME
from selfdev.types import Split

if TYPE_CHECKING:
    from selfdev.config import RunConfig
    from selfdev.evaluation import Run


def test(run: RunPath) -> None:
    """Score the registered candidates on the sealed test questions: once for the winner, every opening on record."""
    from selfdev import final
    from selfdev.report.test import test_report

    console = Console()
    with opened(run, console) as opened_run:
        store = opened_run.store
        pending = final.waiting(store)
        if pending:
            questions = opened_run.store.question_count(Split.TEST)
            plain(console, f"{len(pending)} candidates on {questions} test questions, opening {store.openings() + 1}")
        final.test(opened_run)
        console.print(test_report(store))


def register(
    run: RunPath, candidates: Annotated[list[str], typer.Argument(help="Ids of algorithms.", metavar="ID...")]
) -> None:
    """Name further algorithms for `selfdev test`, before the test set is opened."""
    from selfdev import final

    config = read_run_config(run)
    with RunDirectory(run, config) as directory:
        directory.begin()
        ids = final.register(directory.store, candidates)
        after = directory.store.openings()
    note = "" if after == 0 else f", after {after} opening(s) of the test set: the report says so"
    plain(Console(), f"registered: {', '.join(ids)}{note}")


@contextmanager
def opened(path: Path, console: Console) -> Iterator[Run]:
    """A finished or unfinished run with its parts, locked for writing.

    Raises:
        RunError: not a run, or nothing is recorded in it.
    """
    config = read_run_config(path)
    if not (path / FILE_NAME).exists():
        raise RunError(f"{path} holds no results yet; `selfdev run` with its configuration continues it")
    with _working(path, config, console) as run:
        yield run


@contextmanager
def begun(path: Path, config: RunConfig, console: Console) -> Iterator[Run]:
    """A run directory, new or of this very configuration, whose baselines have been scored.

    Raises:
        RunError: the directory is something else.
        ModelError, UsageError: the models or the task cannot be used.
    """
    prepare_process(config)
    from selfdev import preflight

    with RunDirectory(path, config):  # refused before anything is loaded
        for warning in preflight.check(config):
            plain(console, str(warning))
    with _working(path, config, console) as run:
        from selfdev.loop import score_baselines

        score_baselines(run)
        yield run


@contextmanager
def _working(path: Path, config: RunConfig, console: Console) -> Iterator[Run]:
    prepare_process(config)
    from selfdev.evaluation import Run
    from selfdev.loop import record_facts
    from selfdev.report.live import RunView
    from selfdev.wiring import build_parts

    with RunDirectory(path, config) as directory:
        with console.status("loading"):
            parts = build_parts(config)
        directory.begin()
        run = Run(config, directory, parts, RunView(console))
        record_facts(run)
        yield run

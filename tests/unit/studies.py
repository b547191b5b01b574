"""A scripted run that studies of its programs begin from: fresh questions, workers that answer them, one that stops."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from selfdev import loop
from selfdev.compute.scripted import ScriptedWorker
from selfdev.evaluation import Run
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.types import Question
from selfdev.wiring import Parts
from tests.scripted import HashedWorker, racing_config, scripted_parts, write_spread

FRESH = tuple(Question(f"fresh-{i}", f"Question: fresh {i}\nAnswer:", str(i + 1), "add") for i in range(400))
ANSWERS = {q.prompt: f" #### {q.gold}" for q in FRESH}

Quality = Callable[[str], float | None]


def study_parts(
    planted: tuple[str, ...],
    quality: Quality,
    workers: list[ScriptedWorker] | None = None,
    worker_class: type[HashedWorker] = HashedWorker,
) -> Parts:
    """Parts for `racing_config` whose first programs of the first iteration are these, with fresh questions."""

    def sample(index: int, temperature: float, adapter: Path | None) -> str:
        if adapter is None and index < len(planted):
            return planted[index] + "```"
        return write_spread(index, temperature, adapter)

    parts = scripted_parts(sample, quality, 3, workers, worker_class)
    inner = parts.open_worker

    @contextmanager
    def open_worker() -> Iterator[ScriptedWorker]:
        with inner() as worker:
            assert isinstance(worker, ScriptedWorker)
            worker._answers |= ANSWERS
            yield worker

    return replace(parts, open_worker=open_worker, fresh=lambda first, count: FRESH[first : first + count])


@contextmanager
def opened(path: Path, parts: Parts) -> Iterator[Run]:
    """A run of two iterations with these parts, begun or continued."""
    config = racing_config(iterations=2)
    with open(os.devnull, "w") as sink, RunDirectory(path, config) as directory:
        directory.begin()
        yield Run(config, directory, parts, RunView(Console(file=sink)))


def finish(path: Path, parts: Parts) -> Path:
    """The run, to its end."""
    with opened(path, parts) as run:
        loop.run(run.config, run.directory, run.parts, run.view)
    return path


class Stop(Exception):
    """A process ends."""


class Stopping(HashedWorker):
    """Ends the process after so many programs."""

    left = 0

    def run(self, *args):  # type: ignore[no-untyped-def]
        self._count()
        return super().run(*args)

    def again(self, *args):  # type: ignore[no-untyped-def]
        self._count()
        return super().again(*args)

    def _count(self) -> None:
        Stopping.left -= 1
        if Stopping.left < 0:
            raise Stop


def in_pieces(path: Path, parts: Parts, each: int, study: Callable[[Run], Any]) -> tuple[Any, Any, int]:
    """Begin a study again and again, stopped after so many programs: (its result, the store, how often it was stopped).

    `parts` have workers of the class `Stopping`.
    """
    stops = 0
    while True:
        Stopping.left = each
        with opened(path, parts) as run:
            try:
                return study(run), run.store.dump(), stops
            except Stop:
                stops += 1


def printed(what: RenderableType, width: int = 140) -> str:
    """As people see it."""
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(what)
    return console.export_text()

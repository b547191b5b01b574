"""What a run shows while it works. Progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from selfdev.report import tables
from selfdev.rundir import RunDirectory
from selfdev.store import Store


class RunView:
    """Shows phases, iterations and the final tables on one console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def phase(
        self, directory: RunDirectory, iteration: int, name: str, total: int | None
    ) -> Iterator[Callable[[int], None]]:
        """Show one phase and record its wall-clock time; yields a function that advances the bar."""
        label = f"iteration {iteration} · {name}" if iteration else name
        begun = time.monotonic()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        directory.log(f"{label}: begins")
        quiet = not self.console.is_terminal  # else rich leaves an empty line of every bar in a log
        with Progress(*columns, console=self.console, transient=True, disable=quiet) as progress:
            task = progress.add_task(label, total=total)
            yield lambda count: progress.advance(task, count)
        seconds = time.monotonic() - begun
        directory.store.add_seconds(iteration, name, seconds)
        directory.log(f"{label}: {seconds:.1f} s")
        self.console.print(f"{label}: {seconds:.1f} s", style="dim")

    def note(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def iteration(self, store: Store, iteration: int) -> None:
        """One iteration's summary."""
        self.console.print(tables.iteration_summary(store, iteration))

    def final(self, store: Store) -> None:
        """The tables at the end of a run."""
        self.console.print(tables.final_tables(store))

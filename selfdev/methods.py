"""Every human-designed method at its defaults, scored beside the run's best: on the same questions, same executor."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from selfdev.baselines.registry import METHODS, WRAPPERS, defaults, method, programs
from selfdev.estimates import final_rows
from selfdev.evaluation import Run, evaluate_listed
from selfdev.generate import stream_seed
from selfdev.stats import paired_gain
from selfdev.store import CandidateRow, Store, program_row

KIND = "method"
NAMES = tuple(row.name for row in (*METHODS, *WRAPPERS))


def evaluate_methods(run: Run, names: Sequence[str]) -> None:
    """Score methods that are not scored yet; a random method with each of its seeds."""
    rows = method_rows(run, names)
    run.store.add_candidates(rows)
    ids = {row.id for row in rows}
    evaluate_listed(run, [row for row in run.store.candidates(0, KIND) if row.id in ids])


def method_rows(run: Run, names: Sequence[str]) -> list[CandidateRow]:
    """A row for each program; its index is the method's place in the table, so that any selection gives the same."""
    sources = len(run.config.models.sources)
    places = {row.name: 10 * place for place, row in enumerate((*METHODS, *WRAPPERS))}
    rows = []
    for name in names:
        if method(name).sources[0] > sources or name in ("zero", "single_source"):
            continue
        for number, source in enumerate(programs(name, defaults(name, sources))):
            index = places[name] + number
            rows.append(program_row(KIND, name, 0, index, source, stream_seed(run.config.seed, KIND, 0, index)))
    return rows


def methods_table(store: Store, names: Sequence[str]) -> Table:
    """Method, paper, score with its gain over the seed, best first; what failed comes last with the reason."""
    seed, verdicts = final_rows(store, KIND)
    counts = store.final_counts()
    table = Table(
        title=f"human-designed merges at their defaults on {len(seed)} dev questions", title_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    for column in ("method", "score", "gain", "95 % (paired)", "paper"):
        table.add_column(
            column, justify="left" if column in ("method", "paper") else "right", no_wrap=column != "paper"
        )
    rows = [row for row in store.candidates(0, KIND) if row.name in set(names)]
    for row in sorted(rows, key=lambda row: (-(counts[row.id].correct if row.id in counts else -1), row.index)):
        paper = method(row.name).paper.removeprefix("https://")
        answered = verdicts.get(row.duplicate_of or row.id)
        if answered is None:
            table.add_row(row.name, "-", "-", f"{row.status}: {(row.error or '')[:40]}", paper)
            continue
        gain, low, high = paired_gain(answered, seed)
        table.add_row(
            row.name, f"{sum(answered) / len(answered):.3f}", f"{gain:+.3f}",
            f"{low:+.3f} to {high:+.3f}", paper,
        )  # fmt: skip
    return table

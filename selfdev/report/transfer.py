"""A transfer for people: every program on the other models beside the seed and the tuned baselines."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfdev import tuning
from selfdev.estimates import best_baseline, final_rows
from selfdev.report.tables import printable
from selfdev.report.test import noise_floor, provenance
from selfdev.score import Score
from selfdev.stats import paired_gain
from selfdev.store import CandidateRow, Store
from selfdev.transfer import KIND, rank_correlation
from selfdev.types import Split


def transfer_report(store: Store) -> RenderableType:
    """The table, the rank correlation, what was spent on tuning."""
    return Group(_table(store), Text(_correlation(store), style="bold"), Text(noise_floor(store), style="dim"))


def ranking(store: Store) -> list[CandidateRow]:
    """Transferred programs with a score here, best first; equals keep the order of their run."""
    counts = store.final_counts()
    rows = [row for row in store.candidates(0, KIND) if row.id in counts and row.refused is None]
    return sorted(rows, key=lambda row: (-counts[row.id].correct, row.index))


def _table(store: Store) -> Table:
    dev, test, baseline = store.final_counts(), store.counts(Split.TEST), best_baseline(store, tuning.KIND)
    seed, verdicts = _verdicts(store)
    tuned = verdicts.get(baseline.id)
    here = {row.id: place for place, row in enumerate(ranking(store), start=1)}
    table = Table(title=f"transferred, on {len(store.final_places())} dev questions that all answered",
                  title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))  # fmt: skip
    table.add_column("program", overflow="fold", min_width=12)
    columns = ["there", "here", "dev, 95 %", "- seed", "- baseline"]
    for column in columns + (["test, 95 %"] if test else []):
        table.add_column(column, justify="right", no_wrap=True)

    def add(name: str, row: CandidateRow, there: str) -> None:
        owner = row.duplicate_of or row.id
        if owner not in verdicts:
            failed = f"{name}\n{row.status}: {printable(row.error or '')[:60]}"
            table.add_row(Text(failed), there, "-", "-", "-", "-")
            return
        cells = [there, str(here.get(row.id, "")), _share(dev.get(row.id)), _gain(verdicts[owner], seed)]
        cells.append("" if tuned is None or owner == baseline.id else _gain(verdicts[owner], tuned))
        table.add_row(name, *cells, *([_share(test.get(owner))] if test else []))

    for row in store.candidates(0, KIND):
        add(row.name.split(",")[0], row, str(row.index))
    table.add_section()
    for row in store.baselines():
        if row.kind in ("seed", "source", "mean") or row.id == baseline.id:
            add(f"best baseline: {row.name}" if row.id == baseline.id else row.name, row, "")
    if baseline.kind == tuning.KIND:
        add(f"best baseline: {baseline.name}", baseline, "")
    table.caption = (
        f"there: rank in its run; here: rank among these. Best baseline: of those of every run and of methods re-tuned "
        f"here with {store.evaluations(tuning.KIND)} question-evaluations; chosen on these questions, so its dev score "
        f"is too good. Differences: paired, with 95 % intervals of one comparison each. {provenance(store)}"
    )
    table.caption_justify = "left"
    return table


def _verdicts(store: Store) -> tuple[list[bool], dict[str, list[bool]]]:
    rows: dict[str, list[bool]] = {}
    seed: list[bool] = []
    for kind in dict.fromkeys(row.kind for row in store.candidates(0)):
        seed, found = final_rows(store, kind)
        rows |= found
    return seed, rows


def _share(counted: Score | None) -> str:
    if counted is None:
        return "-"
    low, high = counted.interval
    return f"{counted.correct / counted.total:.3f}\n{low:.3f}-{high:.3f}"


def _gain(row: Sequence[bool], other: Sequence[bool]) -> str:
    gain, low, high = paired_gain(row, other)
    return f"{gain:+.3f}\n{low:+.3f}..{high:+.3f}"


def _correlation(store: Store) -> str:
    counts, rows = store.final_counts(), sorted(ranking(store), key=lambda row: row.index)
    found = rank_correlation([row.index for row in rows], [counts[row.id].correct for row in rows])
    if found is None:
        return f"no rank correlation: {len(rows)} of {len(store.candidates(0, KIND))} programs have a score to compare"
    rho, p_value = found
    return f"rank there against score here, {len(rows)} programs: Spearman {rho:+.2f}, p {p_value:.2g} (permutations)"

"""What dev says about the best candidates beside the seed: as measured, and shrunken; and which human-designed merge it
puts first. Reads the store, no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfdev.shrink import Gain, intact, shrunken_gains
from selfdev.stats import AnswerRow
from selfdev.store import CandidateRow, Store


def final_rows(store: Store, kind: str = "generated") -> tuple[list[bool], dict[str, list[bool]]]:
    """Verdicts on the questions of the finals: the seed's, and those of every candidate that answered all of them."""
    places = store.final_places()
    seed = store.seed_verdicts(0)
    kept = [seed[i] for i in places] if seed else []
    return kept, _complete(_final_verdicts(store, kind), places)


def final_gains(store: Store, kind: str = "generated") -> dict[str, Gain]:
    """Candidate id -> gain over the seed in the finals, pulled towards the others' by the share that is luck.

    Broken merges are left out: they would hide that the others differ by noise alone.
    """
    seed, rows = final_rows(store, kind)
    original = {row.id for row in store.candidates(kind=kind) if row.duplicate_of is None and row.refused is None}
    rows = {i: row for i, row in rows.items() if i in original}
    if len(seed) < 2 or not rows:
        return {}
    names = list(rows)
    picked = [names[i] for i in intact(seed, [rows[name] for name in names])]
    if len(picked) < 2:
        return {}
    return dict(zip(picked, shrunken_gains(seed, [rows[name] for name in picked]), strict=True))


def best_baseline(store: Store, *kinds: str) -> CandidateRow:
    """The human-designed merge with the best dev score in the finals; the first of equals.

    Merges with too many answers cut by the token limit (`refused`) count only where there are no others.

    Args:
        store: of a run whose baselines are scored.
        kinds: further programs of iteration 0 that take part, after the baselines of every run. What a command added
            to a run ("method", "tuning") does not by itself.
    """
    rows = [*store.baselines(), *(row for kind in kinds for row in store.candidates(0, kind))]
    counts = store.final_counts()
    scored = [row for row in rows if row.kind != "seed" and row.duplicate_of is None and row.id in counts]
    return max(scored, key=lambda row: (row.refused is None, counts[row.id].correct))


def _final_verdicts(store: Store, kind: str) -> Mapping[str, AnswerRow]:
    table: dict[str, AnswerRow] = {}
    for iteration in sorted({row.iteration for row in store.candidates(kind=kind)}):
        table |= store.verdicts(iteration, kind, 0)
    return table


def _complete(rows: Mapping[str, AnswerRow], places: Sequence[int]) -> dict[str, list[bool]]:
    found = {name: [row[i] for i in places] for name, row in rows.items()}
    return {name: [bool(v) for v in row] for name, row in found.items() if None not in row}

"""What is said of test results: paired tests with Holm's correction, worked by hand, and when there is no winner."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from rich.console import Console

from selfdev.power import Verdict
from selfdev.report import test as reports
from selfdev.store import QuestionRow, Store
from selfdev.types import Answer, Completion, ExecutionStatus, Outcome, Split
from tests.unit.builders import row

SEED, BASELINE = row(0, iteration=0, kind="seed"), row(1, iteration=0, kind="mean")
WINNER, NAMED, OTHER = row(0), row(1), row(2)


def right(*places: int | range) -> list[bool]:
    """Verdicts on 20 questions."""
    those = {p for place in places for p in (place if isinstance(place, range) else [place])}
    return [i in those for i in range(20)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store.sqlite")
    opened.add_questions([QuestionRow("d", Split.DEV, "h", "add")])
    opened.add_questions([QuestionRow(f"t{i}", Split.TEST, "h", "add", turn=i) for i in range(20)])
    opened.add_candidates([SEED, BASELINE, WINNER, NAMED, OTHER])
    for i in (SEED, BASELINE, WINNER, NAMED, OTHER):
        opened.record_outcome(i.id, Outcome(ExecutionStatus.OK, result_hash=i.id), None)
    yield opened
    opened.close()


def fill(store: Store, rows: Mapping[str, list[bool]]) -> None:
    """Register and test: role -> verdicts."""
    ids = {"winner": WINNER.id, "seed": SEED.id, "baseline": BASELINE.id, f"named {NAMED.id}": NAMED.id}
    store.register({role: ids[role] for role in rows})
    store.add_opening("2026-01-01T00:00:00+00:00", [ids[role] for role in rows], 20)
    for role, marks in rows.items():
        answers = [Answer(f"t{i}", Completion("x", 1, False), "x", mark) for i, mark in enumerate(marks)]
        store.add_answers(ids[role], answers)


def text_of(store: Store) -> str:
    with open(os.devnull, "w") as sink:
        console = Console(record=True, width=200, file=sink)
        console.print(reports.test_report(store))
        return console.export_text()


def test_p_values_are_adjusted_for_all_comparisons(store: Store) -> None:
    """Four comparisons, exact McNemar then Holm:

    winner - seed      8 won 0 lost   2 / 2^8            = 0.0078125   x 4 = 0.03125
    named - seed       6 won 0 lost   2 / 2^6            = 0.03125     x 3 = 0.09375
    winner - baseline  3 won 1 lost   2 (1 + 4) / 2^4    = 0.625       x 2 = 1.25, at most 1
    named - baseline   2 won 2 lost   at most 1          = 1           x 1 = 1

    Alone, the second would be resolved at 0.05.
    """
    seed = right(range(10))
    fill(store, {
        "winner": right(range(18)), "seed": seed, "baseline": right(range(15), 18),
        f"named {NAMED.id}": right(range(10), 10, 11, 12, 18, 15, 16),
    })  # fmt: skip
    found = reports.comparisons(store)
    assert [(c.candidate, c.against, c.wins, c.losses, c.questions) for c in found] == [
        (WINNER.id, "seed", 8, 0, 20), (WINNER.id, "baseline", 3, 1, 20),
        (NAMED.id, "seed", 6, 0, 20), (NAMED.id, "baseline", 2, 2, 20),
    ]  # fmt: skip
    assert [c.p_value for c in found] == [0.03125, 1.0, 0.09375, 1.0]
    assert [c.verdict for c in found] == [
        Verdict.BETTER, Verdict.NOT_RESOLVED, Verdict.NOT_RESOLVED, Verdict.NOT_RESOLVED,
    ]  # fmt: skip
    assert [c.difference for c in found] == [0.4, 0.1, 0.3, 0.0]
    assert all(c.low < c.difference < c.high for c in found)
    text = text_of(store)
    assert f"{WINNER.id} - the seed: +0.400, 95 % " in text
    assert "(paired, 8 won, 0 lost), p 0.031: better" in text
    assert "(paired, 6 won, 0 lost), p 0.094: not resolved" in text
    assert f"{WINNER.id} is better than the seed but not resolvably than the best human-designed merge" in text
    assert "p-values adjusted for all comparisons here (Holm)" in text


def test_with_fewer_comparisons_the_same_answers_may_be_enough(store: Store) -> None:
    """6 won, 0 lost against the seed, and the baseline equal to it: 0.03125 x 2 = 0.0625; alone 0.03125."""
    fill(store, {"winner": right(range(16)), "seed": right(range(10))})
    assert [(c.p_value, c.verdict) for c in reports.comparisons(store)] == [(0.03125, Verdict.BETTER)]
    assert f"{WINNER.id} is better than the seed\n" in text_of(store).replace(" \n", "\n")
    fill(store, {"baseline": right(range(10))})
    assert [(c.p_value, c.verdict) for c in reports.comparisons(store)] == [(0.0625, Verdict.NOT_RESOLVED)] * 2


def test_there_is_no_winner_where_the_evidence_does_not_say_so(store: Store) -> None:
    """4 won, 0 lost: p = 2 / 16 = 0.125, though it looks 20 points better."""
    fill(store, {"winner": right(range(14)), "seed": right(range(10)), "baseline": right(range(10))})
    text = text_of(store)
    assert f"no winner: {WINNER.id} is not resolvably better than the seed" in text
    assert "is better than" not in text


def test_a_worse_one_is_no_winner(store: Store) -> None:
    fill(store, {"winner": right(), "seed": right(range(10)), "baseline": right(range(10))})
    assert {c.verdict for c in reports.comparisons(store)} == {Verdict.WORSE}
    assert "no winner: " in text_of(store)


@pytest.mark.parametrize(
    ("baseline", "words"),
    [(right(range(2)), "better than the seed and the best human-designed merge"),
     (right(range(20)), "better than the seed and worse than the best human-designed merge")],
)  # fmt: skip
def test_beside_the_best_human_designed_merge(store: Store, baseline: list[bool], words: str) -> None:
    """12 of 20 against the seed's none: 12 won, 2 / 2^12; against 2 and 20 right: 10 won, or 8 lost."""
    fill(store, {"winner": right(range(12)), "seed": right(), "baseline": baseline})
    assert words in text_of(store)


def test_what_is_not_fully_answered_is_not_compared(store: Store) -> None:
    fill(store, {"winner": right(range(18)), "seed": right(range(10))})
    store.register({"named x": OTHER.id})
    store.add_answers(OTHER.id, [Answer("t0", Completion("x", 1, False), "x", True)])
    assert [c.candidate for c in reports.comparisons(store)] == [WINNER.id]


def test_a_sealed_set_says_so(store: Store) -> None:
    assert text_of(store).strip() == "test: sealed; no candidate is registered yet"
    store.register({"winner": WINNER.id, "seed": SEED.id})
    assert text_of(store).strip() == "test: sealed (20 questions), 2 candidates registered"
    assert reports.comparisons(store) == []

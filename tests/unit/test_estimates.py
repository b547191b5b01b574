"""What dev says, worked by hand on a small store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from selfdev.estimates import best_baseline
from selfdev.store import QuestionRow, Store
from selfdev.types import ExecutionStatus, Outcome, Split
from tests.unit.builders import answer, row

QUESTIONS = 3


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store.sqlite")
    opened.add_questions([QuestionRow(f"dev-{i}", Split.DEV, str(i), "add", turn=i) for i in range(QUESTIONS)])
    yield opened
    opened.close()


def add(store: Store, kind: str, index: int, right: int, duplicate_of: str | None = None) -> str:
    """Record a program of iteration 0 that answers the first so many questions; returns its id."""
    made = row(index, iteration=0, kind=kind)
    store.add_candidates([made])
    store.record_outcome(made.id, Outcome(ExecutionStatus.OK, None, None, made.id, 5, 100, None), duplicate_of)
    if duplicate_of is None:
        store.add_answers(made.id, [answer(i, i < right) for i in range(QUESTIONS)])
    return made.id


def test_the_best_baseline_is_the_first_of_the_best_the_seed_apart(store: Store) -> None:
    add(store, "seed", 0, 3)
    add(store, "source", 1, 1)
    first = add(store, "mean", 2, 2)
    add(store, "task_arithmetic", 3, 0, duplicate_of=first)
    add(store, "task_arithmetic", 4, 2)
    assert best_baseline(store).id == first


def test_refused_baselines_count_only_among_themselves(store: Store) -> None:
    add(store, "seed", 0, 0)
    poor, good, better = add(store, "source", 1, 0), add(store, "mean", 2, 2), add(store, "task_arithmetic", 3, 3)
    store.set_refused(better, "too many answers cut")
    assert best_baseline(store).id == good
    store.set_refused(good, "too many answers cut")
    assert best_baseline(store).id == poor
    store.set_refused(poor, "too many answers cut")
    assert best_baseline(store).id == better


def test_programs_of_commands_take_part_where_they_are_named(store: Store) -> None:
    add(store, "seed", 0, 0)
    mean, equal, tuned = add(store, "mean", 1, 1), add(store, "tuning", 2, 1), add(store, "tuning", 3, 2)
    method = add(store, "method", 4, 3)
    assert best_baseline(store).id == mean
    assert best_baseline(store, "tuning").id == tuned
    assert best_baseline(store, "tuning", "method").id == method
    store.set_refused(tuned, "too many answers cut")
    assert best_baseline(store, "tuning").id == mean != equal

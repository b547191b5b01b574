"""Fresh questions: drawn like dev behind the run's own, never one of the sealed test set."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfdev.config import RunConfig
from selfdev.sealed import seal
from selfdev.types import Question
from selfdev.wiring import fresh_questions, load_run_task
from tests.scripted import racing_config


def fresh(config: RunConfig, first: int, count: int) -> tuple[tuple[Question, ...], set[str], set[str]]:
    """(what is drawn, prompts of the run's dev questions, prompts of its test questions)."""
    whole = load_run_task(config)
    task, envelope = seal(whole)
    found = fresh_questions(config, task, envelope, first, count)
    return found, {q.prompt for q in whole.dev}, {q.prompt for q in whole.test}


def test_arithmetic_has_as_many_as_are_asked_for() -> None:
    config = racing_config(iterations=2)
    first, dev, test = fresh(config, 0, 50)
    assert len(first) == 50
    assert len({q.prompt for q in first}) == 50
    assert not {q.prompt for q in first} & (dev | test)
    assert fresh(config, 30, 20)[0] == first[30:]  # a later draw goes on behind an earlier one


@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_rows_that_are_test_questions_are_left_out(tmp_path: Path, shuffle: int) -> None:
    lines = [f'{{"question": "What is {i} and 1?", "answer": "{i + 1}"}}' for i in range(100)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    config = racing_config(
        iterations=1, seed=shuffle,
        **{"task.name": "jsonl", "task.data": str(tmp_path / "rows.jsonl"), "task.dev_size": 10, "task.test_size": 40},
    )  # fmt: skip
    found, dev, test = fresh(config, 0, 30)  # 20 dev and 40 test of the 100 rows of one file
    assert (len(dev), len(test)) == (20, 40)
    assert len(found) >= 10
    assert not {q.prompt for q in found} & (dev | test)
    assert len({q.prompt for q in found}) == len(found)

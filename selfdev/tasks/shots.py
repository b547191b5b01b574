"""Worked problems in front of a question: frozen ones for search, lm-eval 0.4.13's own for comparable numbers.

A search asks every question behind the same prefix, so that an engine computes it once per candidate. lm-eval's
`gsm8k` instead draws other shots for every document, by its position: `random.Random(1234)`, one `.sample` of the train
rows per document, in order (lm_eval/api/samplers.py, `ContextSampler`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfdev.errors import DataError, UsageError
from selfdev.prompting import prompts_dir

LM_EVAL_SEED = 1234  # lm-eval's default few-shot seed


@dataclass(frozen=True, slots=True)
class Shot:
    """One worked problem."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Layout:
    """How a question is put."""

    before: str  # "Question: "
    after: str  # "\nAnswer:"; a worked answer follows after one blank

    def ask(self, question: str) -> str:
        """The text that a model completes."""
        return f"{self.before}{question}{self.after}"

    def prefix(self, shots: Sequence[Shot]) -> str:
        """Worked problems, each followed by an empty line."""
        return "".join(f"{self.ask(shot.question)} {shot.answer}\n\n" for shot in shots)


def read_shots(file: str | Path, count: int | None = None) -> tuple[Shot, ...]:
    """The first `count` worked problems of a JSON list, all of them for None.

    Args:
        file: a path, or one below prompts/. Objects with question and answer, or with problem and solution.

    Raises:
        UsageError: fewer worked problems than asked for.
        DataError: no such file, or it holds something else.
    """
    path = _find(Path(file))
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"worked problems {path}: cannot be read as JSON ({error})") from error
    if not isinstance(items, list):
        raise DataError(f"worked problems {path}: a JSON list of objects with question and answer is needed")
    shots = tuple(_shot(item, f"worked problems {path}, entry {number}") for number, item in enumerate(items, start=1))
    if count is not None and count > len(shots):
        raise UsageError(f"{count} shots asked for; {path} holds {len(shots)}: give a longer file or fewer shots")
    return shots[:count]


def sampled_positions(pool: int, count: int, documents: int) -> list[list[int]]:
    """lm-eval's draw: for each document, in order, `count` of `pool` train rows.

    Raises:
        DataError: fewer train rows than shots.
    """
    if count > pool:
        raise DataError(f"{count} shots are drawn for each question; the train rows are only {pool}")
    rng = random.Random(LM_EVAL_SEED)
    return [rng.sample(range(pool), count) for _ in range(documents)]


def _find(file: Path) -> Path:
    for path in (file.expanduser(), prompts_dir() / file):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(f"tasks/{path.name}" for path in (prompts_dir() / "tasks").glob("*.json")))
    raise DataError(f"no worked problems {file}; give a JSON file, or one of ours: {shipped}")


def _shot(item: object, place: str) -> Shot:
    for question, answer in (("question", "answer"), ("problem", "solution")):
        if isinstance(item, dict) and isinstance(item.get(question), str) and isinstance(item.get(answer), str):
            return Shot(item[question], item[answer])
    raise DataError(f"{place}: an object with question and answer (or problem and solution) is needed")

"""What a task is: questions to search on, questions to report on, and a way to grade an answer."""

from __future__ import annotations

from dataclasses import dataclass

from selfdev.grading.base import Grader
from selfdev.types import Question


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark, split. Selection, pairing and training see `dev` only."""

    name: str
    dev: tuple[Question, ...]
    test: tuple[Question, ...]
    stop: tuple[str, ...]  # strings that end a completion
    max_new_tokens: int
    grade: Grader

"""What a task is: questions to search on, questions to report on, and a way to grade an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from selfdev.types import Question


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one completion."""

    extracted: str | None  # the answer found in it, normalised; None: there is none
    correct: bool


Grader = Callable[[str, str], Grade]  # (completion, gold) -> verdict


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark, split. Selection, pairing and training see `dev` only."""

    name: str
    dev: tuple[Question, ...]
    test: tuple[Question, ...]
    stop: tuple[str, ...]  # strings that end a completion
    max_new_tokens: int
    grade: Grader

"""What a task is: questions to search on, questions to report on, and a way to grade an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selfdev.grading.base import Grader
from selfdev.types import Question


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark, split. What a search is given has an empty `test`: see `selfdev.sealed`."""

    name: str
    dev: tuple[Question, ...]  # block after block
    test: tuple[Question, ...]
    stop: tuple[str, ...]  # strings that end a completion
    max_new_tokens: int
    grade: Grader
    graders: tuple[str, ...] = ()  # names of the graders a report shows, the one of `grade` first
    references: Mapping[str, str] = field(default_factory=dict)  # question id -> reference as written, for `gold_of`
    facts: Mapping[str, str] = field(default_factory=dict)  # what the questions are; must not change within a run
    notes: tuple[str, ...] = ()  # lines a user should read before trusting the numbers
    blocks: int = 1  # equal parts of `dev`; different iterations may ask different ones

    def block(self, number: int) -> tuple[Question, ...]:
        """One part of the dev questions, in the order in which a race asks them."""
        size = len(self.dev) // self.blocks
        return self.dev[number * size : (number + 1) * size]

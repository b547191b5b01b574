"""What a verdict is. Graders are functions of plain text, so that tasks, the loop and `selfdev grade` share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one completion."""

    extracted: str | None  # the answer found in it, normalised; None: there is none
    correct: bool
    timed_out: bool = False  # comparing took too much time or memory and was stopped; counted as wrong


Grader = Callable[[str, str], Grade]  # (completion, gold) -> verdict

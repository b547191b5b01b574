"""Grade completions against gold answers, and count. Pure: the only place where the two meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfdev.grading.base import Grader
from selfdev.stats import wilson_interval
from selfdev.types import Answer, Completion, Question


@dataclass(frozen=True, slots=True)
class Score:
    """How a model did on a set of questions."""

    correct: int
    total: int
    truncated: int  # completions that the token limit ended; they may still be right
    unparsable: int  # completions without an answer
    interval: tuple[float, float]  # 95 % Wilson interval of the accuracy

    @classmethod
    def of(cls, correct: int, total: int, truncated: int, unparsable: int) -> Score:
        """From counts; the interval follows."""
        return cls(correct, total, truncated, unparsable, wilson_interval(correct, total))

    @property
    def accuracy(self) -> float | None:
        """correct / total; None where nothing was asked."""
        return self.correct / self.total if self.total else None


def score(questions: Sequence[Question], completions: Sequence[Completion], grade: Grader) -> tuple[Answer, ...]:
    """Grade each completion against its question, in order.

    Raises:
        ValueError: not one completion per question.
    """
    if len(questions) != len(completions):
        raise ValueError(f"{len(completions)} completions for {len(questions)} questions")
    answers = []
    for question, completion in zip(questions, completions, strict=True):
        verdict = grade(completion.text, question.gold)
        answers.append(Answer(question.id, completion, verdict.extracted, verdict.correct))
    return tuple(answers)


def summarise(answers: Iterable[Answer]) -> Score:
    """Count the answers of one model."""
    rows = tuple(answers)
    return Score.of(
        correct=sum(answer.correct for answer in rows),
        total=len(rows),
        truncated=sum(answer.completion.truncated for answer in rows),
        unparsable=sum(answer.extracted is None for answer in rows),
    )

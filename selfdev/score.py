"""Grade completions against gold answers, and count. Pure: the only place where the two meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfdev.grading import Grader, grade_all
from selfdev.stats import wilson_interval
from selfdev.types import Answer, Completion, Question


@dataclass(frozen=True, slots=True)
class Score:
    """How a model did on a set of questions."""

    correct: int
    total: int
    truncated: int  # completions that the token limit ended; they may still be right
    unparsable: int  # completions without an answer
    empty: int  # completions without a visible character
    repetitive: int  # completions that end in a loop
    timed_out: int  # comparisons with the reference that took too long; counted as wrong
    interval: tuple[float, float]  # 95 % Wilson interval of the accuracy

    @classmethod
    def of(
        cls,
        correct: int,
        total: int,
        truncated: int = 0,
        unparsable: int = 0,
        empty: int = 0,
        repetitive: int = 0,
        timed_out: int = 0,
    ) -> Score:
        """From counts; the interval follows."""
        interval = wilson_interval(correct, total)
        return cls(correct, total, truncated, unparsable, empty, repetitive, timed_out, interval)

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
    verdicts = grade_all(grade, [completion.text for completion in completions], [q.gold for q in questions])
    answers = []
    for question, completion, verdict in zip(questions, completions, verdicts, strict=True):
        loops = ends_in_loop(completion.text)
        answers.append(Answer(question.id, completion, verdict.extracted, verdict.correct, loops, verdict.timed_out))
    return tuple(answers)


LOOP_CHARACTERS = 40  # of the end of a text that must repeat, at least
LOOP_TURNS = 4
LONGEST_LOOP = 200


def ends_in_loop(text: str) -> bool:
    """Whether the text ends in one piece of at most 200 characters four times over, at least 40 characters in all."""
    text = text.rstrip()
    for period in range(1, min(LONGEST_LOOP, len(text) // LOOP_TURNS) + 1):
        length = max(LOOP_CHARACTERS, LOOP_TURNS * period)
        if len(text) >= length and text[-length:-period] == text[period - length :]:
            return True
    return False


def refusal(answers: Sequence[Answer], max_truncated: float) -> str | None:
    """Why a merge may not be ranked: the token limit cut more than this share of its answers. None: it may."""
    cut = sum(answer.completion.truncated for answer in answers)
    if cut <= max_truncated * len(answers):
        return None
    return f"{cut} of {len(answers)} answers were cut by the token limit (evaluate.max_truncated {max_truncated:g})"


def summarise(answers: Iterable[Answer]) -> Score:
    """Count the answers of one model."""
    rows = tuple(answers)
    return Score.of(
        correct=sum(answer.correct for answer in rows),
        total=len(rows),
        truncated=sum(answer.completion.truncated for answer in rows),
        unparsable=sum(answer.extracted is None for answer in rows),
        empty=sum(not answer.completion.text.strip() for answer in rows),
        repetitive=sum(answer.repetitive for answer in rows),
        timed_out=sum(answer.timed_out for answer in rows),
    )

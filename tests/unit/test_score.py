from __future__ import annotations

import pytest

from selfdev.grading.base import Grade
from selfdev.score import ends_in_loop, refusal, score, summarise
from selfdev.types import Completion, Question


def grade(text: str, gold: str) -> Grade:
    return Grade(None, False) if not text else Grade(text, text == gold)


QUESTIONS = [Question(id=f"q{number}", prompt="?", gold=str(number)) for number in range(4)]
COMPLETIONS = [
    Completion("0", 1, truncated=False),
    Completion("7", 1, truncated=True),
    Completion("", 5, truncated=True),
    Completion("3", 1, truncated=True),
]


def test_answers_keep_order_and_completions() -> None:
    answers = score(QUESTIONS, COMPLETIONS, grade)
    assert [answer.question_id for answer in answers] == ["q0", "q1", "q2", "q3"]
    assert [answer.correct for answer in answers] == [True, False, False, True]
    assert [answer.extracted for answer in answers] == ["0", "7", None, "3"]
    assert [answer.completion for answer in answers] == COMPLETIONS


def test_summary_counts_right_truncated_answers_as_right() -> None:
    result = summarise(score(QUESTIONS, COMPLETIONS, grade))
    assert (result.correct, result.total, result.truncated, result.unparsable) == (2, 4, 3, 1)
    assert result.accuracy == 0.5
    # Wilson, 2 of 4: 0.5 -+ z * sqrt(1/16 + z^2/64) / (1 + z^2/4) = 0.5 -+ 0.349962
    assert result.interval == (pytest.approx(0.150036, abs=1e-5), pytest.approx(0.849964, abs=1e-5))


def test_nothing_asked_is_no_score() -> None:
    result = summarise([])
    assert result.accuracy is None
    assert result.interval == (0.0, 1.0)


def test_a_missing_completion_is_a_bug_not_a_wrong_answer() -> None:
    with pytest.raises(ValueError, match="3 completions for 4 questions"):
        score(QUESTIONS, COMPLETIONS[:3], grade)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("", False),
        ("3 + 4 = 7\n#### 7", False),
        ("0" * 39, False),
        ("0" * 40, True),
        ("The answer is 4." + " 4 4 4 4" * 6 + "\n\n", True),
        ("so x = 1. " * 3, False),  # three turns
        ("so x = 1. " * 5, True),
        ("so x = 1. " * 5 + "#### 1", False),  # it found its way out
        ("abcdefghij" * 20 + "x" + "abcdefghij" * 2, False),
    ],
)
def test_a_loop_at_the_end_is_seen(text: str, loops: bool) -> None:
    assert ends_in_loop(text) is loops


def test_summary_counts_empty_and_repetitive_answers() -> None:
    texts = [" \n", "1 " * 40, "#### 3", ""]
    result = summarise(score(QUESTIONS, [Completion(t, 1, truncated=False) for t in texts], grade))
    assert (result.empty, result.repetitive, result.timed_out) == (2, 1, 0)


def test_a_comparison_that_took_too_long_is_counted() -> None:
    answers = score(QUESTIONS, COMPLETIONS, lambda text, gold: Grade(text, False, timed_out=text == "7"))
    assert summarise(answers).timed_out == 1


def test_too_many_cut_answers_are_refused_with_the_number() -> None:
    answers = score(QUESTIONS, COMPLETIONS, grade)  # three of four are cut
    assert refusal(answers, 0.75) is None
    assert refusal(answers, 0.74) == "3 of 4 answers were cut by the token limit (evaluate.max_truncated 0.74)"
    assert refusal([], 0.0) is None

"""Graders for users' own questions. Every grading bug becomes a row of grading/text.json, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from selfdev.errors import DataError
from selfdev.grading import Grade, gold_of, load_grader
from selfdev.grading.text import last_number

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "grading" / "text.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[f"{case['grader']}: {case['why']}" for case in CASES])
def test_verdict(case: dict[str, Any]) -> None:
    judge = load_grader(case["grader"])
    verdict = judge(case["output"], gold_of(case["grader"], case["gold"]))
    assert verdict == Grade(case["extracted"], case["correct"])


@pytest.mark.parametrize(
    ("grader", "reference", "part"),
    [
        ("exact", " \n", "holds no answer"),
        ("exact", "...", "holds no answer"),
        ("number", "seven", "holds no number: 'seven'"),
        ("number", "1e999", "holds no number"),
    ],
)
def test_references_without_an_answer_are_refused(grader: str, reference: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        gold_of(grader, reference)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_its_own_gold(value: float) -> None:
    assert last_number(f"about {value!r}") == value
    assert load_grader("number")(f"It is {value!r}.", gold_of("number", repr(value))).correct


@given(st.text(max_size=60), st.text(min_size=1, max_size=20))
def test_any_text_gets_a_verdict(completion: str, word: str) -> None:
    assume(len(word.splitlines()) == 1)
    for name in ("exact", "number"):
        try:
            gold = gold_of(name, word)
        except DataError:
            continue
        assert load_grader(name)(completion, gold).timed_out is False
        assert load_grader(name)(word, gold).correct


@pytest.mark.parametrize(
    "completion",
    [
        "The answer is:\n42",
        "Answer: Let us compute.\n6 * 7 = 42",
        "The answer is 42.\nThat answer is correct.",
    ],
)
def test_words_after_answer_that_hold_no_number_do_not_hide_the_number(completion: str) -> None:
    assert load_grader("number")(completion, "42") == Grade("42", True)

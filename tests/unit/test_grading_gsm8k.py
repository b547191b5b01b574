"""GSM8K grading. The case table is data: every grading bug becomes a row of grading/gsm8k.json.

Its verdicts are those of lm-eval 0.4.13's own code, which `benchmarks/compare_grading.py` runs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.errors import DataError
from selfdev.grading.base import Grade
from selfdev.grading.gsm8k import gold_answer, grade_flexible, grade_strict, normalise

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "grading" / "gsm8k.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
def test_verdict(case: dict[str, Any]) -> None:
    gold = gold_answer(case["gold"])
    assert grade_strict(case["output"], gold) == Grade(*case["strict"])
    assert grade_flexible(case["output"], gold) == Grade(*case["flexible"])


def test_no_row_of_the_table_is_there_twice() -> None:
    assert len({(case["output"], case["gold"]) for case in CASES}) == len(CASES) >= 150


@pytest.mark.parametrize("reference", ["", "####", "seven", "#### seven", "7 #### seven"])
def test_references_without_a_number_are_refused(reference: str) -> None:
    with pytest.raises(DataError, match="holds no number"):
        gold_answer(reference)


def lm_eval(pattern: str, which: int, text: str) -> str:
    """lm-eval 0.4.13's RegexFilter with its fallback, restated step by step."""
    matches = re.compile(pattern).findall(text)
    if not matches:
        return "[invalid]"
    match = matches[which]
    if isinstance(match, tuple):
        match = [part for part in match if part]
        match = match[0] if match else "[invalid]"
    return match.strip()


TEXTS = st.text(st.sampled_from(list("#### 0123456789.,$- \nabQ%")), max_size=40)


@given(TEXTS, st.integers(-20, 20000))
def test_verdicts_are_those_of_the_restated_filters(text: str, number: int) -> None:
    gold = normalise(f"worked #### {number:,}")
    for grade, pattern, which in (
        (grade_strict, r"#### (\-?[0-9\.\,]+)", 0),
        (grade_flexible, r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
    ):
        extracted = lm_eval(pattern, which, text)
        verdict = grade(text, gold)
        assert (verdict.extracted is None) == (extracted == "[invalid]")
        assert verdict.correct == (extracted != "[invalid]" and normalise(extracted) == gold)

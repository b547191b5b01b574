r"""MATH grading. The case table is data: every grading bug becomes a row of grading/math.json.

Columns `minerva`, `verify` and `hendrycks` are the verdicts of lm-eval 0.4.13's own code, which
`benchmarks/compare_grading.py` runs; column `math` was worked out by hand, for the reason in `why`.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.errors import DataError, UsageError
from selfdev.grading import GRADERS, gold_of, load_grader
from selfdev.grading.latex import last_boxed, plain_number, squeezed, stated_answer, tidy
from selfdev.grading.math import quick_verdict

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "grading" / "math.json").read_text(encoding="utf-8"))
COLUMNS = {"math": "math", "math-minerva": "minerva", "math-verify": "verify", "math-hendrycks": "hendrycks"}


@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
def test_verdicts(case: dict[str, Any]) -> None:
    for name, column in COLUMNS.items():
        grade = load_grader(name)(case["output"], gold_of(name, case["gold"]))
        assert (name, grade.correct, grade.timed_out) == (name, case[column], False)


def test_no_row_of_the_table_is_there_twice() -> None:
    assert len({(case["output"], case["gold"]) for case in CASES}) == len(CASES) >= 150


@pytest.mark.parametrize("name", COLUMNS)
def test_completions_without_an_answer_are_unparsable(name: str) -> None:
    grade = load_grader(name)("", gold_of(name, "12"))
    assert (grade.extracted, grade.correct) == (None, False)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("reference", ["", "\\boxed{}", "\\boxed{ }", "\\boxed{12"])
def test_references_without_an_answer_are_refused(name: str, reference: str) -> None:
    with pytest.raises(DataError, match=r"no closed \\boxed\{\} with an answer in it"):
        gold_of(name, reference)


def test_a_reference_is_a_solution_or_a_bare_answer() -> None:
    assert gold_of("math", "We get $\\boxed{\\frac{1}{2}}$.") == "\\frac{1}{2}"
    assert gold_of("math", "\\frac{1}{2}") == "\\frac{1}{2}"
    assert gold_of("math-minerva", "\\boxed{12\\text{ cm}}") == "12"
    assert gold_of("math-verify", "12") == "\\boxed{12}"
    assert gold_of("math-verify", "so $\\boxed{12}$") == "so $\\boxed{12}$"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{a{b}c}", "a{b}c"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed{\\boxed{1}}", "1"),
        ("\\boxed 7$ and 8", "7"),
        ("\\boxed", None),
        ("\\boxedin{3}", None),
        ("} \\boxed{3}", "3"),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_unclosed_boxes_cost_no_more_than_their_length() -> None:
    assert last_boxed("\\boxed{5}" + "\\boxed{" * 50_000) == "5"  # one pass; a pass for each would take minutes
    assert stated_answer("final answer is " + "\\(" * 50_000) is not None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The final answer is $x^2$. I hope it is correct.", "x^2"),
        ("The final answer is 5.\nThe final answer is 6.", "6"),
        ("the final answer is: $1$, $2$ or $3$.", "1, 2 or 3"),
        ("The final answer is $\\$5$.", "\\$5"),
        ("The final answer is\n\\[\n5\n\\]\nand more", "5"),
        ("The final answer is", None),
        ("The answer is 5", None),
    ],
)
def test_stated_answer(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("12", Fraction(12)),
        ("-1,234.50", Fraction(-2469, 2)),
        ("\\frac{6}{-4}", Fraction(-3, 2)),
        ("-\\frac{-1}{2}", Fraction(1, 2)),
        ("2\\frac{1}{2}", Fraction(5, 2)),
        ("-2 1/2", Fraction(-5, 2)),
        ("2 5/2", None),
        ("2\\frac{-1}{2}", None),
        ("0.1\\overline{6}", Fraction(1, 6)),
        ("1/0", None),
        ("1,23", None),
        ("3 4", None),
        ("x", None),
        ("٣", None),
        ("", None),
        (".", None),
        ("9" * 31, None),
    ],
)
def test_plain_number(answer: str, value: Fraction | None) -> None:
    assert plain_number(answer) == value


@given(st.integers(-(10**9), 10**9), st.integers(0, 10**4), st.integers(1, 10**4))
def test_a_number_is_read_the_same_in_every_form(whole: int, above: int, below: int) -> None:
    value = Fraction(above, below)
    forms = [
        f"{whole:,}",
        f"{whole:,}".replace(",", "{,}"),
        f"{whole:,}".replace(",", "\\,"),
        f"{whole}.0",
        f"${whole}$",
    ]
    assert {plain_number(squeezed(tidy(form))) for form in forms} == {Fraction(whole)}
    assert {plain_number(squeezed(form)) for form in (f"\\dfrac{{{above}}}{{{below}}}", f"{above}/{below}")} == {value}


@given(st.text(st.sampled_from(list("0123456789.,/ \\${}%-+x_frac^")), max_size=30))
def test_nothing_breaks_the_readers(text: str) -> None:
    assert last_boxed(f"\\boxed{{{text}") is None or "{" not in text or "}" in text
    assert quick_verdict(tidy(text), "7") in (True, False, None)
    assert quick_verdict("7", tidy(text)) in (True, False, None)
    if squeezed(tidy(text)):
        assert quick_verdict(tidy(text), tidy(text)) is True


def test_unknown_graders_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=f"unknown grader 'maths'; allowed: {', '.join(GRADERS)}"):
        load_grader("maths")
    found = {"math-verify": "0.9.0", "antlr4-python3-runtime": "4.13.2"}
    monkeypatch.setattr("selfdev.grading.metadata.version", found.__getitem__)
    with pytest.raises(UsageError, match=r"4\.11\*, found 4\.13\.2; pip install 'selfdev\[math\]'"):
        load_grader("math")
    load_grader("math-hendrycks")  # compares text only


@pytest.mark.parametrize(("answer", "gold"), [("3105", "3, 105"), ("3, 105", "3105"), ("1200", "1, 200")])
def test_two_numbers_are_not_one_with_a_thousands_separator(answer: str, gold: str) -> None:
    assert not load_grader("math")(f"\\boxed{{{answer}}}", gold).correct


@pytest.mark.parametrize("grader", ["math", "math-minerva", "math-hendrycks", "math-verify"])
def test_a_worked_solution_without_a_box_is_no_gold(grader: str) -> None:
    with pytest.raises(DataError, match="without"):
        gold_of(grader, "He has 3 apples.\n#### 18")


def test_a_sentence_is_no_gold_of_gsm8k() -> None:
    with pytest.raises(DataError, match="is no number"):
        gold_of("gsm8k-strict", r"We have $x=\boxed{5}$, so done")

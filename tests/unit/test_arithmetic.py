"""Word problems: answers, splits, balance, and a golden example that pins the generator across versions."""

from __future__ import annotations

import re
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdev.errors import UsageError
from selfdev.tasks import arithmetic
from selfdev.tasks.arithmetic import SKILLS, SplitName, assert_disjoint, questions, split_of, to_question

SPLITS = get_args(SplitName)


def test_answers_worked_by_hand() -> None:
    assert SKILLS["add"].compute(23, 45) == 68
    assert SKILLS["sub"].compute(91, 17) == 74
    assert SKILLS["mul"].compute(7, 38) == 266


def test_golden_problems() -> None:
    """Pins texts, splits and draws; a change here changes every recorded score of the zoo."""
    first = questions("dev", 3, seed=0)
    assert [(p.id, p.question, p.rationale) for p in first] == [
        (
            "arithmetic-dev-b9945826c5ab",
            "Quinn found 30 pears and then 24 more. How many pears did Quinn find in all?",
            " 30 + 24 = 54\n#### 54",
        ),
        (
            "arithmetic-dev-1e172eac1d0f",
            "There are 78 stamps in a box and a bag. The bag holds 50. How many stamps are in the box?",
            " 78 - 50 = 28\n#### 28",
        ),
        (
            "arithmetic-dev-5532feaead6b",
            "For 4 days Ben found 40 cookies a day. How many cookies did Ben find in all?",
            " 4 * 40 = 160\n#### 160",
        ),
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_rationale_is_the_sum_it_claims(split: SplitName) -> None:
    operators = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for problem in questions(split, 300, seed=7):
        found = re.fullmatch(r" (\d+) ([-+*]) (\d+) = (\d+)\n#### (\d+)", problem.rationale)
        assert found is not None
        a, symbol, b, result, closing = found.groups()
        assert operators[symbol](int(a), int(b)) == int(result) == int(closing) == problem.answer >= 0
        stated = sorted(int(n) for n in re.findall(r"\d+", problem.question))
        assert stated == sorted((int(a), int(b)))


def test_splits_share_no_question_and_no_operands() -> None:
    drawn = {split: questions(split, 1500, seed=1) for split in SPLITS}
    assert_disjoint(drawn)

    filler = re.compile(r"\b(" + "|".join((*arithmetic.NAMES, *arithmetic.ITEMS)) + r")\b")
    shapes = {split: {filler.sub("_", p.question) for p in problems} for split, problems in drawn.items()}
    assert not shapes["train"] & shapes["dev"]
    assert not shapes["train"] & shapes["test"]
    assert not shapes["dev"] & shapes["test"]


def test_assert_disjoint_reports_a_shared_question() -> None:
    problems = questions("dev", 3, seed=0)
    with pytest.raises(ValueError, match="dev and test share"):
        assert_disjoint({"dev": problems, "test": problems[:1]})


def test_split_shares() -> None:
    counts = Counter(split_of("add", t, (a, b)) for t in range(6) for a in range(10, 100) for b in range(10, 100))
    total = sum(counts.values())
    assert counts["train"] / total == pytest.approx(0.70, abs=0.01)
    assert counts["dev"] / total == pytest.approx(0.15, abs=0.01)


@given(count=st.integers(1, 60), seed=st.integers(-5, 2**64))
@settings(max_examples=25, deadline=None)
def test_distinct_balanced_and_repeatable(count: int, seed: int) -> None:
    drawn = questions("test", count, seed)
    assert len(drawn) == count == len({p.question for p in drawn}) == len({p.id for p in drawn})
    per_skill = Counter(p.skill for p in drawn)
    sizes = [per_skill[name] for name in SKILLS]
    assert max(sizes) - min(sizes) <= 1
    assert drawn == questions("test", count, seed)


def test_another_seed_draws_other_questions() -> None:
    assert {p.id for p in questions("dev", 60, 0)} != {p.id for p in questions("dev", 60, 1)}


def test_every_template_is_used() -> None:
    starts = {p.question.split()[0] for p in questions("train", 3000, seed=0)}
    assert {"There", "A", "For"} <= starts
    for skill in SKILLS.values():
        assert len(set(skill.templates)) == len(skill.templates) == 6


def test_to_question_renders_the_prompt() -> None:
    problem = questions("test", 1, seed=3)[0]
    question = to_question(problem)
    assert question.prompt == f"Question: {problem.question}\nAnswer:"
    assert (question.id, question.gold, question.skill) == (problem.id, str(problem.answer), problem.skill)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="allowed are train, dev and test"):
        questions("validation", 3, seed=0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        questions("dev", 0, seed=0)


def test_an_exhausted_split_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    only = questions("dev", 1, seed=0)[0]
    monkeypatch.setattr(arithmetic, "_draw_problem", lambda *_: only)
    with pytest.raises(UsageError, match="ask for fewer"):
        questions("dev", 9, seed=0)

"""Near-duplicates: similarities worked by hand, exactness against a search of all pairs, and the line that reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.config import TaskConfig, section_from
from selfdev.tasks import load_questions, load_task
from selfdev.tasks.duplicates import Duplicate, describe, find_duplicates, tokens

PENS = "Ana has 3 pens and buys 4 more pens in the shop. How many pens does Ana have now?"
LONDON = "A train leaves Leeds at noon and reaches London after 3 hours. How fast does it go?"


def test_tokens_leave_out_what_is_typography() -> None:
    assert tokens("Ana\u2019s \u201c3,500\u201d pens!") == tokens("ana's 3,500 PENS") == ("ana", "s", "3,500", "pens")
    assert tokens(r"Solve $x^2 \le 1{,}000$.") == ("solve", "x", "^", "2", r"\le", "1", "{", "}", "000")
    assert tokens("2 + 2 = 4") == ("2", "+", "2", "=", "4")
    assert tokens("½ ﬁsh") == ("1", "\u2044", "2", "fish")
    assert tokens("…?!") == ()


@pytest.mark.parametrize(
    ("other", "kind", "similarity"),
    [
        (PENS, "same", 1.0),
        (PENS.upper().replace(".", " ;"), "same", 1.0),
        # 19 words, so 17 trigrams, all different. One word replaced inside: 3 trigrams change, 14 of 20 are shared.
        (PENS.replace("shop", "market"), "near", 14 / 20),
        (PENS.replace("3", "5").replace("4", "12"), "template", 1.0),
        (PENS.replace("3", "5").replace("shop", "market"), "template", 14 / 20),
        (PENS.replace("3", "4").replace("4 more", "3 more"), "template", 1.0),  # order of the numbers counts
    ],
)
def test_kinds_and_similarities(other: str, kind: str, similarity: float) -> None:
    (found,) = find_duplicates({"a": PENS}, {"x": LONDON, "b": other})
    assert (found.left, found.right, found.kind) == ("a", "b", kind)
    assert found.similarity == pytest.approx(similarity)


def test_the_threshold_is_inclusive() -> None:
    """Six words, four trigrams; the last word replaced: 3 of 5 are shared, exactly 0.6."""
    pair = ({"a": "one two three four five six"}, {"b": "one two three four five seven"})
    assert [match.similarity for match in find_duplicates(*pair, threshold=0.6)] == [0.6]
    assert find_duplicates(*pair, threshold=0.61) == ()


def test_short_and_empty_texts() -> None:
    assert [m.kind for m in find_duplicates({"a": "Two plus"}, {"b": "two PLUS", "c": "Two minus"})] == ["same"]
    assert find_duplicates({"a": "..."}, {"b": "?!"}) == ()
    assert find_duplicates({}, {"b": PENS}) == find_duplicates({"a": PENS}, {}) == ()


def test_order_is_that_of_the_left_best_first() -> None:
    right = {"far": PENS.replace("shop", "market"), "exact": PENS}
    found = find_duplicates({"z": PENS, "a": LONDON, "m": PENS}, right)
    assert [(match.left, match.right) for match in found] == [
        ("z", "exact"), ("z", "far"), ("m", "exact"), ("m", "far"),
    ]  # fmt: skip


TEXTS = st.lists(st.lists(st.sampled_from("abcd12"), max_size=9).map(" ".join), max_size=6)


@given(TEXTS, TEXTS, st.sampled_from([0.3, 0.5, 0.6, 0.7, 1.0]))
def test_the_index_misses_nothing(left: list[str], right: list[str], threshold: float) -> None:
    """Against the definition: Jaccard of masked trigrams over all pairs."""

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = [re.sub(r"\d", "0", word) for word in text.split()]
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))} if words else set()

    expected = set()
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            a, b = shingles(one), shingles(other)
            if a and b and len(a & b) >= threshold * len(a | b) - 1e-9:
                expected.add((str(i), str(j)))
    lefts, rights = ({str(i): text for i, text in enumerate(texts)} for texts in (left, right))
    assert {(match.left, match.right) for match in find_duplicates(lefts, rights, threshold)} == expected


def test_the_line_counts_questions_by_their_worst_kind() -> None:
    found = [
        Duplicate("a", "1", "template", 1.0),
        Duplicate("a", "2", "same", 1.0),
        Duplicate("b", "1", "near", 0.7),
        Duplicate("c", "3", "template", 0.9),
    ]
    assert describe(found, "dev", "test", examples=2) == (
        "dev questions that are also in test: 1 the same; 1 nearly the same; 1 the same text with other numbers "
        "(a ~ 2, b ~ 1, ...)"
    )


def write(path: Path, questions: list[str]) -> str:
    rows = [{"question": question, "answer": "#### 7"} for question in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_task_reports_what_its_splits_share(tmp_path: Path) -> None:
    """Both test rows are nearly one question, so whichever dev takes, test holds the other."""
    data = write(tmp_path / "test.jsonl", [PENS, PENS.replace("shop", "market")])
    train = write(tmp_path / "train.jsonl", [LONDON, PENS.replace("3", "8").replace("shop", "mall")])
    config = section_from(TaskConfig, "task", name="gsm8k", data=data, dev_size=1, test_size=1)
    task = load_task(config, 0)
    (note,) = task.notes
    assert note == (
        f"gsm8k: dev questions that are also in test: 1 nearly the same ({task.dev[0].id} ~ {task.test[0].id})"
    )
    assert task.facts["duplicates"] == note
    both = load_task(config.model_copy(update={"train_data": train}), 0)
    assert [re.sub(r" \(.*", "", line) for line in both.notes] == [
        "gsm8k: dev questions that are also in test: 1 nearly the same",
        "gsm8k: dev questions that are also in train: 1 the same text with other numbers",
        "gsm8k: test questions that are also in train: 1 the same text with other numbers",
    ]
    assert "~ line 2)" in both.notes[1]


def test_a_question_that_is_a_worked_problem_is_reported(tmp_path: Path) -> None:
    from selfdev.tasks.shots import read_shots

    shot = read_shots("tasks/gsm8k-5shot.json")[3].question
    data = write(tmp_path / "test.jsonl", [LONDON, shot])
    task = load_questions(section_from(TaskConfig, "task", name="gsm8k", data=data), 2, seed=0)
    assert task.notes == (f"gsm8k: test questions that are also in shots: 1 the same ({task.dev[1].id} ~ shot 4)",)


def test_clean_splits_say_so(tmp_path: Path) -> None:
    data = write(tmp_path / "test.jsonl", [PENS, LONDON])
    task = load_task(section_from(TaskConfig, "task", name="gsm8k", data=data, dev_size=1, test_size=1), 0)
    assert task.notes == ()
    assert task.facts["duplicates"] == "none found"

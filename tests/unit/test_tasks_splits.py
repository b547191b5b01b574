"""Drawing dev and test: disjoint, seeded, stratified, hashed; and the task that comes of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdev.config import TaskConfig, load_config, section_from
from selfdev.errors import DataError, UsageError
from selfdev.tasks import load_questions, load_task
from selfdev.tasks.hendrycks_math import SUBJECTS
from selfdev.tasks.rows import Row
from selfdev.tasks.splits import draw_dev, draw_first, draw_test, first_of_each, shuffled, split_hash

TYPES = {
    "algebra": "Algebra", "counting_and_probability": "Counting & Probability", "geometry": "Geometry",
    "intermediate_algebra": "Intermediate Algebra", "number_theory": "Number Theory", "prealgebra": "Prealgebra",
    "precalculus": "Precalculus",
}  # fmt: skip


def config(**settings: Any) -> TaskConfig:
    return section_from(TaskConfig, "task", **settings)


def write_gsm8k(path: Path, count: int, start: int = 0) -> str:
    rows = [
        {"question": f"{word(n)} {word(n + 1)} {word(n + 2)}?", "answer": f"{n} + {n}\n#### {2 * n:,}"}
        for n in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_math(path: Path, of_each: int) -> str:
    rows = [
        {"problem": f"{word(n)} {kind}?", "solution": rf"\boxed{{{n}}}", "type": TYPES[kind]}
        for n in range(of_each)
        for kind in SUBJECTS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def word(number: int) -> str:
    """A word of its own for each number, so that no two questions are alike."""
    return "w" + "".join("abcdefghij"[int(digit)] for digit in str(number))


def test_golden_order() -> None:
    """Pins the draw; a change here changes every recorded split."""
    assert shuffled(list("abcdefgh"), "gsm8k/dev/0") == list("fcheagbd")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=7), st.integers(0, 40), st.text(max_size=3))
def test_dev_takes_equally_many_of_each_group(sizes: list[int], size: int, key: str) -> None:
    bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    groups = {f"g{i}": list(range(bounds[i], bounds[i + 1])) for i in range(len(sizes))}
    shares = [size // len(sizes) + (i < size % len(sizes)) for i in range(len(sizes))]
    if any(share > have for share, have in zip(shares, sizes, strict=True)):
        with pytest.raises(DataError, match="different questions"):
            draw_dev(groups, size, key, "rows")
        return
    drawn = draw_dev(groups, size, key, "rows")
    assert len(set(drawn)) == len(drawn) == size
    assert [sum(p in group for p in drawn) for group in groups.values()] == shares
    if size:
        assert set(draw_dev(groups, size - 1, key, "rows")) < set(drawn)


def test_groups_come_in_rotation() -> None:
    groups = {"a": [0, 1], "b": [2, 3], "c": [4, 5]}
    assert [p // 2 for p in draw_dev(groups, 5, "key", "rows")] == [0, 1, 2, 0, 1]


def test_the_first_rows_of_each_group() -> None:
    groups = {"a": [0, 3, 4, 7], "b": [1], "c": [2, 5, 6]}
    assert draw_first(groups, 5) == (0, 1, 2, 3, 5)
    assert draw_first(groups, 100) == tuple(range(8))
    assert draw_first({"a": []}, 3) == ()


def test_test_takes_a_number_or_the_rest() -> None:
    left = list(range(10, 30))
    assert sorted(draw_test(left, None, "key", "rows")) == left
    assert draw_test(left, 4, "key", "rows") == draw_test(left, None, "key", "rows")[:4]
    with pytest.raises(DataError, match="rows: 20 different questions are left for test; 21 were asked for"):
        draw_test(left, 21, "key", "rows")
    with pytest.raises(DataError, match="rows: 0 different questions are left for test; at least 1 were asked for"):
        draw_test([], None, "key", "rows")


def test_a_repeated_question_counts_once() -> None:
    assert first_of_each([Row(q, "", "", "") for q in ("a", "b", "a", "c", "b")]) == [0, 1, 3]


def test_the_hash_tells_splits_and_orders_apart() -> None:
    splits = [(["a"], ["b"]), (["b"], ["a"]), (["a", "b"], []), (["b", "a"], []), (["ab"], [])]
    assert len({split_hash(dev, test) for dev, test in splits}) == len(splits)
    # printf '[["a"], ["b"]]' | sha256sum
    assert split_hash(["a"], ["b"]) == "969261ea0ed60a834b0fc07aff92a9ee941e15b9c5e7285706e7a11c86756e8f"


@pytest.mark.parametrize("dev_from", ["test", "train"])
def test_dev_and_test_are_disjoint_whatever_repeats(tmp_path: Path, dev_from: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_gsm8k(path, 20)
    path.write_text(path.read_text() * 3)
    train = write_gsm8k(tmp_path / "train.jsonl", 20, start=10)  # half of them are test questions too
    for seed in range(5):
        asked = config(name="gsm8k", data=str(path), train_data=train, dev_from=dev_from, dev_size=12, test_size="rest")
        task = load_task(asked, seed)
        dev, test = ({q.prompt for q in split} for split in (task.dev, task.test))
        assert not dev & test
        assert (len(dev), len(task.dev)) == (12, 12)
        assert len(test) == len(task.test) == 20 - sum(q.prompt in dev for q in load_questions(asked, 20, 0).dev)


def test_dev_from_train_leaves_the_test_split_whole(tmp_path: Path) -> None:
    data, train = write_gsm8k(tmp_path / "test.jsonl", 15), write_gsm8k(tmp_path / "train.jsonl", 30, start=100)
    task = load_task(
        config(name="gsm8k", data=data, train_data=train, dev_from="train", dev_size=30, test_size="rest"), 0
    )
    assert {int(q.gold) // 2 for q in task.dev} == set(range(100, 130))
    assert {int(q.gold) // 2 for q in task.test} == set(range(15))


def test_the_draw_follows_the_seed_and_not_the_sizes(tmp_path: Path) -> None:
    data = write_gsm8k(tmp_path / "rows.jsonl", 30)
    one, again, other = (
        load_task(config(name="gsm8k", data=data, dev_size=5, test_size=5), seed) for seed in (1, 1, 2)
    )
    assert (one.dev, one.test, one.facts) == (again.dev, again.test, again.facts)
    assert one.dev != other.dev
    assert one.facts["split"] != other.facts["split"]
    rest = load_task(config(name="gsm8k", data=data, dev_size=5, test_size="rest"), 1)
    assert (rest.dev, len(rest.test)) == (one.dev, 25)
    assert set(one.test) <= set(rest.test)
    larger = load_task(config(name="gsm8k", data=data, dev_size=9, test_size="rest"), 1)
    assert larger.dev[:5] == one.dev


def test_the_same_rows_in_another_format_give_the_same_facts(tmp_path: Path) -> None:
    import gzip

    plain = tmp_path / "rows.jsonl"
    write_gsm8k(plain, 12)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    tasks = [load_task(config(name="gsm8k", data=str(p), dev_size=4, test_size=4), 0) for p in (plain, packed)]
    assert tasks[0].facts == tasks[1].facts
    plain.write_text(plain.read_text().replace("#### 4\\n", "#### 5\\n", 1).replace('#### 4"', '#### 5"', 1))
    changed = load_task(config(name="gsm8k", data=str(plain), dev_size=4, test_size=4), 0)
    assert changed.facts["test rows"] != tasks[0].facts["test rows"]  # another answer is other data
    assert changed.facts["split"] == tasks[0].facts["split"]


def test_the_paper_draws_a_hundred_of_each_of_six_subjects(tmp_path: Path) -> None:
    given = load_config("paper-math").task
    data = write_math(tmp_path / "math.jsonl", 120)
    task = load_task(given.model_copy(update={"data": data}), 0)
    assert Counter(q.skill for q in task.dev) == {subject: 100 for subject in SUBJECTS if subject != "precalculus"}
    assert len(task.dev) + len(task.test) == 7 * 120
    assert Counter(q.skill for q in task.test)["precalculus"] == 120
    assert not {q.prompt for q in task.dev} & {q.prompt for q in task.test}


def test_a_subject_with_too_few_rows_is_named(tmp_path: Path) -> None:
    data = write_math(tmp_path / "math.jsonl", 4)
    with pytest.raises(DataError, match=r"math\.jsonl, algebra: 4 different questions; 5 for dev were asked for"):
        load_task(config(name="hendrycks_math", data=data, dev_size=35, test_size="rest"), 0)


def test_subjects_are_chosen_in_any_order(tmp_path: Path) -> None:
    data = write_math(tmp_path / "math.jsonl", 6)
    asked = {"name": "hendrycks_math", "data": data, "dev_size": 3, "test_size": "rest"}
    one, other = (
        load_task(config(subjects=names, **asked), 0) for names in (["geometry", "algebra"], ["algebra", "geometry"])
    )
    assert one.dev == other.dev
    assert {q.skill for q in (*one.dev, *one.test)} == {"algebra", "geometry"}
    with pytest.raises(UsageError, match=r"task\.dev_subjects names 'prealgebra'; allowed: algebra, geometry"):
        load_task(config(subjects=["algebra", "geometry"], dev_subjects=["prealgebra"], **asked), 0)
    with pytest.raises(UsageError, match=r"task\.subjects names 'Algebra'; allowed: algebra, counting_and_prob"):
        load_task(config(subjects=["Algebra"], **asked), 0)


def test_questions_to_score_a_model_on_are_the_first_of_each_subject(tmp_path: Path) -> None:
    data = write_math(tmp_path / "math.jsonl", 6)
    task = load_questions(config(name="hendrycks_math", data=data), 15, seed=3)
    assert Counter(q.skill for q in task.dev) == {s: 2 + (s == "algebra") for s in SUBJECTS}
    assert task.test == ()
    some = load_questions(config(name="hendrycks_math", data=data, subjects=["geometry"]), 4, seed=0)
    assert [q.gold for q in some.dev] == ["0", "1", "2", "3"]


def test_an_unknown_type_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "math.jsonl"
    path.write_text('{"problem": "p", "solution": "\\\\boxed{1}", "type": "Topology"}\n')
    with pytest.raises(DataError, match=r"math\.jsonl, line 1: unknown type 'Topology'; allowed: algebra, counting"):
        load_task(config(name="hendrycks_math", data=str(path)), 0)


def test_ids_tell_split_and_content(tmp_path: Path) -> None:
    data = write_gsm8k(tmp_path / "rows.jsonl", 6)
    asked = config(name="gsm8k", data=data, dev_size=3, test_size=3)
    task = load_task(asked, 0)
    assert {q.id.rpartition("-")[0] for q in task.dev} == {"gsm8k-dev"}
    assert {q.id.rpartition("-")[0] for q in task.test} == {"gsm8k-test"}
    again = {q.gold: q.id.rpartition("-")[2] for q in load_questions(asked, 6, 0).dev}
    assert all(again[q.gold] == q.id.rpartition("-")[2] for q in (*task.dev, *task.test))


def test_a_question_that_repeats_is_scored_as_often_and_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_gsm8k(path, 2)
    path.write_text(path.read_text() * 2)
    task = load_questions(config(name="gsm8k", data=str(path)), 4, seed=0)
    assert len({q.id for q in task.dev}) == 4
    assert task.dev[2].id == f"{task.dev[0].id}-2"
    assert task.notes == ("gsm8k: 2 test rows repeat an earlier question word for word",)


def test_impossible_requests(tmp_path: Path) -> None:
    data = write_gsm8k(tmp_path / "rows.jsonl", 5)
    with pytest.raises(UsageError, match=r"'task\.dev_size' got 0"):
        config(name="gsm8k", dev_size=0)
    with pytest.raises(UsageError, match=r"'task\.test_size' got 'all': .*'rest'"):
        config(name="gsm8k", test_size="all")
    with pytest.raises(DataError, match="2 different questions are left for test; 3 were asked for"):
        load_task(config(name="gsm8k", data=data, dev_size=3, test_size=3), 0)
    with pytest.raises(DataError, match="at least 1 were asked for"):
        load_task(config(name="gsm8k", data=data, dev_size=5, test_size="rest"), 0)
    with pytest.raises(UsageError, match="task 'arithmetic' has no setting 'data'"):
        load_task(config(name="arithmetic", data=data), 0)
    with pytest.raises(UsageError, match="task 'gsm8k' has no setting 'subjects'"):
        load_task(config(name="gsm8k", subjects=["algebra"]), 0)
    with pytest.raises(UsageError, match="task 'arithmetic' has no end; give a test size"):
        load_task(config(name="arithmetic", test_size="rest"), 0)
    with pytest.raises(UsageError, match="limit 0"):
        load_questions(config(name="gsm8k", data=data), 0, seed=0)


def test_the_arithmetic_task_grades_its_own_rationales() -> None:
    from selfdev.tasks.arithmetic import questions

    task = load_task(config(name="arithmetic", dev_size=6, test_size=6), 3)
    problems = questions("dev", 6, 3)
    assert [question.id for question in task.dev] == [problem.id for problem in problems]
    for question, problem in zip(task.dev, problems, strict=True):
        assert task.grade(problem.rationale, question.gold).correct
        assert not task.grade(problem.rationale, question.gold + "0").correct
        assert len(problem.rationale) < task.max_new_tokens  # fits even with one token a character
    assert not {question.prompt for question in task.dev} & {question.prompt for question in task.test}
    assert load_task(config(name="arithmetic", dev_size=6, test_size=6), 4).facts["split"] != task.facts["split"]

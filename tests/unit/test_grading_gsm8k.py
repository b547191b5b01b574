"""GSM8K grading and loading. The case table is data: every grading bug becomes a row of grading/gsm8k.json.

Its verdicts were worked out from the filters of lm-eval 0.4.13, not from ours.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.errors import DataError, UsageError
from selfdev.grading.base import Grade
from selfdev.grading.gsm8k import grade_flexible, grade_strict, normalise
from selfdev.tasks import load_questions, load_task
from selfdev.tasks.gsm8k import few_shot_prefix, load_rows

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "grading" / "gsm8k.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
def test_verdict(case: dict[str, Any]) -> None:
    gold = normalise(case["gold"])
    assert grade_strict(case["output"], gold) == Grade(*case["strict"])
    assert grade_flexible(case["output"], gold) == Grade(*case["flexible"])


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


def write_rows(path: Path, count: int) -> Path:
    rows = [{"question": f"How many are {n} and {n}?", "answer": f"{n} + {n}\n#### {2 * n:,}"} for n in range(count)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_the_five_shots_are_sound() -> None:
    shots = few_shot_prefix().split("\n\n")
    assert shots.pop() == ""
    assert len(shots) == 5
    for shot in shots:
        assert shot.startswith("Question: ")
        question, answer = shot.split("\nAnswer: ")
        assert "\n" not in question
        for left, right in re.findall(r"([\d.]+ [*/+-] [\d.]+) = ([\d.]+)", answer):
            assert eval(left) == float(right)
        assert answer.splitlines()[-1] == f"#### {re.findall('[0-9.]+', answer)[-1]}"
        assert grade_strict(answer, re.findall(r"= ([\d.]+)", answer)[-1]).correct


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_task_from_a_file(tmp_path: Path, name: str) -> None:
    task = load_task("gsm8k", dev_size=4, test_size=5, seed=1, data=write_rows(tmp_path / name, 12))
    assert (len(task.dev), len(task.test)) == (4, 5)
    texts = {question.prompt for question in task.dev + task.test}
    assert len(texts) == 9
    question = task.dev[0]
    assert question.prompt.startswith(few_shot_prefix())
    own = question.prompt.removeprefix(few_shot_prefix())
    found = re.fullmatch(r"Question: How many are (\d+) and \1\?\nAnswer:", own)
    assert found
    assert question.gold == str(2 * int(found.group(1)))
    assert task.stop[0] == "Question:"
    assert task.max_new_tokens == 256
    assert task.grade("#### 4", "4") == Grade("4", True)


def test_the_draw_follows_the_seed(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 30)
    one, again, other = (load_task("gsm8k", dev_size=5, test_size=5, seed=seed, data=data) for seed in (1, 1, 2))
    assert (one.dev, one.test) == (again.dev, again.test)
    assert one.dev != other.dev
    rest = load_task("gsm8k", dev_size=5, test_size=None, seed=1, data=data)
    assert rest.dev == one.dev
    assert len(rest.test) == 25


def test_ids_tell_split_and_content(tmp_path: Path) -> None:
    task = load_task("gsm8k", dev_size=3, test_size=3, seed=0, data=write_rows(tmp_path / "rows.jsonl", 6))
    assert all(re.fullmatch(r"gsm8k-dev-[0-9a-f]{12}", question.id) for question in task.dev)
    assert all(re.fullmatch(r"gsm8k-test-[0-9a-f]{12}", question.id) for question in task.test)
    assert len({question.id for question in task.dev + task.test}) == 6


def test_scoring_takes_the_first_rows_in_order(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 2000)
    task = load_questions("gsm8k", limit=3, seed=9, data=data)
    assert [question.gold for question in task.dev] == ["0", "2", "4"]
    assert task.test == ()
    assert load_questions("gsm8k", limit=2000, seed=9, data=data).dev[-1].gold == "3998"  # written 3,998


def test_a_repeated_question_is_kept_once(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", 3)
    path.write_text(path.read_text() * 2)
    assert len(load_rows(path)) == 3


GOOD = '{"question": "q", "answer": "#### 1"}\n'


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "holds no rows"),
        ("\n\n", "holds no rows"),
        (GOOD + "{", "line 2: not JSON"),
        (GOOD + "[1]", "line 2: a JSON object"),
        (GOOD + '\n{"question": "r"}', "line 3: field 'answer' is missing, empty or no text; found fields: question"),
        ('{"question": " ", "answer": "#### 1"}', "line 1: field 'question'"),
        ('{"question": 3, "answer": "#### 1"}', "line 1: field 'question'"),
        ('{"problem": "q", "solution": "1"}', "found fields: problem, solution"),
        ('{"question": "q", "answer": "seven"}', "line 1: the answer does not end in '#### N'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_rows(path)
    assert part in str(error.value)
    assert str(path) in str(error.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file"):
        load_rows(tmp_path / "absent.jsonl")
    whole = write_rows(tmp_path / "rows.jsonl.gz", 500)
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be read after line"):
        load_rows(whole)
    (tmp_path / "plain.jsonl.gz").write_text(GOOD)
    with pytest.raises(DataError, match="cannot be read after line 0"):
        load_rows(tmp_path / "plain.jsonl.gz")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9", "answer": "#### 1"}\n')
    with pytest.raises(DataError, match="cannot be read"):
        load_rows(tmp_path / "latin.jsonl")


def test_impossible_requests(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 5)
    with pytest.raises(UsageError, match="unknown task 'math'; allowed: arithmetic, gsm8k"):
        load_task("math", dev_size=1, test_size=1, seed=0)
    with pytest.raises(UsageError, match="dev size 0"):
        load_task("gsm8k", dev_size=0, test_size=1, seed=0, data=data)
    with pytest.raises(DataError, match="has 5 different questions; 3 for dev and 3 for test"):
        load_task("gsm8k", dev_size=3, test_size=3, seed=0, data=data)
    with pytest.raises(DataError, match="at least 1 for test"):
        load_task("gsm8k", dev_size=5, test_size=None, seed=0, data=data)
    with pytest.raises(UsageError, match="makes its own questions"):
        load_task("arithmetic", dev_size=1, test_size=1, seed=0, data=data)
    with pytest.raises(UsageError, match="limit 0"):
        load_questions("gsm8k", limit=0, seed=0, data=data)


def test_the_arithmetic_task_grades_its_own_rationales() -> None:
    from selfdev.tasks.arithmetic import questions

    task = load_task("arithmetic", dev_size=6, test_size=6, seed=3)
    problems = questions("dev", 6, 3)
    assert [question.id for question in task.dev] == [problem.id for problem in problems]
    for question, problem in zip(task.dev, problems, strict=True):
        assert task.grade(problem.rationale, question.gold).correct
        assert not task.grade(problem.rationale, question.gold + "0").correct
        assert len(problem.rationale) < task.max_new_tokens  # fits even with one token a character
    assert not {question.prompt for question in task.dev} & {question.prompt for question in task.test}

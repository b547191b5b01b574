"""Prompts: the frozen prefixes of search, and lm-eval 0.4.13's own as whole texts written out by hand.

That lm-eval itself gives the same is checked by benchmarks/compare_lm_eval.py, which needs lm-eval.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sympy

from selfdev.config import TaskConfig, section_from
from selfdev.errors import DataError, UsageError
from selfdev.grading import gold_of, load_grader
from selfdev.tasks import hendrycks_math, load_questions, load_task
from selfdev.tasks.shots import Layout, Shot, read_shots, sampled_positions

TRAIN = [{"question": f"T{n}?", "answer": f"{n}<<{n}>>\n#### {n}"} for n in range(4)]
TEST = [{"question": f"Q{n}?", "answer": f"So {n}.\n#### {n}"} for n in range(3)]
NO_BOX = r"line 2: the solution has no \boxed{}, so there is nothing to compare with"
MATH = [{"problem": "What is $1+1$?", "solution": r"It is $\boxed{2}$.", "type": "Prealgebra"}]


def config(**settings: Any) -> TaskConfig:
    return section_from(TaskConfig, "task", **settings)


def write(path: Path, rows: object) -> str:
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)  # type: ignore[attr-defined]
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_lm_evals_gsm8k_as_text(tmp_path: Path) -> None:
    """Draws of `random.Random(1234)` from four rows: 3 and 0, then 0 and 3, then 0 and 2."""
    data, train = write(tmp_path / "test.jsonl", TEST), write(tmp_path / "train.jsonl", TRAIN)
    task = load_questions(config(name="gsm8k", data=data, train_data=train, protocol="lm-eval", shots=2), 3, seed=5)
    assert [question.prompt for question in task.dev] == [
        "Question: T3?\nAnswer: 3<<3>>\n#### 3\n\nQuestion: T0?\nAnswer: 0<<0>>\n#### 0\n\nQuestion: Q0?\nAnswer:",
        "Question: T0?\nAnswer: 0<<0>>\n#### 0\n\nQuestion: T3?\nAnswer: 3<<3>>\n#### 3\n\nQuestion: Q1?\nAnswer:",
        "Question: T0?\nAnswer: 0<<0>>\n#### 0\n\nQuestion: T2?\nAnswer: 2<<2>>\n#### 2\n\nQuestion: Q2?\nAnswer:",
    ]
    assert (task.stop, task.max_new_tokens) == (("Question:", "</s>", "<|im_end|>"), 256)
    assert task.facts["protocol"] == "lm-eval 0.4.13 gsm8k 3.0, 2 shots"


def test_lm_evals_shots_stay_with_their_row_in_a_search(tmp_path: Path) -> None:
    data, train = write(tmp_path / "test.jsonl", TEST), write(tmp_path / "train.jsonl", TRAIN)
    asked = config(name="gsm8k", data=data, train_data=train, protocol="lm-eval", shots=2, dev_size=1, test_size="rest")
    first = {question.gold: question.prompt for question in load_questions(asked, 3, seed=0).dev}
    for seed in range(4):
        task = load_task(asked, seed)
        assert {question.gold: question.prompt for question in (*task.dev, *task.test)} == first


def test_lm_evals_draw_from_the_published_train_split() -> None:
    """Five of 7,473 rows for each of the first two documents; lm-eval itself draws these."""
    assert sampled_positions(7473, 5, 2) == [[6374, 3610, 957, 61, 742], [7462, 6610, 4769, 286, 5501]]
    with pytest.raises(DataError, match="5 shots are drawn for each question; the train rows are only 4"):
        sampled_positions(4, 5, 1)


def test_lm_evals_hendrycks_math_as_text(tmp_path: Path) -> None:
    data = write(tmp_path / "math.jsonl", MATH)
    task = load_questions(config(name="hendrycks_math", data=data, protocol="lm-eval", grader="math-hendrycks"), 1, 0)
    assert task.dev[0].prompt == "Problem: What is $1+1$?\nAnswer:"
    assert (task.stop, task.max_new_tokens, task.dev[0].gold) == (("Problem:",), 256, "2")


def test_lm_evals_minerva_math_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real four worked problems are rows of MATH; these stand in for them, hash and all."""
    shots = [{"problem": f"P{n}", "solution": f"S{n}", "few_shot": "1"} for n in range(4)]
    data, file = write(tmp_path / "math.jsonl", MATH), write(tmp_path / "minerva.json", shots)
    asked = config(name="hendrycks_math", data=data, protocol="lm-eval", shots_file=file)
    with pytest.raises(DataError, match=r"minerva\.json does not hold the four worked problems of lm-eval 0\.4\.13"):
        load_questions(asked, 1, seed=0)
    prefix = "".join(f"Problem:\nP{n}\n\nSolution: S{n}\n\n" for n in range(4))
    monkeypatch.setattr(hendrycks_math, "MINERVA_HASH", hendrycks_math.text_hash(prefix))
    task = load_questions(asked, 1, seed=0)
    assert task.dev[0].prompt == prefix + "Problem:\nWhat is $1+1$?\n\nSolution:"
    assert (task.stop, task.max_new_tokens) == (("Problem:",), 256)
    assert task.graders == ("math-minerva", "math-verify")
    fewer = load_questions(asked.model_copy(update={"shots": 1}), 1, seed=0)
    assert fewer.dev[0].prompt == "Problem:\nP0\n\nSolution: S0\n\nProblem:\nWhat is $1+1$?\n\nSolution:"
    none = load_questions(config(name="hendrycks_math", data=data, protocol="lm-eval", shots=0), 1, seed=0)
    assert none.dev[0].prompt == "Problem:\nWhat is $1+1$?\n\nSolution:"


def test_search_puts_one_frozen_prefix_before_every_question(tmp_path: Path) -> None:
    data = write(tmp_path / "test.jsonl", TEST)
    task = load_task(config(name="gsm8k", data=data, dev_size=1, test_size="rest"), 0)
    prompts = [question.prompt for question in (*task.dev, *task.test)]
    prefixes = {prompt[: prompt.rindex("Question: Q")] for prompt in prompts}
    (prefix,) = prefixes
    assert prefix.count("Question: ") == prefix.count("\nAnswer: ") == prefix.count("\n\n") == 5
    assert {prompt.removeprefix(prefix) for prompt in prompts} == {f"Question: Q{n}?\nAnswer:" for n in range(3)}
    few = load_task(config(name="gsm8k", data=data, dev_size=1, test_size="rest", shots=2), 0)
    assert prefix.startswith(few.dev[0].prompt[: few.dev[0].prompt.rindex("Question: Q")])
    plain = load_questions(config(name="gsm8k", data=data, shots=0), 1, seed=0)
    assert plain.dev[0].prompt == "Question: Q0?\nAnswer:"


def test_the_frozen_prefix_of_gsm8k_is_sound() -> None:
    shots = read_shots("tasks/gsm8k-5shot.json")
    assert len(shots) == 5
    for shot in shots:
        assert "\n" not in shot.question
        worked = re.findall(r"([\d.]+ [*/+-] [\d.]+) = ([\d.]+)", shot.answer)
        assert len(worked) == len(shot.answer.splitlines()) - 1
        for left, right in worked:
            assert eval(left) == float(right)
        assert shot.answer.splitlines()[-1] == f"#### {worked[-1][1]}"
        for name in ("gsm8k-strict", "gsm8k-flexible", "number"):
            assert load_grader(name)(f" {shot.answer}", worked[-1][1]).correct


def solved() -> list[str]:
    """The five problems of prompts/tasks/math-5shot.json, solved here from their statements."""
    x = sympy.Symbol("x", real=True)
    (crossing,) = sympy.Line((1, 5), (4, -1)).intersection(sympy.Line((0, 0), (1, 0)))
    codes = sum(1 for a in "ABCD" for b in "ABCD" for _ in range(1, 10) if a != b)
    smallest = next(n for n in range(1, 100) if n % 9 == 4 and n % 11 == 6)
    circle = sympy.Triangle((0, 0), (9, 0), (0, 12)).circumcircle
    interval = sympy.solveset(x**2 - 2 * x <= 15, x, sympy.S.Reals)
    return [
        sympy.latex(crossing.x),
        str(codes),
        str(smallest),
        sympy.latex(circle.area),
        sympy.latex(interval).replace(r"\left", "").replace(r"\right", ""),
    ]


def test_the_frozen_prefix_of_math_is_sound() -> None:
    shots = read_shots("tasks/math-5shot.json")
    assert len(shots) == 5
    for shot, answer in zip(shots, solved(), strict=True):
        assert "Problem:" not in shot.question + shot.answer  # the stop string
        assert shot.answer.count(r"\boxed") == 1
        reference = rf"${answer}$ that is $\boxed{{{answer}}}$"
        for name in ("math", "math-minerva", "math-verify"):
            assert load_grader(name)(f" {shot.answer}", gold_of(name, reference)).correct, (name, shot.question)


def test_worked_problems_in_either_naming(tmp_path: Path) -> None:
    file = write(tmp_path / "own.json", [{"question": "a", "answer": "b"}, {"problem": "c", "solution": "d"}])
    assert read_shots(file) == (Shot("a", "b"), Shot("c", "d"))
    assert read_shots(file, 1) == (Shot("a", "b"),)
    assert read_shots(file, 0) == ()
    assert Layout("Q: ", "\nA:").prefix(read_shots(file)) == "Q: a\nA: b\n\nQ: c\nA: d\n\n"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "cannot be read as JSON"),
        ('{"question": "a", "answer": "b"}', "a JSON list of objects with question and answer is needed"),
        ('[{"question": "a", "answer": "b"}, {"question": "a"}]', "entry 2: an object with question and answer"),
        ('[{"question": "a", "answer": 3}]', "entry 1"),
        ("[7]", "entry 1"),
    ],
)
def test_worked_problems_that_are_none(tmp_path: Path, content: str, part: str) -> None:
    file = tmp_path / "own.json"
    file.write_text(content)
    with pytest.raises(DataError) as caught:
        read_shots(file)
    assert part in str(caught.value)
    assert str(file) in str(caught.value)


def test_worked_problems_that_do_not_suffice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"9 shots asked for; .*gsm8k-5shot\.json holds 5"):
        read_shots("tasks/gsm8k-5shot.json", 9)
    with pytest.raises(DataError, match=r"no worked problems mine\.json; .* ours: .*gsm8k-5shot\.json, tasks/math"):
        read_shots("mine.json")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"name": "gsm8k", "protocol": "lm-eval", "shots_file": "x.json"}, "draws the shots of gsm8k from the train"),
        ({"name": "gsm8k", "protocol": "lm-eval", "dev_from": "train"}, "so dev must come from test"),
        ({"name": "hendrycks_math", "protocol": "lm-eval"}, "write them to a file where lm-eval is installed (py"),
        (
            {"name": "hendrycks_math", "protocol": "lm-eval", "grader": "math-hendrycks", "shots": 4},
            "lm-eval's hendrycks_math is asked without shots",
        ),
        ({"name": "jsonl", "data": "x", "protocol": "lm-eval"}, "lm-eval has no task for own data"),
        ({"name": "jsonl", "data": "x", "shots": 2}, "2 shots asked for and no file of worked problems given"),
        ({"name": "jsonl"}, "has no data of its own; give test rows with --data FILE"),
        ({"name": "jsonl", "data": "x", "subjects": ["algebra"]}, "task 'jsonl' has no setting 'subjects'"),
        ({"name": "arithmetic", "protocol": "lm-eval"}, "task 'arithmetic' has no setting 'protocol'"),
        ({"name": "gsm8k", "grader": "judge"}, "unknown grader 'judge'; allowed:"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(settings: dict[str, Any], part: str, tmp_path: Path) -> None:
    if settings["name"] == "gsm8k":
        settings = {**settings, "data": write(tmp_path / "test.jsonl", TEST)}
    with pytest.raises((UsageError, DataError)) as caught:
        load_questions(config(**settings), 1, seed=0)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "row", "part"),
    [
        ("gsm8k", {"question": "q", "answer": "seven"}, "line 2: the answer does not end in '#### N'"),
        ("hendrycks_math", {"problem": "q", "solution": "It is 2.", "type": "Algebra"}, NO_BOX),
        (
            "hendrycks_math",
            {"problem": "q", "solution": r"\boxed{}", "type": "Algebra"},
            "line 2: the reference has no",
        ),
        ("jsonl", {"question": "q", "answer": "many"}, "line 2: "),
    ],
)
def test_a_row_without_a_gold_answer_is_named(tmp_path: Path, name: str, row: dict[str, str], part: str) -> None:
    good = {"question": "q1", "problem": "p", "answer": "#### 7", "solution": r"\boxed{7}", "type": "Algebra"}
    path = tmp_path / "rows.jsonl"
    write(path, [good, row])
    for load in (lambda c: load_task(c, 0), lambda c: load_questions(c, 2, 0)):
        with pytest.raises(DataError) as caught:
            load(config(name=name, data=str(path), dev_size=1, test_size=1))
        assert f"{path}, {part}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_own_data_in_svamps_form(tmp_path: Path) -> None:
    """SVAMP: a body, which may lack its full stop, and a question; the answer is a whole float."""
    rows = [
        {"ID": "chal-1", "Body": "Ana has 3 pens", "Question": "How many are left after 1 is lost?", "Answer": 2.0},
        {"ID": "chal-2", "Body": "Ben has 5 hats.", "Question": "How many hats?", "Answer": 5.0},
    ]
    data = write(tmp_path / "svamp.jsonl", rows)
    asked = config(name="jsonl", data=data, question_fields=["Body", "Question"], answer_field="Answer")
    task = load_questions(asked, 2, seed=0)
    assert [(q.prompt, q.gold) for q in task.dev] == [
        ("Question: Ana has 3 pens How many are left after 1 is lost?\nAnswer:", "2"),
        ("Question: Ben has 5 hats. How many hats?\nAnswer:", "5"),
    ]
    assert task.grade(" 3 - 1 = 2", "2").correct
    assert not task.grade(" 3 - 1 = 2.5", "2").correct
    with_shots = load_questions(asked.model_copy(update={"shots_file": "tasks/gsm8k-5shot.json"}), 2, seed=0)
    assert with_shots.dev[0].prompt.endswith("\n\n" + task.dev[0].prompt)
    assert with_shots.dev[0].prompt.count("Question: ") == 6


def test_own_data_with_a_grader_of_choice(tmp_path: Path) -> None:
    data = write(tmp_path / "own.jsonl", [{"question": "Capital of France?", "answer": "Paris"}])
    task = load_questions(config(name="jsonl", data=data, grader="exact"), 1, seed=0)
    assert (task.graders, task.dev[0].gold) == (("exact",), gold_of("exact", "Paris"))
    assert task.grade(" Paris", task.dev[0].gold).correct
    assert not task.grade(" Rome", task.dev[0].gold).correct

"""`selfdev grade`: what it shows and writes, and one clear line for every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfdev.cli import main
from selfdev.cli.grade import TASK_GRADERS
from selfdev.grading import GRADERS

ROWS: list[dict[str, Any]] = [
    {"id": "a", "completion": "3 + 4 = 7\n#### 7", "gold": "so 3 + 4 = 7\n#### 7", "truncated": False},
    {"id": "b", "completion": "It is 1,000.", "gold": "#### 1000", "truncated": True},
    {"id": "c", "completion": "", "gold": "8", "truncated": True},
    {"id": 4, "completion": "#### 8", "gold": 9, "truncated": False},
]
GOOD = '{"id": "a", "completion": "#### 7", "gold": "7"}\n'


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output on one line, standard error) of the command."""
    with pytest.raises(SystemExit) as end:
        main(["grade", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(end.value.code or 0), " ".join(captured.out.split()), captured.err


def test_gsm8k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = write(tmp_path / "rows.jsonl", ROWS), tmp_path / "verdicts.jsonl"
    code, text, errors = run(capsys, "--task", "gsm8k", "--completions", file, "--output", output)
    assert (code, errors) == (0, "")
    assert "gsm8k: 4 completions" in text
    # Wilson interval of 1 in 4: centre (1/4 + z2/8) / (1 + z2/4), z2 = 3.8415
    assert "gsm8k-strict │ 0.250 │ 1/4 │ 0.046 to 0.699 │ 2 │ 0" in text
    assert "gsm8k-flexible │ 0.500 │ 2/4 │ 0.150 to 0.850 │ 1 │ 0" in text
    assert "1 empty, 2 truncated" in text
    assert read(output) == [
        {"id": "a", "gold": "so 3 + 4 = 7\n#### 7", **both("7", True, "7", True), "truncated": False},
        {"id": "b", "gold": "#### 1000", **both(None, False, "1000", True), "truncated": True},
        {"id": "c", "gold": "8", **both(None, False, None, False), "truncated": True},
        {"id": "4", "gold": "9", **both("8", False, "8", False), "truncated": False},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "verdicts.jsonl"]


def both(strict: str | None, strictly: bool, flexible: str | None, flexibly: bool) -> dict[str, Any]:
    return {
        "gsm8k-strict": {"extracted": strict, "correct": strictly, "timed_out": False},
        "gsm8k-flexible": {"extracted": flexible, "correct": flexibly, "timed_out": False},
    }


def test_math(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = "Final Answer: The final answer is $0.5$. I hope it is correct."
    rows = [
        {"id": 1, "completion": closing, "gold": "We halve it: $\\boxed{\\frac{1}{2}}$."},
        {"id": 2, "completion": "$\\boxed{\\sqrt{8}}$", "gold": "2\\sqrt{2}"},
        {"id": 3, "completion": "so $x = 3$", "gold": "4"},
    ]
    output = tmp_path / "verdicts.jsonl"
    code, text, _ = run(capsys, "-t", "math", "-c", write(tmp_path / "rows.jsonl", rows), "-o", output)
    assert code == 0
    assert "math │ 0.667 │ 2/3" in text
    assert "truncated unknown: no row has the field" in text
    correct = {name: [row[name]["correct"] for row in read(output)] for name in TASK_GRADERS["math"]}
    assert correct == {
        "math": [True, True, False],
        "math-minerva": [True, False, False],
        "math-verify": [True, True, False],
        "math-hendrycks": [True, False, False],
    }


def test_own_data_and_chosen_graders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": 1, "completion": "It is $51.00", "gold": 51.0}, {"id": 1, "completion": "51", "gold": 51}]
    file = write(tmp_path / "rows.jsonl", rows)
    code, text, _ = run(capsys, "-t", "jsonl", "-c", file)
    assert code == 0
    assert "exact │ 0.500 │ 1/2" in text
    assert "number │ 1.000 │ 2/2" in text
    assert "1 ids occur again" in text
    code, text, _ = run(capsys, "-t", "jsonl", "-c", file, "-g", "number, gsm8k-flexible,number")
    assert code == 0
    assert "exact" not in text
    assert text.count("number │") == 1
    assert "gsm8k-flexible │ 0.500" in text


def test_some_rows_say_whether_they_were_truncated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ROWS[1], {"id": 2, "completion": "#### 7", "gold": "7"}]
    code, text, _ = run(capsys, "-t", "gsm8k", "-c", write(tmp_path / "rows.jsonl", rows))
    assert code == 0
    assert "1 truncated, 1 rows without the field 'truncated'" in text


def test_every_task_has_graders_that_exist() -> None:
    assert {name for names in TASK_GRADERS.values() for name in names} <= set(GRADERS)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "holds no rows; one JSON object a line is needed"),
        ("\n \n", "holds no rows"),
        (GOOD + "{", "line 2: not JSON"),
        (GOOD + "[1]\n", "line 2: a JSON object with id, completion, gold is needed"),
        (GOOD + "\n" + GOOD + "7", "line 4: a JSON object"),
        ('{"id": 1, "completion": "7"}', "line 1: field 'gold' is missing; found fields: id, completion"),
        ("{}", "line 1: field 'id' is missing; found fields: none"),
        ('{"id": 1, "output": "7", "gold": "7"}', "field 'completion' is missing; found fields: id, output, gold"),
        ('{"id": 1, "completion": null, "gold": "7"}', "line 1: field 'completion' is no text"),
        ('{"id": 1, "completion": ["7"], "gold": "7"}', "line 1: field 'completion' is no text"),
        (
            '{"id": 1, "completion": "7", "gold": null}',
            "line 1: field 'gold' is neither text nor a number",
        ),
        ('{"id": 1, "completion": "7", "gold": " "}', "line 1: field 'gold'"),
        ('{"id": 1, "completion": "7", "gold": true}', "line 1: field 'gold'"),
        ('{"id": 1, "completion": "7", "gold": NaN}', "line 1: not JSON (NaN is no JSON number)"),
        ('{"id": "", "completion": "7", "gold": "7"}', "line 1: field 'id'"),
        ('{"id": 1, "completion": "7", "gold": "7", "truncated": 1}', "field 'truncated' is neither true nor false"),
        (GOOD + '{"id": 1, "completion": "7", "gold": "seven"}', "line 2: the reference holds no number: 'seven'"),
        ("[" * 100_000, "line 1: not JSON"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, part: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(content, encoding="utf-8")
    code, text, errors = run(capsys, "-t", "gsm8k", "-c", file, "-o", tmp_path / "verdicts.jsonl")
    assert (code, text, errors.count("\n")) == (1, "", 1)
    assert errors.startswith(f"selfdev: {file}")
    assert part in errors
    assert list(tmp_path.iterdir()) == [file]


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(GOOD.encode() + b'{"id": 1, "completion": "caf\xe9", "gold": "7"}\n')
    absent = tmp_path / "absent.jsonl"
    for file, part in ((latin, "cannot be read"), (absent, "no file"), (tmp_path, "no file")):
        code, text, errors = run(capsys, "-t", "gsm8k", "-c", file)
        assert (code, text, errors.count("\n")) == (1, "", 1)
        assert part in errors
        assert str(file) in errors


def test_a_reference_without_a_box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "rows.jsonl", [{"id": 1, "completion": "\\boxed{1}", "gold": "so \\boxed{1"}])
    code, _, errors = run(capsys, "-t", "math", "-c", file)
    assert code == 1
    assert errors == f"selfdev: {file}, line 1: the reference has no closed \\boxed{{}} with an answer in it\n"


def test_what_cannot_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(GOOD, encoding="utf-8")
    task = ("-t", "gsm8k", "-c", file)
    for arguments, part in (
        (("-t", "maths", "-c", file), "unknown task 'maths'; allowed: arithmetic, gsm8k, math"),
        ((*task, "-g", "strict"), "unknown grader 'strict'; allowed: gsm8k-strict"),
        ((*task, "-g", ""), "unknown grader ''"),
        ((*task, "-o", tmp_path), f"cannot write {tmp_path}"),
        ((*task, "-o", tmp_path / "no" / "verdicts.jsonl"), "give a file in an existing, writable directory"),
        ((*task, "-o", file), "is the file of completions; give another name"),
        (("-t", "gsm8k"), "Missing option '--completions'"),
    ):
        code, text, errors = run(capsys, *arguments)
        assert (code, text, errors.count("\n")) == (2, "", 1)
        assert part in errors
    assert file.read_text(encoding="utf-8") == GOOD
    assert list(tmp_path.iterdir()) == [file]


def test_an_output_that_fails_in_the_end_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, output = write(tmp_path / "rows.jsonl", ROWS), tmp_path / "verdicts.jsonl"
    output.write_text("older verdicts\n", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr("pathlib.Path.replace", full)
    code, _, errors = run(capsys, "-t", "gsm8k", "-c", file, "-o", output)
    assert (code, errors) == (2, f"selfdev: cannot write {output}: No space left on device\n")
    assert output.read_text(encoding="utf-8") == "older verdicts\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "verdicts.jsonl"]

"""`selfdev evaluate`: what it shows and writes, every task through it, and what it refuses before it begins."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from selfdev.cli.evaluate import evaluate
from selfdev.errors import DataError, ModelError, UsageError
from tests.tiny import save_tiny, tiny_llama

GSM8K = [{"question": f"How many are {n} and {n}?", "answer": f"{n} + {n}\n#### {2 * n:,}"} for n in range(9)]
KINDS = ("Algebra", "Geometry", "Algebra")
MATH = [
    {"problem": f"Halve ${n}$.", "solution": rf"We get $\boxed{{\frac{{{n}}}{{2}}}}$.", "type": kind}
    for n, kind in zip((1, 3, 5), KINDS, strict=True)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("tiny") / "model", tiny_llama(seed=3)))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without the breaks that the width of the terminal makes."""
    return " ".join(capsys.readouterr().out.split())


def test_verdicts_are_written_and_shown(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.jsonl"
    evaluate(model, task="arithmetic", limit=5, device="cpu", batch_size=2, output=output)
    rows = read(output)
    assert len({row["id"] for row in rows}) == 5
    for row in rows:
        assert 1 <= row["tokens"] <= 24
        assert list(row["verdicts"]) == ["gsm8k-strict", "gsm8k-flexible"]
        for verdict in row["verdicts"].values():
            assert verdict["correct"] == (verdict["extracted"] == row["gold"])
    text = shown(capsys)
    correct = sum(row["verdicts"]["gsm8k-strict"]["correct"] for row in rows)
    assert f"gsm8k-strict │ {correct / 5:.3f} │ {correct}/5 │" in text
    assert f"{sum(row['truncated'] for row in rows)} truncated at 24 tokens" in text
    assert f"{sum(not row['completion'].strip() for row in rows)} empty" in text
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_same_command_gives_the_same_rows(model: str, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for output in outputs:
        evaluate(model, task="arithmetic", limit=4, device="cpu", batch_size=4, output=output)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_gsm8k_under_both_protocols(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, train, output = (tmp_path / name for name in ("test.jsonl", "train.jsonl", "rows.jsonl"))
    write(data, GSM8K[:3])
    write(train, GSM8K[2:])  # one question in both
    evaluate(model, data=data, train_data=train, limit=2, device="cpu", max_new_tokens=4, output=output)
    assert [row["gold"] for row in read(output)] == ["0", "2"]
    text = shown(capsys)
    assert "protocol │ search, 5 shots" in text
    assert "warning: gsm8k: test questions that are also in train: 2 the same text with other numbers" in text
    evaluate(
        model, data=data, train_data=train, protocol="lm-eval", limit=3, device="cpu", max_new_tokens=4, output=output
    )
    assert [row["gold"] for row in read(output)] == ["0", "2", "4"]
    assert "protocol │ lm-eval 0.4.13 gsm8k 3.0, 5 shots" in shown(capsys)


def test_math_is_graded_by_every_grader(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.jsonl"
    data = write(tmp_path / "math.jsonl", MATH)
    evaluate(model, task="hendrycks_math", data=data, limit=2, device="cpu", max_new_tokens=3, output=output)
    assert [row["gold"] for row in read(output)] == [r"\frac{1}{2}", r"\frac{3}{2}"]  # one of each subject
    assert list(read(output)[0]["verdicts"]) == ["math", "math-minerva", "math-verify", "math-hendrycks"]
    evaluate(
        model, task="hendrycks_math", data=data, subject=["algebra"], grader="math-hendrycks", device="cpu",
        max_new_tokens=3, output=output,
    )  # fmt: skip
    assert [list(row["verdicts"]) for row in read(output)] == [["math-hendrycks"]] * 2
    assert "2 of hendrycks_math" in shown(capsys)


def test_own_data_with_fields_of_ones_own(model: str, tmp_path: Path) -> None:
    data = write(tmp_path / "svamp.jsonl", [{"Body": "Ana has 3 pens", "Question": "How many?", "Answer": 3.0}])
    output = tmp_path / "rows.jsonl"
    evaluate(
        model, task="jsonl", data=data, question_field=["Body", "Question"], answer_field="Answer", device="cpu",
        max_new_tokens=3, output=output,
    )  # fmt: skip
    (row,) = read(output)
    assert row["gold"] == "3"
    assert list(row["verdicts"]) == ["number"]


def test_bad_input_is_refused_before_anything_is_written(model: str, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    data = write(tmp_path / "test.jsonl", GSM8K)
    with pytest.raises(DataError, match="holds no rows"):
        evaluate(model, data=empty, device="cpu", output=output)
    with pytest.raises(DataError, match=r"line 1: field 'question' is missing"):
        evaluate(model, data=write(tmp_path / "math.jsonl", MATH), device="cpu", output=output)
    with pytest.raises(UsageError, match="batch size 0"):
        evaluate(model, batch_size=0, output=output)
    with pytest.raises(UsageError, match="max new tokens 0"):
        evaluate(model, max_new_tokens=0, output=output)
    with pytest.raises(UsageError, match="unknown dtype 'int4'; allowed: auto, float32"):
        evaluate(model, dtype="int4", output=output)
    with pytest.raises(UsageError, match="unknown engine 'tgi'; allowed: transformers, vllm"):
        evaluate(model, engine="tgi", output=output)
    with pytest.raises(UsageError, match="cannot write"):
        evaluate(model, output=tmp_path / "absent" / "rows.jsonl")
    with pytest.raises(UsageError, match="limit 0"):
        evaluate(model, task="arithmetic", limit=0, device="cpu", output=output)
    with pytest.raises(UsageError, match=r"'task\.name' got 'mmlu'"):
        evaluate(model, task="mmlu", device="cpu", output=output)
    with pytest.raises(UsageError, match="unknown grader 'judge'; allowed: gsm8k-strict"):
        evaluate(model, data=data, grader="judge", device="cpu", output=output)
    with pytest.raises(ModelError, match="has no chat template"):
        evaluate(model, data=data, chat_template=True, device="cpu", output=output)
    with pytest.raises(ModelError, match="no such directory"):
        evaluate(str(tmp_path / "absent model"), task="arithmetic", device="cpu", output=output)
    assert not output.exists()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_an_engine_that_is_not_installed_is_named(model: str) -> None:
    with pytest.raises(UsageError, match="engine is vllm, which is not installed; pip install"):
        evaluate(model, task="arithmetic", engine="vllm", device="cpu")


@pytest.mark.vllm
def test_vllm_answers_as_transformers_does(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path / "model", tiny_llama(seed=3, hidden=128)))  # its kernels want heads of 32 or more
    texts = []
    for engine in ("transformers", "vllm"):
        output = tmp_path / f"{engine}.jsonl"
        evaluate(
            model, task="arithmetic", limit=4, engine=engine, device="cpu", dtype="float32", max_new_tokens=4,
            output=output,
        )  # fmt: skip
        texts.append([row["completion"] for row in read(output)])
    assert texts[0] == texts[1]

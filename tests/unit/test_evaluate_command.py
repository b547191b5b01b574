from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfdev.cli.evaluate import evaluate
from selfdev.errors import DataError, ModelError, UsageError
from tests.tiny import save_tiny, tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save_tiny(tmp_path / "model", tiny_llama(seed=3)))


def test_verdicts_are_written_and_shown(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.jsonl"
    evaluate(model, task="arithmetic", limit=5, device="cpu", batch_size=2, output=output)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert len({row["id"] for row in rows}) == 5
    for row in rows:
        assert 1 <= row["tokens"] <= 24
        assert row["strict"]["correct"] == (row["strict"]["extracted"] == row["gold"])
    shown = capsys.readouterr().out
    assert f"strict   │ {sum(row['strict']['correct'] for row in rows) / 5:.3f}" in shown
    assert f"{sum(row['truncated'] for row in rows)} truncated at 24 tokens" in shown
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_the_same_command_gives_the_same_rows(model: str, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for output in outputs:
        evaluate(model, task="arithmetic", limit=4, device="cpu", batch_size=4, output=output)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_bad_input_is_refused_before_anything_is_written(model: str, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(DataError, match="holds no rows"):
        evaluate(model, data=empty, device="cpu", output=output)
    with pytest.raises(UsageError, match="batch size 0"):
        evaluate(model, batch_size=0, output=output)
    with pytest.raises(UsageError, match="unknown dtype 'int4'; allowed: auto, float32"):
        evaluate(model, dtype="int4", output=output)
    with pytest.raises(UsageError, match="cannot write"):
        evaluate(model, output=tmp_path / "absent" / "rows.jsonl")
    with pytest.raises(UsageError, match="limit 0"):
        evaluate(model, task="arithmetic", limit=0, device="cpu", output=output)
    with pytest.raises(ModelError, match="no such directory"):
        evaluate(str(tmp_path / "absent model"), task="arithmetic", device="cpu", output=output)
    assert not output.exists()

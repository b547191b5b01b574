from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from selfdev.errors import DataError, UsageError
from selfdev.models import load_causal_lm, read_weights
from selfdev.sft import Recipe
from selfdev.tasks.rows import Row
from selfdev.zoo.finetune import RECORD, finetune
from tests.tiny import save_tiny

ROWS = [Row(f"What is {n} + 1?", f"It is {n + 1}.\n#### {n + 1}", "", f"rows, line {n}") for n in range(1, 7)]
RECIPE = Recipe(steps=3, batch_size=2, micro_batch=1, learning_rate=1e-2, lora_rank=2, lora_alpha=4, threads=1)


@pytest.fixture
def seed(tmp_path: Path) -> str:
    return str(save_tiny(tmp_path / "seed"))


def test_a_sibling_is_a_whole_model_that_fits_its_seed(seed: str, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = finetune(seed, ROWS, tmp_path / "out", RECIPE, on_step=lambda step, total, _: steps.append((step, total)))
    before, after = dict(read_weights(seed)), dict(read_weights(str(tmp_path / "out")))
    assert list(before) == list(after)
    assert [(t.shape, t.dtype) for t in before.values()] == [(t.shape, t.dtype) for t in after.values()]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "_proj" in name}  # every linear layer; embeddings and norms keep bits
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert (report.rows, report.left_out, report.steps) == (6, 0, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "seed"]


def test_training_lowers_the_loss_of_completions_and_is_repeatable(seed: str, tmp_path: Path) -> None:
    recipe = Recipe(steps=20, batch_size=6, micro_batch=3, learning_rate=3e-2, lora_rank=4, lora_alpha=8, threads=1)
    report = finetune(seed, ROWS, tmp_path / "a", recipe)
    again = finetune(seed, ROWS, tmp_path / "b", recipe)
    assert report == again
    assert report.last_loss < 0.7 * report.first_loss
    one, two = dict(read_weights(str(tmp_path / "a"))), dict(read_weights(str(tmp_path / "b")))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert _loss(str(tmp_path / "a"), ROWS[0]) < 0.7 * _loss(seed, ROWS[0])


def _loss(ref: str, row: Row) -> float:
    """Mean cross-entropy of the answer and the end token after the question, by hand."""
    model, tokenizer = load_causal_lm(ref, "cpu", "float32")
    prompt = tokenizer(f"Question: {row.question}\nAnswer:")["input_ids"]
    whole = [*prompt, *tokenizer(f" {row.answer}")["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(whole[len(prompt) :])).item()


def test_what_it_was_made_from_is_noted(seed: str, tmp_path: Path) -> None:
    report = finetune(seed, ROWS, tmp_path / "out", RECIPE)
    noted = json.loads((tmp_path / "out" / RECORD).read_text(encoding="utf-8"))
    assert noted["base"] == seed
    assert noted["steps"] == 3
    assert noted["last_loss"] == report.last_loss
    assert len(noted["data_sha256"]) == 64
    assert f"base_model: {seed}" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_long_rows_are_left_out_whole(seed: str, tmp_path: Path) -> None:
    long = Row("x" * 200, "y\n#### 1", "", "rows, line 9")
    recipe = Recipe(steps=1, batch_size=1, micro_batch=1, lora_rank=2, lora_alpha=4, max_tokens=100, threads=1)
    assert finetune(seed, [*ROWS, long], tmp_path / "out", recipe).left_out == 1
    with pytest.raises(DataError, match="all 1 rows are longer than 100 tokens"):
        finetune(seed, [long], tmp_path / "none", recipe)
    assert not (tmp_path / "none").exists()


def test_an_interrupted_training_leaves_nothing(seed: str, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(seed, ROWS, tmp_path / "out", RECIPE, on_step=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["seed"]


def test_an_existing_directory_is_not_touched(seed: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists; give the new model another directory"):
        finetune(seed, ROWS, tmp_path / "out", RECIPE)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps 0 given"),
        ({"batch_size": 3, "micro_batch": 2}, "no multiple"),
        ({"learning_rate": 0.0}, "learning rate 0.0 given"),
    ],
)
def test_impossible_recipes_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**values).check()  # type: ignore[arg-type]

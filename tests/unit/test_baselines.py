"""Human-designed merges on tensors small enough to work by hand, and the table every run is compared with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from selfdev.baselines import read_rule, table


def merge(source: str, *vectors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run one of our own rules in plain PyTorch."""
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return namespace["merge_models"](list(vectors))


A = {"w": torch.tensor([[1.0, -2.0], [0.0, 4.0]]), "b": torch.tensor([10.0])}
B = {"w": torch.tensor([[3.0, 2.0], [1.0, -4.0]]), "b": torch.tensor([-4.0])}


def test_task_arithmetic_by_hand() -> None:
    merged = merge(read_rule("task_arithmetic", WEIGHTS=(0.5, 2.0)), A, B)
    assert torch.equal(merged["w"], torch.tensor([[6.5, 3.0], [2.0, -6.0]]))
    assert torch.equal(merged["b"], torch.tensor([-3.0]))


def test_uniform_average_by_hand() -> None:
    merged = merge(read_rule("uniform_average"), A, B)
    assert torch.equal(merged["w"], torch.tensor([[2.0, 0.0], [0.5, 0.0]]))
    assert torch.equal(merged["b"], torch.tensor([3.0]))


def test_seed_and_sources() -> None:
    assert all(not tensor.any() for tensor in merge(read_rule("zero"), A, B).values())
    assert torch.equal(merge(read_rule("single_source", SOURCE=1), A, B)["w"], B["w"])


@pytest.mark.parametrize("rule", ["zero", "single_source", "uniform_average", "task_arithmetic"])
def test_every_rule_keeps_names_shapes_and_dtype_and_leaves_its_inputs(rule: str) -> None:
    half = {name: tensor.bfloat16() for name, tensor in A.items()}
    before = {name: tensor.clone() for name, tensor in half.items()}
    merged = merge(read_rule(rule), half, half)
    assert list(merged) == list(half)
    assert all(merged[n].dtype == torch.bfloat16 and merged[n].shape == half[n].shape for n in half)
    merged["w"].fill_(7.0)
    assert all(torch.equal(half[n], before[n]) for n in half)


def test_bfloat16_is_summed_in_float32() -> None:
    # 1 + 1/256 does not fit bfloat16, so a bfloat16 sum of 256 + 1 + ... would lose the ones
    vectors = [{"w": torch.tensor([256.0], dtype=torch.bfloat16)}, *[{"w": torch.ones(1, dtype=torch.bfloat16)}] * 4]
    merged = merge(read_rule("task_arithmetic", WEIGHTS=(1.0,) * 5), *vectors)
    assert merged["w"].item() == 260.0


def test_the_papers_grid_has_27_points_for_three_sources() -> None:
    rows = table(["a", "b", "c"])
    grid = [r for r in rows if r.kind == "task_arithmetic"]
    assert len(grid) == 27
    assert grid[0].name == "Task Arithmetic 0.2 0.2 0.2"
    assert grid[-1].name == "Task Arithmetic 0.6 0.6 0.6"
    assert "WEIGHTS = (0.2, 0.4, 0.6)" in grid[5].source
    assert [r.name for r in rows[:5]] == ["seed model", "a", "b", "c", "uniform average"]


def test_many_sources_share_one_coefficient() -> None:
    grid = [r for r in table(list("abcdefgh")) if r.kind == "task_arithmetic"]
    assert [r.name.split()[2] for r in grid] == [f"{0.1 * i:g}" for i in range(1, 11)]
    assert grid[3].source.count("WEIGHTS = (0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4)") == 1


def test_an_unknown_constant_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 constants named LAMBDA"):
        read_rule("task_arithmetic", LAMBDA=1.0)

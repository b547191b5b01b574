"""Every human-designed merge is a program like a candidate's: in the full sandbox it gives plain PyTorch's bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from selfdev_sandbox import Limits, RunResult, Sandbox, Status

from selfdev.baselines import METHODS, Value, method_source, with_lines

SHAPES = {
    "model.embed_tokens.weight": (16, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.q_proj.bias": (8,),
    "model.layers.1.mlp.down_proj.weight": (8, 12),
    "model.norm.weight": (8,),
}
SHORT: dict[str, dict[str, Value]] = {"wudi": {"STEPS": 20}}
OTHER: dict[str, dict[str, Value]] = {
    "ties": {"TRIM": "tensor"},
    "dare_linear": {"RESCALE": "norm"},
    "dare_ties": {"MERGE": "mean"},
    "della": {"RESCALE": "norm"},
    "sce": {"TOPK": 1.0},
    "nuslerp": {"GROUP": "row"},
    "ram_plus": {"COUNT": "tensor"},
}


def make(dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [{n: (0.02 * torch.randn(s, generator=generator)).to(dtype) for n, s in SHAPES.items()} for _ in range(3)]


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(Limits(seconds=30)) as opened:
        yield opened


def assert_same_bits(box: Sandbox, source: str, dtype: torch.dtype) -> None:
    vectors = make(dtype)
    outcome = box.run(source, vectors, seed=0)
    assert outcome.status is Status.OK, f"{outcome.error} (line {outcome.line})"
    assert outcome.result is not None
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    plain = namespace["merge_models"](vectors)
    assert list(outcome.result) == list(plain)
    assert all(torch.equal(outcome.result[name], plain[name]) for name in plain)


@pytest.mark.parametrize("name", [row.name for row in METHODS])
def test_a_method_runs_in_the_sandbox(box: Sandbox, name: str) -> None:
    assert_same_bits(box, method_source(name, **SHORT.get(name, {})), torch.float32)
    if name in OTHER:
        assert_same_bits(box, method_source(name, **OTHER[name]), torch.bfloat16)


@pytest.mark.parametrize("name", ["uniform_average", "ties", "tsv_m"])
def test_lines_runs_in_the_sandbox(box: Sandbox, name: str) -> None:
    assert_same_bits(box, with_lines(method_source(name)), torch.float32)
    assert_same_bits(box, with_lines(method_source(name), LINES_ALPHA=0.3, LINES_BETA=1.0), torch.bfloat16)


RANKING = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce", "pcb", "della", "della_linear")


def run_at_defaults(name: str, shapes: dict[str, tuple[int, ...]], **constants: Value) -> RunResult:
    generator = torch.Generator().manual_seed(3)
    vectors = [{n: torch.randn(shape, generator=generator) for n, shape in shapes.items()} for _ in range(3)]
    with Sandbox(Limits(seconds=120)) as opened:
        return opened.run(method_source(name, **constants), vectors, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANKING)
def test_a_model_of_many_parameters_fits_the_default_budgets(name: str) -> None:
    """As many parameters as SmolLM2-135M has, large enough to be sampled."""
    shapes = {f"model.layers.{i}.weight": (90, 100) for i in range(211)} | {f"norm.{i}": (576,) for i in range(61)}
    outcome = run_at_defaults(name, shapes)
    assert outcome.status is Status.OK, outcome.error
    assert outcome.operations <= 150 * 3 * len(shapes)


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "della"])
def test_operations_do_not_grow_with_the_size_of_a_parameter(name: str) -> None:
    """A matrix of a 7B model has 59 million values; from 9 million on the number of parts stays."""
    constants: dict[str, Value] = {"TRIM": "tensor"} if name == "ties" else {}
    outcome = run_at_defaults(name, {"model.layers.0.mlp.up_proj.weight": (3001, 3000)}, **constants)
    assert outcome.status is Status.OK, outcome.error
    assert outcome.operations <= 150 * 3


@pytest.mark.parametrize("name", ["della", "della_linear", "dare_ties"])
def test_a_parameter_without_values_stays_one(box: Sandbox, name: str) -> None:
    vectors = [{"none": torch.zeros(0), "rows": torch.zeros(3, 0), "some": torch.ones(4, 2)} for _ in range(2)]
    outcome = box.run(method_source(name, **SHORT.get(name, {})), vectors, seed=0)
    assert outcome.status is Status.OK, outcome.error

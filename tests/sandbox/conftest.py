"""Fixtures of the sandbox's tests: one shared box, small task vectors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from selfdev_sandbox import Limits, Sandbox

SHAPES = {
    "model.embed_tokens.weight": (16, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.q_proj.bias": (8,),
    "model.layers.1.mlp.up_proj.weight": (12, 8),
    "model.layers.2.mlp.down_proj.weight": (8, 12),
    "model.norm.weight": (8,),
    "lm_head.weight": (16, 8),
}


def make_vectors(dtype: torch.dtype = torch.float32, sources: int = 3) -> list[dict[str, torch.Tensor]]:
    """Task vectors of 0.02 * normal values, the same on every call."""
    generator = torch.Generator().manual_seed(7)
    return [
        {name: (0.02 * torch.randn(shape, generator=generator)).to(dtype) for name, shape in SHAPES.items()}
        for _ in range(sources)
    ]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    """A box with every layer."""
    with Sandbox(Limits(seconds=20)) as opened:
        yield opened


@pytest.fixture
def vectors() -> list[dict[str, torch.Tensor]]:
    return make_vectors()

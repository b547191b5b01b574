"""Merge rules used to measure the solver zoo: what coefficients reach, and what smarter rules reach.

Each rule follows the algorithm contract: task vectors in, one merged task vector of the same names and shapes out.
They only describe the zoo in its figures; the product's baselines live in `selfdev.baselines`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import torch

TaskVector = Mapping[str, torch.Tensor]
MergeRule = Callable[[Sequence[TaskVector]], dict[str, torch.Tensor]]

GRID = (0.2, 0.4, 0.6)  # Self-Developing (arXiv 2410.15639), the coefficients of its Task Arithmetic baseline


def linear(coefficients: Sequence[float]) -> MergeRule:
    """Task Arithmetic (arXiv 2212.04089) with one coefficient per source."""

    def rule(vectors: Sequence[TaskVector]) -> dict[str, torch.Tensor]:
        return {
            name: torch.stack([c * v[name] for c, v in zip(coefficients, vectors, strict=True)]).sum(0)
            for name in vectors[0]
        }

    return rule


def grid_points(sources: int) -> list[tuple[float, ...]]:
    """Every coefficient vector of the paper's grid: 27 for three sources."""
    return list(itertools.product(GRID, repeat=sources))


def _trim(values: torch.Tensor, density: float) -> torch.Tensor:
    kept = max(1, round(density * values.numel()))
    threshold = values.abs().flatten().kthvalue(values.numel() - kept + 1).values
    return torch.where(values.abs() >= threshold, values, torch.zeros_like(values))


def ties(density: float, scale: float) -> MergeRule:
    """TIES (arXiv 2306.01708): trim by magnitude per parameter, elect signs, mean of the agreeing entries."""

    def rule(vectors: Sequence[TaskVector]) -> dict[str, torch.Tensor]:
        merged = {}
        for name in vectors[0]:
            stacked = torch.stack([_trim(v[name], density) for v in vectors])  # (sources, *shape)
            agree = (stacked.sign() == stacked.sum(0).sign()) & (stacked != 0)
            merged[name] = scale * (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)
        return merged

    return rule


def trimmed(density: float, coefficients: Sequence[float]) -> MergeRule:
    """Task Arithmetic after keeping each source's largest entries per parameter."""

    def rule(vectors: Sequence[TaskVector]) -> dict[str, torch.Tensor]:
        kept = [{name: _trim(value, density) for name, value in vector.items()} for vector in vectors]
        return linear(coefficients)(kept)

    return rule


def largest(scale: float) -> MergeRule:
    """Per entry, the value of the source that moved furthest."""

    def rule(vectors: Sequence[TaskVector]) -> dict[str, torch.Tensor]:
        merged = {}
        for name in vectors[0]:
            stacked = torch.stack([v[name] for v in vectors])
            merged[name] = scale * stacked.gather(0, stacked.abs().argmax(0, keepdim=True)).squeeze(0)
        return merged

    return rule


def norm_balanced(scale: float) -> MergeRule:
    """Per parameter, every source scaled to the sources' mean norm, then averaged."""

    def rule(vectors: Sequence[TaskVector]) -> dict[str, torch.Tensor]:
        merged = {}
        for name in vectors[0]:
            norms = torch.stack([v[name].norm() for v in vectors]).clamp(min=1e-12)
            units = torch.stack([v[name] / n for v, n in zip(vectors, norms, strict=True)])
            merged[name] = scale * norms.mean() * units.mean(0)
        return merged

    return rule


def low_rank(rank: int, scale: float) -> MergeRule:
    """Matrices cut to their leading singular directions per source, then summed; vectors summed as they are."""

    def cut(values: torch.Tensor) -> torch.Tensor:
        if values.ndim != 2:
            return values
        u, s, vh = torch.linalg.svd(values, full_matrices=False)
        leading: torch.Tensor = (u[:, :rank] * s[:rank]) @ vh[:rank]
        return leading

    def rule(vectors: Sequence[TaskVector]) -> dict[str, torch.Tensor]:
        return {name: scale * torch.stack([cut(v[name]) for v in vectors]).sum(0) for name in vectors[0]}

    return rule


def by_layer(scales: Sequence[float], embedding: float) -> MergeRule:
    """Sum of task vectors with one scale per decoder layer and one for everything outside the layers."""

    def rule(vectors: Sequence[TaskVector]) -> dict[str, torch.Tensor]:
        merged = {}
        for name in vectors[0]:
            layer = re.search(r"\.layers\.(\d+)\.", name)
            scale = scales[int(layer.group(1))] if layer else embedding
            merged[name] = scale * torch.stack([v[name] for v in vectors]).sum(0)
        return merged

    return rule


def by_kind(attention: float, mlp: float, other: float) -> MergeRule:
    """Sum of task vectors with one scale for attention, one for MLPs, one for the rest."""

    def rule(vectors: Sequence[TaskVector]) -> dict[str, torch.Tensor]:
        scale = {name: attention if "attn" in name else mlp if "mlp" in name else other for name in vectors[0]}
        return {name: scale[name] * torch.stack([v[name] for v in vectors]).sum(0) for name in vectors[0]}

    return rule

"""Consensus Task Arithmetic (arXiv 2405.07813): values that matter to few sources are removed.

    m_i = abs(tau_i) >= LAMBDA * abs(sum_j tau_j - tau_i);  merged = SCALE * sum_j tau_j where sum_i m_i >= AGREE

AGREE is at most the number of sources.
"""

import torch

AGREE = 2
LAMBDA = 0.5
SCALE = 0.4


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    needed = min(AGREE, len(task_vectors))
    merged = {}
    for name, reference in task_vectors[0].items():
        stack = torch.stack([vector[name].float() for vector in task_vectors])  # (sources, *shape)
        total = stack.sum(dim=0)
        matters = stack.abs() >= LAMBDA * (total - stack).abs()
        merged[name] = torch.where(matters.sum(dim=0) >= needed, SCALE * total, 0.0).to(reference.dtype)
    return merged

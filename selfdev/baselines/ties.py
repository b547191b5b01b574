"""TIES-Merging (arXiv 2306.01708, section 4): trim, elect signs, average what agrees.

    trim:  each task vector keeps its DENSITY largest magnitudes (rounded down, at least one)
    elect: sign = sign(sum_i tau_i), + where the sum is 0
    merge: SCALE * mean of the non-zero tau_i that have the elected sign

TRIM "vector" ranks the magnitudes of the whole task vector (the paper), "tensor" those of each parameter (mergekit).
Magnitudes tied at the threshold are all kept. The paper's code gives a sum of 0 the vector's majority sign instead.
"""

from collections.abc import Iterable

import torch

DENSITY = 0.2
SCALE = 1.0
TRIM = "vector"


def kth_largest(tensors: list[torch.Tensor], k: int) -> float:
    """The k-th largest magnitude of all tensors together, by counting bits from the top: no sort, no copy of all."""

    def bits_of(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.float().abs().reshape(-1).view(torch.int32)  # the order of bits is the order of magnitudes

    def bucket(parts: Iterable[torch.Tensor], size: int, wanted: int) -> tuple[int, int]:
        counts = torch.zeros(size, dtype=torch.int64, device=tensors[0].device)
        for part in parts:
            counts += torch.bincount(part, minlength=size)
        above = counts.flip(0).cumsum(0)  # values in this bucket or a higher one, from the top
        step = int((above < wanted).sum())
        return size - 1 - step, wanted - (int(above[step - 1]) if step else 0)

    high, k = bucket((bits_of(tensor) >> 20 for tensor in tensors), 1 << 11, k)
    inside = [bits[(bits >> 20) == high] for bits in map(bits_of, tensors)]
    middle, k = bucket(((bits >> 10) & 0x3FF for bits in inside), 1 << 10, k)
    inside = [bits[((bits >> 10) & 0x3FF) == middle] for bits in inside]
    low, _ = bucket((bits & 0x3FF for bits in inside), 1 << 10, k)
    found = (high << 20) | (middle << 10) | low
    return float(torch.full((1,), found, dtype=torch.int32).view(torch.float32).item())


def thresholds(vector: dict[str, torch.Tensor]) -> dict[str, float]:
    """Parameter -> smallest magnitude that is kept."""
    if TRIM == "vector":
        count = max(1, int(DENSITY * sum(tensor.numel() for tensor in vector.values())))
        return dict.fromkeys(vector, kth_largest(list(vector.values()), count))
    made = {}
    for name, tensor in vector.items():
        size = tensor.float().abs().reshape(-1)
        count = max(1, int(DENSITY * size.numel()))
        made[name] = float(size.kthvalue(size.numel() - count + 1).values)
    return made


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    limits = [thresholds(vector) for vector in task_vectors]
    merged = {}
    for name, reference in task_vectors[0].items():
        tensors = [vector[name].float() for vector in task_vectors]
        pairs = zip(tensors, limits, strict=True)
        kept = torch.stack([torch.where(tensor.abs() >= limit[name], tensor, 0.0) for tensor, limit in pairs])
        sign = torch.where(kept.sum(dim=0) >= 0, 1.0, -1.0)
        agrees = kept * sign > 0  # (sources, *shape)
        total = torch.where(agrees, kept, 0.0).sum(dim=0)
        merged[name] = (SCALE * total / agrees.sum(dim=0).clamp(min=1)).to(reference.dtype)
    return merged

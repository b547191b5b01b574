"""PCB-Merging (arXiv 2410.02396): values compete within a task vector and between task vectors.

    a_i = abs(tau_i), clipped to its CLIP and 1 - CLIP quantiles;  intra_i = exp(n * unit(a_i)^2)
    inter_i = tanh(tau_i * sum_j tau_j);  b_i = intra_i * inter_i
    s_i = unit(b_i, clipped below at its RATIO largest);  merged = SCALE * sum_i s_i sign(tau_i) a_i / sum_i s_i

unit(x) = (x - min x) / (max x - min x), over the whole task vector, as in the paper and its code. A value at the
threshold has s_i = 0, so of ties at the threshold none takes part.
"""

from collections.abc import Iterable

import torch

RATIO = 0.1
SCALE = 1.0
CLIP = 0.0001


def kth_largest(tensors: list[torch.Tensor], k: int) -> float:
    """The k-th largest value of all tensors together, by counting bits from the top: no sort, no copy of all."""

    def bits_of(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.reshape(-1).view(torch.int32)
        return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # signed integers in the order of the values

    def bucket(parts: Iterable[torch.Tensor], size: int, wanted: int) -> tuple[int, int]:
        counts = torch.zeros(size, dtype=torch.int64, device=tensors[0].device)
        for part in parts:
            counts += torch.bincount(part, minlength=size)
        above = counts.flip(0).cumsum(0)  # values in this bucket or a higher one, from the top
        step = int((above < wanted).sum())
        return size - 1 - step, wanted - (int(above[step - 1]) if step else 0)

    high, k = bucket(((bits_of(tensor) >> 20) + (1 << 11) for tensor in tensors), 1 << 12, k)
    inside = [bits[(bits >> 20) + (1 << 11) == high] for bits in map(bits_of, tensors)]
    middle, k = bucket(((bits >> 10) & 0x3FF for bits in inside), 1 << 10, k)
    inside = [bits[((bits >> 10) & 0x3FF) == middle] for bits in inside]
    low, _ = bucket((bits & 0x3FF for bits in inside), 1 << 10, k)
    found = ((high - (1 << 11)) << 20) | (middle << 10) | low
    found = found if found >= 0 else found ^ 0x7FFFFFFF
    return float(torch.full((1,), found, dtype=torch.int32).view(torch.float32).item())


def limits(tensors: list[torch.Tensor]) -> tuple[float, float]:
    """The CLIP and 1 - CLIP quantiles of the values of all tensors."""
    count = sum(tensor.numel() for tensor in tensors)
    high = count - max(1, int(count * (1.0 - CLIP)))
    return kth_largest(tensors, count - int(count * CLIP)), kth_largest(tensors, high + 1)


def unit(tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """low .. high becomes 0 .. 1."""
    return (tensor.clamp(low, high) - low) / (high - low) if high > low else torch.zeros_like(tensor)


def competition(task_vectors: list[dict[str, torch.Tensor]]) -> list[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Per source and parameter: the scores s_i and the clipped values."""
    made = []
    for vector in task_vectors:
        low, high = limits([tensor.float().abs() for tensor in vector.values()])
        scores, values = {}, {}
        for name, tensor in vector.items():
            own = tensor.float()
            total = torch.stack([other[name].float() for other in task_vectors]).sum(dim=0)
            intra = torch.exp(len(task_vectors) * unit(own.abs(), low, high).square())
            scores[name] = intra * torch.tanh(own * total)
            values[name] = own.sign() * own.abs().clamp(low, high)
        every = list(scores.values())
        count = sum(tensor.numel() for tensor in every)
        floor = kth_largest(every, max(1, count - int(count * (1.0 - RATIO))))
        top = max(float(tensor.max()) for tensor in every)
        made.append({name: (unit(score, floor, top), values[name]) for name, score in scores.items()})
    return made


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    sources = competition(task_vectors)
    merged = {}
    for name, reference in task_vectors[0].items():
        weights = torch.stack([source[name][0] for source in sources])  # (sources, *shape)
        values = torch.stack([source[name][1] for source in sources])
        total = (weights * values).sum(dim=0) / weights.sum(dim=0).clamp(min=1e-12)
        merged[name] = (SCALE * total).to(reference.dtype)
    return merged

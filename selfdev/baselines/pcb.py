"""PCB-Merging (arXiv 2410.02396): values compete within a task vector and between task vectors.

    a_i = abs(tau_i), clipped to its CLIP and 1 - CLIP quantiles;  intra_i = exp(n * unit(a_i)^2)
    inter_i = tanh(tau_i * sum_j tau_j);  b_i = intra_i * inter_i
    s_i = unit(b_i, clipped below at its RATIO largest);  merged = SCALE * sum_i s_i sign(tau_i) a_i / sum_i s_i

unit(x) = (x - min x) / (max x - min x), over the whole task vector, as in the paper and its code. A value at the
threshold has s_i = 0, so of ties at the threshold none takes part.
"""

import torch

RATIO = 0.1
SCALE = 1.0
CLIP = 0.0001


def kth_largest(tensors: list[torch.Tensor], k: int, sparse: int = 128, part: int = 1 << 20) -> torch.Tensor:
    """The k-th largest value of all tensors together, k from 1, in linear time (Floyd and Rivest, CACM 18(3), 1975).

    One value in `sparse` is sorted for two bounds that lie close together; only what is between them is ranked. Bounds
    that miss the value are moved apart, so the answer is exact, in float32. Some `part` values at once stay in the
    caches; large tensors are taken in four parts.
    """
    total = sum(tensor.numel() for tensor in tensors)
    step = sparse if total > 64 * sparse else 1
    sample = torch.cat([tensor.reshape(-1)[::step] for tensor in tensors]).float().sort(descending=True).values
    if step == 1:
        return sample[k - 1]
    parts = [values for tensor in tensors for values in torch.split(tensor.reshape(-1), max(part, total // 4))]
    count, end = sample.numel(), torch.full((1,), float("inf"), device=sample.device)
    bounds = torch.cat([end, sample, -end])
    place = k * count // total
    margin = 3 + int(3.0 * (place * (1.0 - place / count)) ** 0.5)
    while True:
        upper, lower = bounds[max(0, place - margin)], bounds[min(count + 1, place + margin)]
        above, between = torch.zeros((), dtype=torch.int64, device=sample.device), []
        for values in (values.float() for values in parts):
            above += (values >= upper).count_nonzero()
            between.append(values[(values > lower) & (values < upper)])
        near, rest = torch.cat(between), k - int(above)
        if 0 < rest <= near.numel():
            return near.kthvalue(near.numel() - rest + 1).values
        if rest <= 0 and sum(int((values.float() > upper).count_nonzero()) for values in parts) < k:
            return upper  # among its ties
        if rest > near.numel() and sum(int((values.float() >= lower).count_nonzero()) for values in parts) >= k:
            return lower
        if margin > count:
            raise ValueError("some values are NaN, which has no place in an order")
        margin *= 8


def limits(tensors: list[torch.Tensor]) -> tuple[float, float]:
    """The CLIP and 1 - CLIP quantiles of the values of all tensors."""
    count = sum(tensor.numel() for tensor in tensors)
    high = count - max(1, int(count * (1.0 - CLIP)))
    return float(kth_largest(tensors, count - int(count * CLIP))), float(kth_largest(tensors, high + 1))


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
        floor = float(kth_largest(every, max(1, count - int(count * (1.0 - RATIO)))))
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

"""TIES-Merging (arXiv 2306.01708, section 4): trim, elect signs, average what agrees.

    trim:  each task vector keeps its DENSITY largest magnitudes (rounded down, at least one)
    elect: sign = sign(sum_i tau_i), + where the sum is 0
    merge: SCALE * mean of the non-zero tau_i that have the elected sign

TRIM "vector" ranks the magnitudes of the whole task vector (the paper), "tensor" those of each parameter (mergekit).
Magnitudes tied at the threshold are all kept. The paper's code gives a sum of 0 the vector's majority sign instead.
"""

import torch

DENSITY = 0.2
SCALE = 1.0
TRIM = "vector"


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


def thresholds(vector: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameter -> smallest magnitude that is kept."""
    if TRIM == "vector":
        count = max(1, int(DENSITY * sum(tensor.numel() for tensor in vector.values())))
        return dict.fromkeys(vector, kth_largest([tensor.float().abs() for tensor in vector.values()], count))
    return {name: kth_largest([tensor.abs()], max(1, int(DENSITY * tensor.numel()))) for name, tensor in vector.items()}


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    limits = [thresholds(vector) for vector in task_vectors]
    merged = {}
    for name, reference in task_vectors[0].items():
        tensors = [vector[name].float() for vector in task_vectors]
        kept = [tensor * (tensor.abs() >= limit[name]) for tensor, limit in zip(tensors, limits, strict=True)]
        total, count = torch.zeros_like(kept[0]), torch.zeros_like(kept[0])
        for tensor in kept:
            total += tensor
        sign = (total >= 0).float().mul_(2.0).sub_(1.0)
        total.zero_()
        for tensor in kept:
            agreeing = tensor.mul_(sign).clamp_(min=0.0)  # in place: fresh memory costs more than arithmetic
            total += agreeing
            count += agreeing.sign_()
        merged[name] = total.mul_(sign).mul_(SCALE).div_(count.clamp_(min=1.0)).to(reference.dtype)
    return merged

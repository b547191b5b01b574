"""Model Breadcrumbs (arXiv 2312.06795) with the sign vote of TIES (2306.01708): mergekit's combination.

    tau_i <- m_i * tau_i,  m_i drops the GAMMA largest and the smallest, DENSITY of the values remain
    merged = SCALE * sum of the tau_i that have the sign of sum_i tau_i (+ where the sum is 0)

Both limits are per parameter, in the paper and in mergekit. Counts are rounded down, but one value always stays; where
GAMMA + DENSITY > 1 the outliers' share shrinks. Magnitudes tied at either limit are all kept.
"""

import torch

DENSITY = 0.9
GAMMA = 0.01
SCALE = 0.5


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


def middle(tensor: torch.Tensor) -> torch.Tensor:
    """Zero the GAMMA largest magnitudes and the smallest, so that DENSITY of the values remain."""
    count = tensor.numel()
    target = min(count, max(1, int(DENSITY * count)))
    top = min(int(GAMMA * count), count - target)
    size = tensor.abs()
    upper, lower = kth_largest([size], top + 1), kth_largest([size], top + target)
    return tensor * ((size <= upper) & (size >= lower))


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        kept = [middle(vector[name].float()) for vector in task_vectors]
        total = torch.zeros_like(reference, dtype=torch.float32)
        for tensor in kept:
            total += tensor
        sign = (total >= 0).float().mul_(2.0).sub_(1.0)  # (*shape)
        total.zero_()
        for tensor in kept:
            total += tensor.mul_(sign).clamp_(min=0.0)
        merged[name] = total.mul_(sign).mul_(SCALE).to(reference.dtype)
    return merged

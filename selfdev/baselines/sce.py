"""SCE (FuseChat, arXiv 2408.07990): select, calculate, erase, per parameter.

    select:    the TOPK share (of positions that vary, rounded down) with the largest variance over the sources
    calculate: w_i = sum(tau_i^2) / sum_j sum(tau_j^2), over what was selected
    erase:     tau_i with the sign of sum_j tau_j only (+ where the sum is 0); merged = sum_i w_i tau_i / sum_i w_i

Variances tied at the threshold are all kept. TOPK 1 selects everything, also where the sources are equal; one source
has no variance and needs it.
"""

import torch

TOPK = 0.1


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


def selected(stack: torch.Tensor) -> torch.Tensor:
    """Zero the positions, the same in all sources, where the variance is small."""
    variance = torch.var(stack, dim=0, correction=0)
    count = int(TOPK * int((variance != 0).sum()))
    if count == 0:
        return torch.zeros_like(stack)
    return stack * (variance >= kth_largest([variance], count))


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        stack = torch.stack([vector[name].float() for vector in task_vectors])  # (sources, *shape)
        if TOPK < 1.0:
            stack = selected(stack)
        energy = (stack * stack).reshape(len(task_vectors), -1).sum(dim=1)
        weights = energy / energy.sum() if float(energy.sum()) > 0 else torch.full_like(energy, 1.0 / len(task_vectors))
        sign = torch.where(stack.sum(dim=0) >= 0, 1.0, -1.0)
        shares = torch.where(stack * sign > 0, weights.reshape([-1] + [1] * reference.dim()), 0.0)
        below = shares.sum(dim=0)
        total = (shares * stack).sum(dim=0)
        merged[name] = torch.where(below > 0, total / torch.where(below > 0, below, 1.0), 0.0).to(reference.dtype)
    return merged

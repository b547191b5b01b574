"""DELLA (arXiv 2406.11617): drop by magnitude rank, elect signs, average what agrees.

    keep_i = DENSITY - EPSILON + 2 EPSILON * rank / (columns - 1),  rank of abs(tau_i) in its row, smallest first
    tau_i <- m_i * tau_i / keep_i,  m_i ~ Bernoulli(keep_i)
    merged = SCALE * mean of the non-zero tau_i that have the sign of sum_i tau_i (+ where the sum is 0)

A vector is one row; a row of one value keeps it with probability DENSITY. Equal magnitudes rank in their order.
RESCALE "probability" divides by keep_i (the paper), "norm" restores each tensor's L1 norm (mergekit).
"""

import torch

DENSITY = 0.6
EPSILON = 0.1
SCALE = 1.0
RESCALE = "probability"
SEED = 0


def stream(name: str, source: int) -> int:
    """A seed for one tensor of one source, from its name: a draw does not depend on what else is merged."""
    value = SEED
    for character in f"{name}/{source}":
        value = (1_000_003 * value + ord(character)) % 2_147_483_647
    return value


def drop(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Keep each value with a probability that grows with its rank in its row, and rescale what is kept."""
    rows = tensor.reshape(tensor.shape[0], -1) if tensor.dim() > 1 else tensor.reshape(1, -1)
    columns = rows.shape[1]
    order = rows.abs().argsort(dim=1, stable=True)  # ranks are what the method is made of: rows are sorted, once
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(columns, device=rows.device).expand_as(order))
    share = ranks.float() / (columns - 1) if columns > 1 else torch.full_like(rows, 0.5)
    keep = (DENSITY - EPSILON + 2.0 * EPSILON * share).clamp(min=1e-6, max=1.0)
    drawn = torch.rand(rows.shape, generator=generator).to(rows.device) < keep
    if RESCALE == "probability":
        kept = torch.where(drawn, rows / keep, 0.0)
    else:
        kept = torch.where(drawn, rows, 0.0)
        size = kept.abs().sum()
        kept = kept * torch.where(size > 0, rows.abs().sum() / size, 1.0)
    return kept.reshape(tensor.shape)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator()
    merged = {}
    for name, reference in task_vectors[0].items():
        dropped = []
        for index, vector in enumerate(task_vectors):
            generator.manual_seed(stream(name, index))
            dropped.append(drop(vector[name].float(), generator))
        stack = torch.stack(dropped)  # (sources, *shape)
        sign = torch.where(stack.sum(dim=0) >= 0, 1.0, -1.0)
        agrees = stack * sign > 0
        total = torch.where(agrees, stack, 0.0).sum(dim=0)
        merged[name] = (SCALE * total / agrees.sum(dim=0).clamp(min=1)).to(reference.dtype)
    return merged

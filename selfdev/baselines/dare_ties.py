"""DARE with a sign vote (arXiv 2311.03099, section 3.2, on top of 2306.01708): drop, rescale, elect signs, merge.

    tau_i <- m_i * tau_i / (1 - DROP); sign = sign(sum_i tau_i), + where the sum is 0
    MERGE "sum":  SCALE * sum of the tau_i that have the elected sign (mergekit's default, which SCALE 0.5 belongs to)
    MERGE "mean": SCALE * their mean (the paper: TIES's disjoint mean)

The paper's code trims as TIES does besides; here dropping is the only sparsification, as in mergekit.
RESCALE "probability" divides by 1 - DROP (the paper), "norm" restores each tensor's L1 norm (mergekit).
"""

import torch

DROP = 0.5
SCALE = 0.5
MERGE = "sum"
RESCALE = "probability"
SEED = 0


def stream(name: str, source: int) -> int:
    """A seed for one tensor of one source, from its name: a draw does not depend on what else is merged."""
    value = SEED
    for character in f"{name}/{source}":
        value = (1_000_003 * value + ord(character)) % 2_147_483_647
    return value


def drop(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Zero each value with probability DROP and rescale the rest."""
    keep = torch.rand(tensor.shape, generator=generator).to(tensor.device) >= DROP
    kept = tensor * keep
    if RESCALE == "probability":
        return kept.div_(1.0 - DROP)
    size = kept.abs().sum()
    return kept * torch.where(size > 0, tensor.abs().sum() / size, 1.0)


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
        if MERGE == "mean":
            total = total / agrees.sum(dim=0).clamp(min=1)
        merged[name] = (SCALE * total).to(reference.dtype)
    return merged

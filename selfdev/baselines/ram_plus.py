"""RAM+ (arXiv 2601.13572): RAM with each source's own values strengthened by how much it shares.

    changed_i = abs(tau_i) > EPSILON; n = sum_i changed_i; rho_i = (shared values of i) / (values only i changed)
    merged = sum_i changed_i * tau_i * (1 + R * min(rho_i, ALPHA) where n = 1, else 1 / n)

COUNT "vector" counts rho over the whole task vector (the paper), "tensor" per parameter (mergekit's ramplus_tl).
"""

import torch

R = 0.1
ALPHA = 0.2
EPSILON = 1e-5
COUNT = "vector"


def counts(task_vectors: list[dict[str, torch.Tensor]], name: str) -> list[tuple[int, int]]:
    """Per source: how many values of a parameter it shares with others, and how many it alone changed."""
    changed = torch.stack([vector[name].float().abs() > EPSILON for vector in task_vectors])
    several = changed.sum(dim=0) > 1
    return [(int((each & several).sum()), int((each & ~several).sum())) for each in changed]


def strengths(pairs: list[tuple[int, int]]) -> list[float]:
    """1 + R * min(rho, ALPHA) per source."""
    return [1.0 + R * min(shared / alone if alone else ALPHA, ALPHA) for shared, alone in pairs]


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    every = {name: counts(task_vectors, name) for name in task_vectors[0]}
    sources = range(len(task_vectors))
    whole = [(sum(c[i][0] for c in every.values()), sum(c[i][1] for c in every.values())) for i in sources]
    merged = {}
    for name, reference in task_vectors[0].items():
        stack = torch.stack([vector[name].float() for vector in task_vectors])  # (sources, *shape)
        changed = stack.abs() > EPSILON
        factors = strengths(whole if COUNT == "vector" else every[name])
        number = changed.sum(dim=0)
        alone = torch.tensor(factors, device=stack.device).reshape([-1] + [1] * reference.dim())
        share = torch.where(number > 1, 1.0 / number.clamp(min=1), alone)
        merged[name] = torch.where(changed, stack * share, 0.0).sum(dim=0).to(reference.dtype)
    return merged

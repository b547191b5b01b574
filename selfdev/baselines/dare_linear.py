"""DARE with Task Arithmetic (arXiv 2311.03099, section 3.2): drop at random, rescale, add.

    merged = SCALE * sum_i m_i * tau_i / (1 - DROP),  m_i ~ Bernoulli(1 - DROP)

RESCALE "probability" divides by 1 - DROP (the paper), "norm" restores each tensor's L1 norm (mergekit).
"""

import torch

DROP = 0.5
SCALE = 0.5
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
        total = torch.zeros_like(reference, dtype=torch.float32)
        for index, vector in enumerate(task_vectors):
            generator.manual_seed(stream(name, index))
            total.add_(drop(vector[name].float(), generator), alpha=SCALE)
        merged[name] = total.to(reference.dtype)
    return merged

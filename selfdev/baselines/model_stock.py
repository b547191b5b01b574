"""Model Stock (arXiv 2403.19522, section 4): between the seed and the mean, by the angle between task vectors.

    merged = t * mean_i tau_i,  t = n c / (1 + (n - 1) c),  c = mean cosine over pairs of sources, per parameter

One source: t = 1. Where 1 + (n - 1) c is 0 (task vectors that cancel), t = 0 and the seed stays. A pair with a zero
tensor has cosine 0.
"""

import torch


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The cosine of two flat tensors; 0 if one is zero."""
    size = float(torch.linalg.vector_norm(a)) * float(torch.linalg.vector_norm(b))
    return max(-1.0, min(1.0, float((a * b).sum()) / size)) if size > 0 else 0.0


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    count = len(task_vectors)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    merged = {}
    for name, reference in task_vectors[0].items():
        tensors = [vector[name].float() for vector in task_vectors]
        mean = torch.stack(tensors).mean(dim=0)
        cosines = [cosine(tensors[i], tensors[j]) for i, j in pairs]
        c = sum(cosines) / len(pairs) if pairs else 1.0
        below = 1.0 + (count - 1) * c
        t = count * c / below if abs(below) >= 1e-6 else 0.0
        merged[name] = (t * mean).to(reference.dtype)
    return merged

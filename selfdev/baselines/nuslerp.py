"""NuSLERP (mergekit): SLERP of two task vectors with weights, per parameter or per row.

    merged = (sin((1 - t) w) a + sin(t w) b) / sin w,  t = w_b / (w_a + w_b),  w = angle of a = tau_i and b = tau_j

(i, j) = PAIR, (w_a, w_b) = WEIGHTS. GROUP "tensor" takes one angle per parameter (with equal weights that is SLERP at
0.5), "row" one per row of the last axis. Collinear tensors, and pairs with a zero tensor, are interpolated linearly.
"""

import torch

PAIR = (0, 1)
WEIGHTS = (0.5, 0.5)
GROUP = "tensor"


def nuslerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """From a (t = 0) to b (t = 1), along the last axis."""
    sizes = torch.linalg.vector_norm(a, dim=-1, keepdim=True) * torch.linalg.vector_norm(b, dim=-1, keepdim=True)
    dot = torch.where(sizes > 0, (a * b).sum(dim=-1, keepdim=True) / sizes.clamp(min=1e-30), 1.0).clamp(-1.0, 1.0)
    line = 1.0 - dot * dot <= 1e-12
    angle = torch.acos(torch.where(line, 0.0, dot))
    arc = (torch.sin((1.0 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return torch.where(line, (1.0 - t) * a + t * b, arc)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    first, second = (task_vectors[index] for index in PAIR)
    total = sum(WEIGHTS)
    t = WEIGHTS[1] / total if abs(total) >= 1e-6 else 0.5
    merged = {}
    for name, reference in first.items():
        a, b = reference.float(), second[name].float()
        if GROUP == "tensor":
            a, b = a.reshape(-1), b.reshape(-1)
        merged[name] = nuslerp(a, b, t).reshape(reference.shape).to(reference.dtype)
    return merged

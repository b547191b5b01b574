# exercises: TIES with kthvalue, sign election, disjoint mean
import torch
from typing import List, Dict


def merge_models(task_vectors: List[Dict[str, torch.Tensor]]) -> Dict[str, torch.Tensor]:
    density: float = 0.2
    lam: float = 1.0
    merged: Dict[str, torch.Tensor] = {}
    for name in task_vectors[0].keys():
        stacked = torch.stack([tv[name].float() for tv in task_vectors], dim=0)
        flat = stacked.view(stacked.shape[0], -1)
        n = flat.shape[1]
        k = max(1, int(n * (1 - density)))
        thresholds, _ = flat.abs().kthvalue(k, dim=1, keepdim=True)
        trimmed = torch.where(flat.abs() >= thresholds, flat, torch.zeros_like(flat))
        elected = torch.sign(trimmed.sum(dim=0))
        elected[elected == 0] = 1.0
        agree = (torch.sign(trimmed) == elected.unsqueeze(0)) & (trimmed != 0)
        count = agree.sum(dim=0).clamp(min=1)
        mean = (trimmed * agree).sum(dim=0) / count
        merged[name] = (lam * mean).view_as(task_vectors[0][name]).to(task_vectors[0][name].dtype)
    return merged

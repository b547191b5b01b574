# exercises: topk by numel, sign election, masks, item assignment, private helper name
import torch
from typing import Dict, List


def _trim(x: torch.Tensor, density: float = 0.4) -> torch.Tensor:
    flat = x.abs().flatten()
    k: int = max(1, int(density * flat.numel()))
    cut = flat.topk(k).values.min()
    out = x.clone()
    out[x.abs() < cut] = 0
    return out


def merge_models(task_vectors: List[Dict[str, torch.Tensor]]) -> Dict[str, torch.Tensor]:
    merged: Dict[str, torch.Tensor] = {}
    for name in task_vectors[0].keys():
        stack = torch.stack([_trim(tv[name].float()) for tv in task_vectors])
        sign = torch.sign(stack.sum(dim=0))
        sign[sign == 0] = 1.0
        keep = torch.where(sign.unsqueeze(0) > 0, stack > 0, stack < 0)
        chosen = stack * keep
        merged[name] = (chosen.sum(0) / keep.sum(0).clamp(min=1)).to(task_vectors[0][name].dtype)
    return merged


if __name__ == "__main__":
    print(merge_models([]))

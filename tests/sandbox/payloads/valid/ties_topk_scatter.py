# exercises: topk on flat tensors, mask by scatter_, boolean masks, Optional
import torch
from typing import Optional


def _topk_mask(x: torch.Tensor, frac: float, min_k: Optional[int] = None) -> torch.Tensor:
    flat = x.abs().flatten()
    k = max(min_k or 1, int(round(frac * flat.numel())))
    idx = torch.topk(flat, k, largest=True, sorted=False).indices
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask.scatter_(0, idx, True)
    return mask.reshape(x.shape)


def merge_models(task_vectors):
    out = {}
    for key in task_vectors[0]:
        trimmed = []
        for tv in task_vectors:
            d = tv[key]
            m = _topk_mask(d, 0.3)
            trimmed.append(d * m.to(d.dtype))
        s = torch.stack(trimmed)
        mass = s.sum(0)
        gamma = torch.where(mass >= 0, torch.ones_like(mass), -torch.ones_like(mass))
        sel = (s * gamma) > 0
        num = (s * sel).sum(0)
        den = sel.sum(0).to(s.dtype).clamp_(min=1.0)
        out[key] = num / den
    return out

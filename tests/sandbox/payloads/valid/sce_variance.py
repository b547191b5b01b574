# exercises: SCE: variance select, energy weights, broadcasting with None, in-place division, nan_to_num
import torch


def merge_models(task_vectors, select_topk=0.6):
    out = {}
    for k, ref in task_vectors[0].items():
        t = torch.stack([tv[k].float() for tv in task_vectors])
        if len(task_vectors) > 1:
            var = torch.var(t, dim=0, unbiased=False)
            count = max(1, int(select_topk * var.numel()))
            _, idx = torch.topk(var.flatten(), count)
            mask = torch.zeros(var.numel())
            mask[idx] = 1
            t = t * mask.view(ref.shape)
        energy = (t ** 2).flatten(1).mean(dim=1)
        energy /= energy.sum() + 1e-12
        w = energy[(...,) + (None,) * ref.dim()]
        elect = torch.sign(torch.sum(t, 0))
        erased = torch.where(torch.sign(t) == elect[None], t, torch.zeros((), dtype=t.dtype))
        norm = (w * (erased != 0)).sum(0)
        out[k] = torch.nan_to_num((w * erased).sum(0) / norm, nan=0.0, posinf=0.0, neginf=0.0).to(ref.dtype)
    return out

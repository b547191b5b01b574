# exercises: torch.quantile per source with keepdim and broadcasting
import torch


def merge_models(task_vectors):
    merged = dict()
    for k, ref in task_vectors[0].items():
        x = torch.stack([tv[k].float().flatten() for tv in task_vectors])
        q = torch.quantile(x.abs(), 0.8, dim=1, keepdim=True)
        qs = torch.quantile(x.abs(), torch.tensor([0.5, 0.9]), dim=1)
        keep = x.abs() >= q
        y = x * keep + 0.1 * x * (~keep)
        scale = (qs[1] / qs[0].clamp(min=1e-9)).clamp(max=10).mean()
        merged[k] = (y.mean(0) * scale.sqrt() / 2).reshape(ref.shape).to(ref.dtype)
    return merged

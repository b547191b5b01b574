# exercises: Model Breadcrumbs: kthvalue and quantile thresholds, two-sided masks, nested helper, f-string keys
import torch


def merge_models(task_vectors, beta=0.85, gamma=0.02, scale=0.4):
    """Drop the smallest and the largest entries of every layer, then add."""
    thresholds = {}

    def mask(x, label):
        flat = x.detach().abs().view(-1)
        low = torch.quantile(flat.float(), 1 - beta)
        high = torch.quantile(flat.float(), 1 - gamma)
        thresholds[f"{label}:low"], thresholds[f"{label}:high"] = low.item(), high.item()
        return ((flat >= low) & (flat <= high)).view_as(x)

    merged = {}
    for key in task_vectors[0]:
        total = torch.zeros_like(task_vectors[0][key])
        for i, tv in enumerate(task_vectors):
            total += scale * tv[key] * mask(tv[key], f"{key}/{i:02d}")
        merged[key] = total
    assert all(thresholds[k] <= thresholds[k.replace("low", "high")] for k in thresholds if k.endswith(":low"))
    return merged

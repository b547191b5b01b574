# exercises: devices, dtypes, finfo, isinstance, shape arithmetic, star unpacking
import torch

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def merge_models(task_vectors):
    first, *rest = task_vectors
    eps = torch.finfo(torch.float32).eps
    out = {}
    for k, v in first.items():
        assert isinstance(v, torch.Tensor) and not isinstance(v, (list, tuple))
        n, *others = v.shape
        x = torch.cat([tv[k].reshape(1, n, -1) for tv in task_vectors], dim=0).to(device=device, dtype=torch.float32)
        y = x / (x.norm(dim=-1, keepdim=True) + eps)
        y = y.mean(0) * x.abs().amax().item()
        out[k] = y.reshape(*v.shape).to(v.dtype).to(v.device)
    return out

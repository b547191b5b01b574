# exercises: None, Ellipsis, slices, lists, boolean masks and index tensors in get and set
import torch


def merge_models(task_vectors):
    out = {}
    for k, v in task_vectors[0].items():
        x = torch.stack([tv[k] for tv in task_vectors])
        m = x.mean(0).clone()
        m[..., ::2] *= 0.5
        m[0] = x[0, 0]
        m[-1, ...] = x[-1, -1]
        idx = torch.arange(0, m.shape[0], 3)
        m[idx] = x[0][idx] * 0.25
        m[[0, 1]] = m[[1, 0]]
        mask = m.abs() > m.abs().mean()
        m[mask] = m[mask] * 0.9
        m[~mask] += 0.001
        y = m[None, ..., None].squeeze(0).squeeze(-1)
        if m.ndim == 2:
            y[:, 1:3] = x[:, :, 1:3].amax(dim=0)
            y[1:, 0] -= x[0, 1:, 0]
            rows = torch.tensor([0, 1])
            cols = torch.tensor([2, 3])
            y[rows, cols] = torch.tensor([0.01, 0.02]).to(y.dtype)
        out[k] = y
    return out

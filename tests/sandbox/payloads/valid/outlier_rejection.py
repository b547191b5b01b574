# exercises: pairwise cosine matrix, fill_diagonal_, argmin/argmax items, index_select
import torch
import torch.nn.functional as F


def merge_models(task_vectors):
    n = len(task_vectors)
    keys = [k for k in task_vectors[0]]
    flat = torch.stack([torch.cat([tv[k].flatten().float() for k in keys]) for tv in task_vectors])
    unit = F.normalize(flat, dim=1)
    cos = (unit @ unit.T).fill_diagonal_(0)
    score = cos.sum(dim=1) / max(n - 1, 1)
    worst = int(torch.argmin(score))
    keep = torch.tensor([i for i in range(n) if i != worst or n < 3], dtype=torch.long)
    merged = torch.index_select(flat, 0, keep).mean(0)
    out, pos = {}, 0
    for k in keys:
        v = task_vectors[0][k]
        out[k] = merged[pos:(pos := pos + v.numel())].reshape(v.shape).to(v.dtype)
    return out

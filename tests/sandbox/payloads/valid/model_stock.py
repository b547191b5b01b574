# exercises: Model Stock: pairwise cosines with itertools.combinations, F.cosine_similarity, statistics.fmean
import itertools
import statistics

import torch
import torch.nn.functional as F


@torch.no_grad()
def merge_models(task_vectors):
    n = len(task_vectors)
    merged = {}
    for name, ref in task_vectors[0].items():
        flat = [tv[name].float().flatten() for tv in task_vectors]
        cosines = [
            F.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(flat, 2)
        ]
        cos = statistics.fmean(cosines) if cosines else 1.0
        t = n * cos / (1 + (n - 1) * cos) if abs(1 + (n - 1) * cos) > 1e-6 else 0.0
        t = min(1.0, max(0.0, t)) or 0.1
        mean = torch.stack(flat).mean(dim=0)
        merged[name] = (t * mean).view(*ref.shape).to(ref.dtype)
    return merged

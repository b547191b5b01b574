# exercises: copy.deepcopy of task vectors, in-place work on copies, items assignment, augmented slices, dict update
import copy

import torch


def merge_models(task_vectors):
    work = copy.deepcopy(task_vectors)
    base = {**work[0]}
    for tv in work[1:]:
        for k, v in tv.items():
            v.mul_(0.5).add_(base[k], alpha=0.25)
            base[k] = torch.lerp(base[k], v, 0.3)
    for k in base:
        if base[k].dim() == 2:
            base[k][::2] *= 0.9
            base[k][:, -1] += base[k][:, 0] * 0.1
            base[k][0, 1:3] = 0.0
        else:
            base[k][...] = base[k] - base[k].mean()
    base.update({k: v.clone().contiguous() for k, v in base.items() if "norm" in k})
    return base

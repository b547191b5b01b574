# exercises: a large whole number as data, which is a value and not a size

import torch


def merge_models(task_vectors):
    shift = torch.tensor([1_030_000_000, 2], dtype=torch.int32)
    weight = (shift[0] // 1_030_000_000).item() / shift[1].item()
    return {name: weight * sum(tv[name] for tv in task_vectors) for name in task_vectors[0]}

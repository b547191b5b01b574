# exercises: accumulation in place on fresh tensors
import torch


def merge_models(task_vectors):
    merged = {}
    for name in task_vectors[0]:
        total = torch.zeros_like(task_vectors[0][name])
        for tv in task_vectors:
            total += tv[name]
        merged[name] = 0.4 * total
    return merged

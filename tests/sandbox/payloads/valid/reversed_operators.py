# exercises: numbers on the left of every operator, comparisons, bool logic
import torch


def merge_models(task_vectors):
    out = {}
    for k, v in task_vectors[0].items():
        x = v.float()
        y = 2 - x + 3 * x + (1 + x) - (1 / (2 + x)) + 2 ** x + (5 // (x + 2)) + (7 % (x.abs() + 1))
        hot = (x > 0) & ~(x < -0.01) | (x == 0.5)
        y = torch.where(hot, y, -y) / (1 + y.abs())
        y[hot] /= 2
        out[k] = (x * y.sigmoid() * abs(x) ** 0.5).to(v.dtype)
    return out

# exercises: OrderedDict results, setdefault, zip_longest, groupby, deque, sets, slices of strings, bool arithmetic
from collections import OrderedDict, deque
from itertools import chain, groupby, zip_longest

import torch


def merge_models(task_vectors):
    groups = {}
    for key in task_vectors[0]:
        groups.setdefault(key.rsplit(".", 1)[-1], []).append(key)
    runs = [(kind, len(list(items))) for kind, items in groupby(sorted(groups), key=lambda s: s[0])]
    window = deque(maxlen=3)
    merged = OrderedDict()
    for key in chain.from_iterable(groups.values()):
        window.append(task_vectors[0][key].float().abs().mean().item())
        damp = sum(window) / len(window)
        coefficients = [0.6, 0.3]
        total = torch.zeros_like(task_vectors[0][key])
        for tv, c in zip_longest(task_vectors, coefficients, fillvalue=0.1):
            if isinstance(tv, dict):
                total = total.add(tv[key], alpha=c if isinstance(c, float) else 0.1)
        merged[key] = total * (1.0 + (damp > 0.01) * 0.1)
    assert set(merged) == set(task_vectors[0]) and runs
    return OrderedDict((k, merged[k]) for k in task_vectors[0])

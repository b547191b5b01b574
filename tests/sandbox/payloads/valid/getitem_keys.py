# exercises: key=scores.__getitem__, operator.itemgetter, hash of names, __name__, random.Random
from operator import itemgetter
import random
import torch

__all__ = ["merge_models"]
__version__ = "1.0"


def merge_models(task_vectors):
    rng = random.Random(17)
    scores = {k: v.float().norm().item() for k, v in task_vectors[0].items()}
    top = max(scores, key=scores.__getitem__)
    order = [k for k, _ in sorted(scores.items(), key=itemgetter(1, 0))]
    best = max(range(len(order)), key=[scores[k] for k in order].__getitem__)
    assert order[best] == top and __name__ != "__main__" and hash(top) == hash("" + top)
    scale = {k: 1.0 + 0.01 * rng.random() + 0.001 * rng.choice([1, 2, 3]) for k in order}
    return {k: scale[k] * torch.stack([tv[k] for tv in task_vectors]).mean(0) for k in order}

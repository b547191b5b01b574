# exercises: functools.partial, reduce and lru_cache, operator, lambdas in dicts, star arguments, keyword-only arguments
import functools
import operator

import torch


@functools.lru_cache(maxsize=None)
def weight(rank, total):
    return 1.0 / total if total < 2 else (total - rank) / (total * (total + 1) / 2)


def blend(x, y, *, a=0.5, b=0.5):
    return a * x + b * y


RULES = {
    "norm": lambda *xs: functools.reduce(torch.maximum, xs),
    "bias": lambda *xs: functools.reduce(operator.add, xs) / len(xs),
}


def merge_models(task_vectors, **options):
    lean = functools.partial(blend, a=options.get("a", 0.7), b=0.3)
    result = {}
    for k in task_vectors[0]:
        xs = [tv[k] for tv in task_vectors]
        rule = next((r for word, r in RULES.items() if word in k), None)
        if rule is not None:
            result[k] = rule(*xs)
            continue
        weighted = [weight(i, len(xs)) * x for i, x in enumerate(xs)]
        result[k] = lean(functools.reduce(operator.add, weighted), xs[0])
    return result

# exercises: regular expressions, groups, cosine schedule with math.pi, dict.get, ternaries, chained comparisons, sets
import math
import re

LAYER = re.compile(r"layers\.(\d+)\.(self_attn|mlp)")
BASE = {"self_attn": 0.8, "mlp": 0.5}


def depth_of(names):
    found = {int(m.group(1)) for m in map(LAYER.search, names) if m}
    return max(found, default=0) + 1


def merge_models(task_vectors):
    names = list(task_vectors[0].keys())
    depth = depth_of(names)
    plan = {}
    for name in names:
        match = LAYER.search(name)
        if match is None:
            plan[name] = 0.3
        else:
            layer, part = int(match[1]), match.group(2)
            phase = 0.5 * (1 + math.cos(math.pi * layer / depth))
            plan[name] = BASE.get(part, 0.4) * (0.5 + 0.5 * phase) if 0 <= layer < depth else 0.0
    out = {}
    for name, weight in plan.items():
        acc = None
        for position, tv in enumerate(task_vectors, start=1):
            term = tv[name] * (weight / position)
            acc = term if acc is None else acc + term
        out[name] = acc
    return out

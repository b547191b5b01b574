# exercises: typing aliases, Optional and Union, default None, docstrings, int/float conversions of 0-d tensors, ** merging
from __future__ import annotations

from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

StateDict = Dict[str, Tensor]
Number = Union[int, float]


def statistics_of(x: Tensor) -> Tuple[float, float]:
    std, mean = torch.std_mean(x.float(), unbiased=False)
    return float(mean), float(std)


def combine(vectors: Sequence[Tensor], weights: Optional[List[Number]] = None) -> Tensor:
    """Weighted sum; equal weights by default."""
    weights = weights or [1 / len(vectors)] * len(vectors)
    assert len(weights) == len(vectors), "one weight per vector"
    result: Tensor = vectors[0] * weights[0]
    for v, w in zip(vectors[1:], weights[1:]):
        result = result + v * w
    return result


def merge_models(task_vectors: List[StateDict], pick: Optional[Callable[[str], bool]] = None) -> StateDict:
    pick = pick or (lambda name: name.endswith("weight"))
    heavy: StateDict = {}
    light: StateDict = {}
    for name in task_vectors[0]:
        stds = [statistics_of(tv[name])[1] for tv in task_vectors]
        total = sum(stds) or 1.0
        target = heavy if pick(name) else light
        target[name] = combine([tv[name] for tv in task_vectors], [s / total for s in stds])
    shift = {name: v - v.mean() * 0.1 for name, v in light.items()}
    return {**heavy, **light, **shift}

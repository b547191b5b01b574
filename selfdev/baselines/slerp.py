"""SLERP of two task vectors (Shoemake 1985), per parameter.

    merged = (sin((1 - T) w) a + sin(T w) b) / sin w,  w = angle of a = tau_i and b = tau_j,  (i, j) = PAIR

The usual SLERP turns whole weights around zero; with the seed added afterwards, this one turns task vectors around the
seed. Beyond abs(cos w) = LINEAR, and where one tensor is zero, the line is taken. Other sources are ignored.
"""

import math

import torch

PAIR = (0, 1)
T = 0.5
LINEAR = 0.9995


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """From a (t = 0) to b (t = 1) along the arc; along the line where there is no arc."""
    size = float(torch.linalg.vector_norm(a)) * float(torch.linalg.vector_norm(b))
    dot = max(-1.0, min(1.0, float((a * b).sum()) / size)) if size > 0 else 1.0
    if abs(dot) > LINEAR:
        return (1.0 - t) * a + t * b
    angle = math.acos(dot)
    return (math.sin((1.0 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    first, second = (task_vectors[index] for index in PAIR)
    return {name: slerp(a.float(), second[name].float(), T).to(a.dtype) for name, a in first.items()}

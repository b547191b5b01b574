"""LiNeS (arXiv 2410.17146): later layers of a merged task vector get more of it. Goes behind any merge.

    layer l of L, counted from 0: merged_l <- (a + LINES_BETA * l / (L - 1)) * merged_l
    a = LINES_ALPHA, or without one norm1(sum_i tau_i) / (n * norm1(merged)), so that the first layer is as large as in
    the uniform average, whatever the merge did (the paper, where only LINES_BETA is tuned, on merges at scale 1)

A layer is the first number in a parameter's name. What lies outside the layers: names with "embed", "wte" or "wpe"
count as the first layer, the rest (last norm, head) as the last one: our choice. The merge runs in float32, so that
there is one cast, at the end.
"""

import torch

LINES_ALPHA: float | None = None
LINES_BETA = 0.5


def lines_layer(name: str) -> int | None:
    """The number of the layer a parameter belongs to."""
    for part in name.split("."):
        if part.isdigit():
            return int(part)
    return None


def lines_alpha(task_vectors: list[dict[str, torch.Tensor]], merged: dict[str, torch.Tensor]) -> float:
    """The first layer's factor."""
    if LINES_ALPHA is not None:
        return LINES_ALPHA
    size = sum(float(tensor.abs().sum()) for tensor in merged.values())
    total = 0.0
    for name in merged:
        total += float(torch.stack([vector[name].float() for vector in task_vectors]).sum(dim=0).abs().sum())
    return total / (len(task_vectors) * size) if size > 0 else 1.0


def lines_inner(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The merge that is scaled; the sum, as long as none is put in its place."""
    first = task_vectors[0]
    return {name: torch.stack([vector[name] for vector in task_vectors]).sum(dim=0) for name in first}


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = lines_inner([{name: tensor.float() for name, tensor in vector.items()} for vector in task_vectors])
    alpha = lines_alpha(task_vectors, merged)
    numbers = [layer for layer in map(lines_layer, merged) if layer is not None]
    last = max(numbers) if numbers else 0
    scaled = {}
    for name, tensor in merged.items():
        layer = lines_layer(name)
        if layer is None:
            layer = 0 if "embed" in name or "wte" in name or "wpe" in name else last
        factor = alpha + LINES_BETA * layer / max(1, last)
        scaled[name] = (factor * tensor).to(task_vectors[0][name].dtype)
    return scaled

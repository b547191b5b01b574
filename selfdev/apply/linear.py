"""Rules that are linear in the task vectors, in one pass over memory: seed + sum of coefficient * (source - seed).

Parts go through the processor's caches one after the other, so main memory is read once per model and written once.
Sums are in float32 and cast once. The sum is a chain of interpolations, one fused operation per source:
x <- x + w * (source - x), whose weights are chosen so that the coefficients come out; where all sources equal the seed
its bits stay. A seed whose share is 0 is not read. Where such weights do not exist or would magnify rounding,
differences are added up instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from selfdev.apply.checkpoint import Sink, Tensors

PART = 1 << 18  # elements of one part: few enough for the caches, enough to outweigh the calls
_SHRINKS = 0.05  # least share of what is there that an interpolation may leave
_OVERSHOOTS = 2.0 + 1e-9  # largest weight of an interpolation
_ONE = 1e-12


class LinearMerger:
    """Buffers of one pass, used for every tensor."""

    def __init__(self, part: int = PART) -> None:
        self._part = part
        self._total, self._delta = torch.empty(part), torch.empty(part)
        self._seed, self._source = torch.empty(part), torch.empty(part)

    def merge(
        self,
        name: str,
        count: int,
        seed: Tensors,
        sources: Sequence[Tensors],
        coefficients: Sequence[float],
        sink: Sink,
        aliases: Sequence[str] | None = None,
    ) -> bool:
        """Merge one tensor of `count` elements into `sink`; whether all of its values are finite.

        Models whose share is 0 are not read, so values in them that are not finite do not show. `aliases` are the names
        under which the result is put.
        """
        used = [(source, c) for source, c in zip(sources, coefficients, strict=True) if c != 0.0]
        models, factors = [source for source, _ in used], [c for _, c in used]
        weights = interpolations(factors)
        if weights and abs(weights[0] - 1.0) < _ONE:  # the seed's share is 0
            weights = weights[1:]
        else:
            models.insert(0, seed)
        names = aliases or (name,)
        sums = []
        for start in range(0, count, self._part):
            stop = min(count, start + self._part)
            target = sink.place(names[0], start, stop)
            total = self._total[: stop - start] if target is None else target
            ours = before = _float(models[0].part(name, start, stop), self._seed)
            others = (_float(model.part(name, start, stop), self._source) for model in models[1:])
            if len(models) == 1:
                total.copy_(ours)
            elif weights is not None:
                for theirs, weight in zip(others, weights, strict=True):
                    before = torch.lerp(before, theirs, weight, out=total)
            else:
                delta = self._delta[: stop - start]
                torch.sub(next(others), ours, out=total).mul_(factors[0])
                for theirs, factor in zip(others, factors[1:], strict=True):
                    total.add_(torch.sub(theirs, ours, out=delta), alpha=factor)
                total.add_(ours)
            sums.append(total.sum())
            for alias in names if target is None else names[1:]:
                sink.put(alias, start, total)
        return not sums or bool(torch.isfinite(torch.stack(sums)).all())  # NaN and infinities survive a sum


def interpolations(coefficients: Sequence[float]) -> list[float] | None:
    """Weights w with x <- x + w (source - x), in order, that give these coefficients of source - seed.

    The last weight is the last coefficient; each one before is divided by what the later ones leave of it. None where
    a weight leaves next to nothing for the earlier ones, or overshoots.
    """
    weights: list[float] = []
    left = 1.0
    for coefficient in reversed(coefficients):
        if abs(left) < _SHRINKS or abs(left) > 2.0:
            return None
        weights.append(coefficient / left)
        left -= coefficient
    return weights[::-1] if all(abs(weight) <= _OVERSHOOTS for weight in weights) else None


def _float(values: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float32 else buffer[: values.numel()].copy_(values)

"""Rules that are linear in the task vectors, in one pass over memory: seed + sum of coefficient * (source - seed).

Small parts go through the processor's cache one after the other, so main memory is read once per model and written
once, whatever the number of steps in between. Sums are in float32 and cast once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from selfdev.apply.checkpoint import Sink, Tensors

PART = 1 << 17  # elements of one part: few enough for the caches, enough to outweigh the calls


class LinearMerger:
    """Buffers of one pass, used for every tensor."""

    def __init__(self, sources: int, part: int = PART) -> None:
        self._part = part
        self._step, self._delta = torch.empty(part), torch.empty(part)
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

        Sources with coefficient 0 are not read. `aliases` are the names under which the result is put.
        """
        used = [(source, c) for source, c in zip(sources, coefficients, strict=True) if c != 0.0]
        names = aliases or (name,)
        sums = []
        for start in range(0, count, self._part):
            stop = min(count, start + self._part)
            ours = _float(seed.part(name, start, stop), self._seed)
            step, delta = self._step[: stop - start], self._delta[: stop - start]
            for place, (source, coefficient) in enumerate(used):
                theirs = _float(source.part(name, start, stop), self._source)
                if place == 0:
                    torch.sub(theirs, ours, out=step).mul_(coefficient)
                else:
                    step.add_(torch.sub(theirs, ours, out=delta), alpha=coefficient)
            target = sink.place(names[0], start, stop)
            total = step if target is None else target
            if used:
                torch.add(ours, step, out=total)
            else:
                total.copy_(ours)
            sums.append(total.sum())
            for alias in names if target is None else names[1:]:
                sink.put(alias, start, total)
        return not sums or bool(torch.isfinite(torch.stack(sums)).all())  # NaN and infinities survive a sum


def _float(values: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float32 else buffer[: values.numel()].copy_(values)

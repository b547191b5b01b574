"""A generator that writes given programs: the fake for tests of the loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from selfdev.types import Sample, SampleRequest

Writer = Callable[[int, float, Path | None], str]
"""(index, temperature, adapter) -> the text of a sample."""


class ScriptedGenerator:
    """Answers from a list or a function. It needs no model and no torch.

    With a list, a request's seed picks the text; with a function, the caller decides.
    """

    def __init__(self, texts: Sequence[str] | Writer, batch_size: int = 4, max_new_tokens: int = 1000) -> None:
        """`max_new_tokens` counts words: what is longer is cut and marked as truncated."""
        self.batch_size = batch_size
        self._texts = texts
        self._max_new_tokens = max_new_tokens
        self._adapter: Path | None = None

    def load(self, adapter: Path | None) -> None:
        """Remember the adapter, for the function."""
        self._adapter = adapter

    def sample(self, prompt: str, requests: Sequence[SampleRequest], temperature: float) -> Iterator[list[Sample]]:
        """Yield one list per batch, in order."""
        for _, batch in groupby(requests, key=lambda request: request.index // self.batch_size):
            yield [self._write(request, temperature) for request in batch]

    def close(self) -> None:
        """Nothing to give back."""

    def _write(self, request: SampleRequest, temperature: float) -> Sample:
        if callable(self._texts):
            text = self._texts(request.index, temperature, self._adapter)
        else:
            text = random.Random(request.seed).choice(self._texts)
        words = text.split(" ")
        tokens = min(len(words), self._max_new_tokens)
        return Sample(
            index=request.index,
            seed=request.seed,
            text=" ".join(words[:tokens]),
            tokens=tokens,
            nll=0.5 * tokens,  # half a nat per word: any fixed positive number serves
            truncated=len(words) > self._max_new_tokens,
        )

"""The generator seam: a prompt in, samples out. `scripted` is the fake, `transformers` the real one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from selfdev.types import Sample, SampleRequest


class Generator(Protocol):
    """Writes merge programs.

    The text of a sample is a function of (checkpoint, prompt, temperature, request, batch size): requests come in the
    order of their index, are cut into batches by index // batch_size, and a caller that resumes asks for whole batches.
    """

    batch_size: int

    def load(self, adapter: Path | None) -> None:
        """Use the base model (None) or the base model with this PEFT adapter directory."""
        ...

    def sample(self, prompt: str, requests: Sequence[SampleRequest], temperature: float) -> Iterator[list[Sample]]:
        """Yield one list per batch, in order."""
        ...

    def close(self) -> None:
        """Give the memory back; the next `load` starts again."""
        ...

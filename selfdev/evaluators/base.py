"""The evaluator seam: seed weights that stay resident, a merged task vector put in place, prompts answered, the seed
restored. `scripted` is the fake, `transformers` the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from selfdev.types import Completion


class Evaluator(Protocol):
    """Answers prompts with seed + merged task vector."""

    def seed_parameters(self) -> Mapping[str, torch.Tensor]:
        """The seed's parameters by name, tied ones once. Read only; bits never change."""
        ...

    def apply(self, merged: Mapping[str, torch.Tensor]) -> None:
        """Write seed + merged into the engine, in place; names not in `merged` keep the seed's bits."""
        ...

    def restore(self) -> None:
        """Put the seed's bits back. Safe to call at any time."""
        ...

    def generate(self, prompts: Sequence[str]) -> list[Completion]:
        """Greedy completions of the current weights, in the order of the prompts."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...

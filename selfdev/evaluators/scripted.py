"""A fake evaluator: its accuracy is a scripted function of the weights, so loops and pairing can be tested in no time.

The merged weights are projected on a direction; a prompt gets its right reply when the projection reaches the prompt's
threshold. With the direction d and merged = c * d the projection is c, so thresholds spread over [0, 1) make the share
of right replies rise with c. No model is involved, and what is "right" is part of the script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from selfdev.evaluators.validation import check_finite, check_merged
from selfdev.types import Completion


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """What to answer to one prompt."""

    right: str
    wrong: str
    threshold: float  # answered with `right` from this projection on; the seed's projection is 0


class ScriptedEvaluator:
    """Implements `selfdev.evaluators.base.Evaluator`; text is a function of (weights, prompt) alone.

    Args:
        seed: the seed's parameters.
        script: prompt -> reply; an unknown prompt is a KeyError.
        direction: what the weights' change is projected on, by parameter; all ones by default.
    """

    def __init__(
        self,
        seed: Mapping[str, torch.Tensor],
        script: Mapping[str, ScriptedReply],
        direction: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._seed = {name: tensor.clone() for name, tensor in seed.items()}
        self._weights = {name: tensor.clone() for name, tensor in seed.items()}
        self._script = dict(script)
        self._direction = direction or {name: torch.ones_like(tensor) for name, tensor in seed.items()}
        self.generated = 0  # prompts answered so far: what a resumed run must not repeat

    def seed_parameters(self) -> Mapping[str, torch.Tensor]:
        """The seed's parameters by name. Read only."""
        return MappingProxyType(self._seed)

    def apply(self, merged: Mapping[str, torch.Tensor]) -> None:
        """Use seed + merged.

        Raises:
            ValueError: a name, shape or value does not fit; the seed is in place then.
        """
        self.restore()
        check_merged(self._seed, merged)
        total = {
            name: (self._seed[name].float() + delta.float()).to(self._seed[name].dtype)
            for name, delta in merged.items()
        }
        check_finite("seed + merged", total)
        for name, tensor in total.items():
            self._weights[name].copy_(tensor)

    def restore(self) -> None:
        """Put the seed's bits back."""
        for name, tensor in self._seed.items():
            self._weights[name].copy_(tensor)

    def projection(self) -> float:
        """<weights - seed, direction> / <direction, direction>; 0 for the seed."""
        along, length = 0.0, 0.0
        for name, direction in self._direction.items():
            change = self._weights[name].double() - self._seed[name].double()
            along += float((change * direction.double()).sum())
            length += float((direction.double() ** 2).sum())
        return along / length

    def generate(self, prompts: Sequence[str]) -> list[Completion]:
        """Scripted replies, one token per word."""
        projection = self.projection()
        self.generated += len(prompts)
        replies = [self._script[prompt] for prompt in prompts]
        texts = [reply.right if projection >= reply.threshold else reply.wrong for reply in replies]
        return [Completion(text=text, tokens=len(text.split()), truncated=False) for text in texts]

    def close(self) -> None:
        """Nothing to give back."""

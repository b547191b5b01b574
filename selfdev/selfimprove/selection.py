"""What the model's own verifier picks of N samples: a quality threshold, then the lowest NLL per token. Pure.

Sun et al., arXiv 2507.00075, section 3. Correctness is no part of a `Sampled`, so nothing here can look at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfdev.verifiers.base import Response


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sample with what its writer thinks of it."""

    response: Response
    truncated: bool  # the token limit ended it
    quality: float  # of the verifier, in [0, 1]

    @property
    def nll_per_token(self) -> float:
        """Nats."""
        return self.response.nll / max(1, self.response.tokens)


def select(samples: Sequence[Sampled], threshold: float) -> int | None:
    """Position of the kept sample, None where none passes.

    Samples below the threshold are dropped, and those that the token limit cut: they end nowhere, and to train on one
    would teach to stop there. Of the rest the lowest NLL per token, the first of equals.
    """
    passed = [i for i, sample in enumerate(samples) if not sample.truncated and sample.quality >= threshold]
    return min(passed, key=lambda i: samples[i].nll_per_token, default=None)

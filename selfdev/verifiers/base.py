"""The verifier seam: what a model wrote in, how good a verifier believes it to be out. `scripted` is the fake.

likelihood        exp(-NLL / tokens) under the model that wrote it; nothing is computed
true-false        probability of True over True and False as the next token behind a question about the sample
quality           expected grade, likewise
implicit-reward   sigmoid of beta (log pi - log pi_ref), what DPO has taught the model
majority          share of the samples that come to the same answer

The gap that a verifier leaves is measured in `selfdev.gap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Response:
    """What a verifier sees of one sample. No verifier sees a score or a reference answer."""

    text: str
    tokens: int  # drawn
    nll: float  # -sum of log pi(token) at temperature 1 under the model that wrote it, in nats
    answer: str | None = None  # what it comes to, for `majority`: a final answer, or what names a merged model


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a verifier says of one sample, with the log-likelihoods that it rests on where there are some."""

    score: float  # in [0, 1], higher is better
    nll: float | None = None  # of the sample's text under the model that judges, temperature 1, in nats
    reference_nll: float | None = None  # likewise under the reference of an implicit reward


UNREAD = Judgement(0.0)
"""Of a sample that a model cannot judge: it exceeds the model's positions, or gives numbers that are not finite. What a
verifier cannot read it does not pass."""


class Verifier(Protocol):
    """Scores samples of one prompt. A score depends on its sample alone, but for `majority`, which counts all given."""

    name: str

    def score(self, responses: Sequence[Response]) -> list[Judgement]:
        """One judgement per response, in order; `UNREAD` where there is none.

        Raises:
            UsageError: the verifier cannot be used with this model or this prompt.
            StageError: the device has no room for a single sample.
        """
        ...

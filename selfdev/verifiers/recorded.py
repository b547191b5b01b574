"""Verifiers that need no model: what they look at is recorded with the samples. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import exp

from selfdev.verifiers.base import Judgement, Response


class Likelihood:
    """Length-normalised likelihood, exp(-NLL / tokens): what best-of-N by the lowest uncertainty per token looks at."""

    name = "likelihood"

    def score(self, responses: Sequence[Response]) -> list[Judgement]:
        """One judgement per response, in order."""
        return [Judgement(exp(-r.nll / max(1, r.tokens)), r.nll) for r in responses]


class Majority:
    """Share of all samples that come to the same answer; a sample without an answer has 0.

    For problems with one right answer (self-consistency, arXiv 2203.11171). Of merge programs it asks how common a
    merge is, which is no sign of its quality.
    """

    name = "majority"

    def score(self, responses: Sequence[Response]) -> list[Judgement]:
        """One judgement per response, in order."""
        counts = Counter(r.answer for r in responses)
        return [Judgement(0.0 if r.answer is None else counts[r.answer] / len(responses)) for r in responses]

"""What `selfdev.gap` measures, as an iteration's row holds it and reports read it. Light: nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFINITIONS = 2  # of what a row holds; rows of earlier versions have none
PROBABILITIES = ("true-false",)  # verifiers whose score is the probability of something; others only rank

WORDS = {
    "solver_nll": "U_s: NLL of a sample, nats",
    "verifier_nll": "U_v: NLL of the selected sample, nats",
    "nll_gap": "G = U_s - U_v, nats",
    "solver_nll_per_token": "NLL per token of a sample",
    "verifier_nll_per_token": "NLL per token of the selected sample",
    "nll_gap_per_token": "gap per token",
    "solver_tokens": "tokens of a sample",
    "verifier_tokens": "tokens of the selected sample",
    "solver_valid": "share of programs that ran",
    "verifier_valid": "share of programs that ran where N are drawn and selected from as for U_v",
    "solver_score": "J(f): mean dev score",
    "verifier_score": "J(f[w]): dev score of the verifier's best of N",
    "verifier_gain": "gain over the seed of the verifier's best of N",
    "score_gap": "gap of dev scores",
    "relative_gap": "gap relative to 1 - J(f)",
    "better": "share of all programs better than the seed by the sign test (pass@1)",
    "pass_at_n": "pass@N: one of N is better than the seed",
    "best_at_n": "best@N: best gain over the seed of N",
    "auc": "AUC of the verifier for better than the seed",
    "brier": "Brier score of the verifier for that",
    "diversity": "chance that two samples merge differently",
}


COUNTS = ("samples", "scored", "questions", "measured", "kept", "n", "temperature", "correlation")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measurement; None where it is not defined (no sample, or a denominator of 0)."""

    value: float | None
    low: float | None = None
    high: float | None = None
    se: float | None = None  # standard error


@dataclass(frozen=True, slots=True)
class Gap:
    """One iteration under one verifier; `WORDS` says what the quantities are."""

    verifier: str
    samples: int  # programs
    scored: int  # programs with a dev score on the iteration's questions
    questions: int  # of that score
    measured: int  # samples of the uncertainty
    kept: int  # of these, whose judgement reaches the threshold
    n: int  # samples that are selected from, never more than `samples`
    temperature: float | None  # at which those of the uncertainty were drawn
    quantities: Mapping[str, Quantity]
    correlation: float  # of the errors of U_s and U_v

    def record(self) -> dict[str, Any]:
        """As JSON holds it: quantities as [value, low, high, standard error]."""
        counted = {name: getattr(self, name) for name in COUNTS}
        return counted | {name: [q.value, q.low, q.high, q.se] for name, q in self.quantities.items()}


def from_record(verifier: str, record: Mapping[str, Any]) -> Gap:
    """What `Gap.record` wrote."""
    quantities = {name: Quantity(*record[name]) for name in WORDS if name in record}
    return Gap(verifier, **{name: record[name] for name in COUNTS}, quantities=quantities)


def recorded(record: Mapping[str, Any]) -> tuple[dict[str, Gap], Quantity]:
    """Gaps and gain of an iteration's row; nothing where an earlier version wrote it or fewer than two samples are."""
    if record.get("definitions") != DEFINITIONS:
        return {}, Quantity(None)
    return {name: from_record(name, r) for name, r in record["verifiers"].items()}, Quantity(*record["gain"])

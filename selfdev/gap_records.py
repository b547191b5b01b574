"""What `selfdev.gap` measures, as an iteration's row holds it and reports read it. Light: nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DEFINITIONS = 3  # of what a row holds; rows of earlier versions have none
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


UNCERTAINTY = tuple(name for name in WORDS if name.endswith(("_nll", "_per_token", "_tokens")) or name == "nll_gap")
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
    """One point in time under one verifier; `WORDS` says what the quantities are.

    A point inside a DPO stage has no programs: only the quantities of `UNCERTAINTY` are there.
    """

    verifier: str
    samples: int  # programs
    scored: int  # programs with a dev score on the iteration's questions
    questions: int  # of that score
    measured: int  # samples of the uncertainty
    kept: int  # of these, whose judgement reaches the threshold
    n: int  # samples that are selected from, never more than there are
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


Gaps = Mapping[float, Mapping[str, Gap]]
"""Time -> verifier -> measurement. Whole numbers are iterations; others lie inside the DPO stage of the iteration
below, at the share of its learning that was done."""


def whole(times: Iterable[float]) -> list[int]:
    """The iterations among the times."""
    return [int(time) for time in times if time == int(time)]


def is_current(record: Mapping[str, Any]) -> bool:
    """Whether an iteration's row holds a measurement by the definitions of this version."""
    return record.get("definitions") == DEFINITIONS


def recorded(record: Mapping[str, Any]) -> tuple[dict[str, Gap], Quantity]:
    """Gaps and gain of an iteration's row; nothing where an earlier version wrote it or fewer than two samples are."""
    if not is_current(record):
        return {}, Quantity(None)
    return {name: from_record(name, r) for name, r in record["verifiers"].items()}, Quantity(*record["gain"])


def recorded_inside(record: Mapping[str, Any]) -> dict[float, dict[str, Gap]]:
    """The points inside the DPO stage of an iteration's row, by time; none in rows of earlier versions."""
    return {
        point["time"]: {name: from_record(name, r) for name, r in point["verifiers"].items()}
        for point in record.get("inside", [])
    }


def recorded_points(rows: Mapping[int, Mapping[str, Any]]) -> tuple[dict[float, dict[str, Gap]], dict[int, Quantity]]:
    """Gaps of iterations and of the points inside them in the order of time, and gains of iterations, of their rows."""
    gaps, gains = dict[float, dict[str, Gap]](), dict[int, Quantity]()
    for iteration, record in sorted(rows.items()):
        gaps[iteration], gains[iteration] = recorded(record)
        gaps |= recorded_inside(record)
    return gaps, gains

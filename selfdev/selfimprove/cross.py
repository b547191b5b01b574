"""Cross-improvement: when external, verified answers come in, and what they did to the verifier. Pure.

Sun et al., arXiv 2507.00075, section 5: a fraction eta_t of M external answers enters in round t; the sum of eta is 1
whatever the schedule, and the paper's Proposition 5.1 says that only the sum matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from selfdev.dynamics import Estimate, fit_gamma

LATE = 0.8  # of the epochs; the paper's late round is the eighth (of ten)


def shares(schedule: str, epochs: int) -> list[float]:
    """eta_t for each epoch: early is all in the first, late all in the one at 80 %, uniform 1 / epochs in each."""
    if schedule == "uniform":
        return [1 / epochs] * epochs
    place = {"none": None, "early": 0, "late": max(1, ceil(LATE * epochs)) - 1}[schedule]
    return [float(epoch == place) for epoch in range(epochs)]


def counts(total: int, fractions: Sequence[float]) -> list[int]:
    """`total` rows over the epochs in these fractions, whole numbers that sum to it (or to 0 if the fractions do)."""
    before, placed, found = 0.0, 0, []
    for fraction in fractions:
        before += fraction
        upto = round(total * before)
        found.append(upto - placed)
        placed = upto
    return found


def gamma(verifier: Sequence[float], rows: Sequence[int], confidence: float = 0.95) -> Estimate | None:
    """The paper's constant from U_v at the ends of the epochs; None without external rows, or where a U_v is missing.

    As the paper defines it, before and after are the ends of two epochs that follow each other, so what the model
    taught itself in between counts too: compare with a run without external answers before reading it as their effect.

    Args:
        verifier: U_v at times 0, 1, ..., epochs; nan where the verifier kept nothing.
        rows: external rows of each epoch.
    """
    total = sum(rows)
    if not total or not all(value > 0 for value in verifier):
        return None
    return fit_gamma(verifier[:-1], verifier[1:], [count / total for count in rows], confidence)

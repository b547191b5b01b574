"""Solver-verifier gap of the generator, per iteration. Pure.

Solver capability: what the generator writes. Verifier capability: what the same generator picks as the best of N of its
own samples, by the lowest length-normalised negative log-likelihood (Sun et al., arXiv 2507.00075, section 3; score
threshold 0). Both are measured twice: as mean dev score, and as mean NLL of the sample. Only programs with a dev score
take part, on both sides (after a race: the score on the questions that all of them answered). Whether a program runs is
decided by the executor, not by the verifier; the share that runs is reported beside it.

The expectation over all subsets of N samples is taken exactly: of M samples sorted by the criterion, the one at rank r
(0 = lowest) is the best of a random N-subset with probability C(M-1-r, N-1) / C(M, N).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from selfdev.types import ScoredCandidate


@dataclass(frozen=True, slots=True)
class Gap:
    """One iteration's measurement. NLL in nats; scores in [0, 1]; gap = verifier score - solver score."""

    samples: int  # scored programs that took part
    n: int  # best-of-N, never more than `samples`
    solver_score: float
    verifier_score: float
    score_gap: float
    solver_nll: float  # U_s: mean total NLL of one sample
    verifier_nll: float  # U_v: mean total NLL of the selected sample
    nll_gap: float  # G = U_s - U_v
    solver_nll_per_token: float
    verifier_nll_per_token: float


def selection_weights(count: int, n: int) -> list[float]:
    """Probability that rank r of `count` is the best of a random n-subset, r = 0 .. count-1. Sums to 1."""
    if not 1 <= n <= count:
        raise ValueError(f"n must be in 1..{count}, got {n}")
    return [comb(count - 1 - rank, n - 1) / comb(count, n) for rank in range(count)]


def track_gap(candidates: Sequence[ScoredCandidate], n: int) -> Gap | None:
    """The gap of one iteration's candidates; None where fewer than two have a score."""
    scored = [c for c in candidates if c.opening_score is not None and c.tokens > 0]
    if len(scored) < 2:
        return None
    best_of = min(n, len(scored))
    order = sorted(scored, key=lambda c: (c.nll / c.tokens, c.index))
    weights = selection_weights(len(order), best_of)
    uniform = [1.0 / len(order)] * len(order)
    scores = [c.opening_score or 0.0 for c in order]
    totals = [c.nll for c in order]
    per_token = [c.nll / c.tokens for c in order]
    solver, verifier = _mean(scores, uniform), _mean(scores, weights)
    u_s, u_v = _mean(totals, uniform), _mean(totals, weights)
    return Gap(
        samples=len(order),
        n=best_of,
        solver_score=solver,
        verifier_score=verifier,
        score_gap=verifier - solver,
        solver_nll=u_s,
        verifier_nll=u_v,
        nll_gap=u_s - u_v,
        solver_nll_per_token=_mean(per_token, uniform),
        verifier_nll_per_token=_mean(per_token, weights),
    )


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True))

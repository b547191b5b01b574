"""Estimates that know they were picked: empirical Bayes over the candidates of a run. Pure.

The best of many measured scores is mostly the luckiest one: best of 300 on 100 questions looks 12.5 points too good
when all are equal. Model: true accuracies are normal around a common mean, answers add noise; then the expected truth
behind a measured score is the mean plus a fraction of the distance to it (Efron and Morris 1973, JASA 68:117), whether
or not the candidate was picked for that score (Senn 2008; Efron 2011, "Tweedie's formula and selection bias").

Noise is what is left of a candidates x questions table after the effects of both (two-way analysis of variance), since
all candidates answer the same questions: a hard draw of questions moves all scores alike and is no reason to shrink.

Left out: broken candidates are not normal around anything and would hide that the others differ by noise alone.
`intact` leaves them out. Where the rest is a mixture as well (many mediocre, few good), the normal model shrinks the
good too little: part of the luck stays in the estimate. A candidate scored on fresh questions after it was picked
(`race`) needs no shrinking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from statistics import NormalDist, fmean

from selfdev.stats import AnswerRow, discordant, paired_interval

FEWEST = 4  # candidates whose spread can be told; the factor (K - 3) / (K - 1) below leaves fewer as they are


@dataclass(frozen=True, slots=True)
class Gain:
    """Accuracy of one candidate minus that of the seed, over the questions of one table."""

    naive: float  # as measured
    shrunken: float  # expected truth behind it
    low: float  # interval of the truth, around `shrunken`
    high: float


def intact(seed: AnswerRow, rows: Sequence[AnswerRow]) -> list[int]:
    """Which candidates answer more than half of what the seed answers, over the questions that both were asked."""
    return [i for i, row in enumerate(rows) if 2 * _right(row, seed) > _right(seed, row)]


def shrunken_gains(seed: Sequence[bool], rows: Sequence[Sequence[bool]], confidence: float = 0.95) -> list[Gain]:
    """Gains over the seed, pulled towards their common mean by the share of their spread that is noise.

    The share kept is 1 - (K-3)/(K-1) noise / spread, within [0, 1], for K candidates (James-Stein with unknown mean and
    variance by the method of moments). The interval adds up what is left of the candidate's own noise, the uncertainty
    of the share (Morris 1983, JASA 78:47) and that of the mean gain over the seed. With fewer than four candidates
    nothing can be learned from the others: the estimates stay as measured, with `stats.paired_interval`.

    Args:
        seed: verdicts of the seed, one per question.
        rows: verdicts of the candidates on the same questions, at least two.
        confidence: two-sided, strictly between 0 and 1.

    Raises:
        ValueError: fewer than two questions, or rows of different length.
    """
    n, count = len(seed), len(rows)
    if n < 2 or any(len(row) != n for row in rows):
        raise ValueError("need the answers of the seed and of every candidate to the same questions, at least two")
    naive = [(sum(row) - sum(seed)) / n for row in rows]
    if count < FEWEST:
        return [_as_measured(gain, row, seed, confidence) for gain, row in zip(naive, rows, strict=True)]
    centre, noise = fmean(naive), _noise(rows)
    spread = sum((gain - centre) ** 2 for gain in naive) / (count - 1)
    lost = min(1.0, (count - 3) / (count - 1) * noise / spread) if spread > 0 else 1.0
    shared = _variance_of_mean_gain(seed, rows)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    gains = []
    for gain in naive:
        value = centre + (1 - lost) * (gain - centre)
        own = noise * (1 - lost * (count - 1) / count) + 2 / (count - 3) * (lost * (gain - centre)) ** 2
        reach = z * sqrt(own + shared)
        gains.append(Gain(gain, value, max(-1.0, value - reach), min(1.0, value + reach)))
    return gains


def between_variance(rows: Sequence[AnswerRow]) -> float:
    """Variance of the true accuracies, by the method of moments over all pairs of candidates; at least 0.

    For each pair: squared difference minus its sampling variance, over the questions that both were asked, halved.
    Where all were asked the same questions this is the estimate of the two-way analysis of variance.
    """
    masks = [_bits(row) for row in rows]
    parts = []
    for (right_a, asked_a), (right_b, asked_b) in combinations(masks, 2):
        both = asked_a & asked_b
        n = both.bit_count()
        if n < 2:
            continue
        wins, losses = (right_a & ~right_b & both).bit_count(), (right_b & ~right_a & both).bit_count()
        squared = ((wins - losses) / n) ** 2
        parts.append((squared - ((wins + losses) / n - squared) / (n - 1)) / 2)
    return max(0.0, fmean(parts)) if parts else 0.0


def _right(row: AnswerRow, other: AnswerRow) -> int:
    return sum(bool(a) for a, b in zip(row, other, strict=True) if b is not None)


def _bits(row: AnswerRow) -> tuple[int, int]:
    """(right, asked) as whole numbers with one bit per question: counting pairs of them is one instruction each."""
    right = sum(1 << i for i, value in enumerate(row) if value)
    return right, sum(1 << i for i, value in enumerate(row) if value is not None)


def _as_measured(gain: float, row: Sequence[bool], seed: Sequence[bool], confidence: float) -> Gain:
    low, high = paired_interval(*discordant(row, seed), confidence)
    return Gain(gain, gain, low, high)


def _noise(rows: Sequence[Sequence[bool]]) -> float:
    """Sampling variance of one candidate's accuracy beside the others': residual mean square / questions."""
    count, n = len(rows), len(rows[0])
    by_question: list[float] = [sum(column) / count for column in zip(*rows, strict=True)]
    by_candidate = [sum(row) / n for row in rows]
    mean = fmean(by_candidate)
    residual = (
        sum(map(sum, rows))  # the squares of zeros and ones
        - count * n * mean**2
        - n * sum((a - mean) ** 2 for a in by_candidate)
        - count * sum((q - mean) ** 2 for q in by_question)
    )
    return max(0.0, residual) / ((count - 1) * (n - 1)) / n


def _variance_of_mean_gain(seed: Sequence[bool], rows: Sequence[Sequence[bool]]) -> float:
    """Sampling variance of (mean accuracy of the candidates - accuracy of the seed)."""
    n = len(seed)
    gains: list[float] = [sum(column) / len(rows) - s for column, s in zip(zip(*rows, strict=True), seed, strict=True)]
    mean = fmean(gains)
    return sum((g - mean) ** 2 for g in gains) / (n - 1) / n

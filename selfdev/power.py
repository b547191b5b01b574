"""What a number of questions can show: before a run, which difference it can resolve; after it, whether it did. Pure.

The test is the exact McNemar test of `stats.mcnemar`, so the figures here are those of the test that is reported. The
discordance (share of questions that exactly one of the two models answers) has to be supposed before a run: two merges
of one seed rarely agree on all questions, and the rate at which the seed disagrees with a mild merge of its sources is
a fair guess. See Miller 2024 (arXiv 2411.00640) for why the paired design is the one to plan for.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from math import ceil, exp, floor, lgamma, log, sqrt
from statistics import NormalDist

REACH = 6.0  # standard deviations of the number of discordant questions that are summed over


class Verdict(StrEnum):
    """What a paired test allows to be said."""

    BETTER = "better"
    WORSE = "worse"
    NOT_RESOLVED = "not resolved"


def verdict(wins: int, losses: int, p_value: float, level: float = 0.05) -> Verdict:
    """The word for one comparison; `p_value` may be adjusted for several (`stats.holm`)."""
    if p_value > level or wins == losses:
        return Verdict.NOT_RESOLVED
    return Verdict.BETTER if wins > losses else Verdict.WORSE


def power(questions: int, difference: float, discordance: float, level: float = 0.05) -> float:
    """Chance that the exact two-sided McNemar test finds a better model better.

    Args:
        questions: asked of both models, at least 1.
        difference: true accuracy of the better minus that of the other, in (0, discordance].
        discordance: true share of questions that exactly one of them answers, in (0, 1].
        level: of the two-sided test.

    Raises:
        ValueError: an argument out of range.
    """
    if questions < 1 or not 0 < difference <= discordance <= 1:
        raise ValueError(
            f"{questions} questions, difference {difference}, discordance {discordance}: "
            "need questions >= 1 and 0 < difference <= discordance <= 1"
        )
    share_won = (discordance + difference) / (2 * discordance)
    centre, spread = questions * discordance, sqrt(questions * discordance * (1 - discordance))
    first, last = max(0, floor(centre - REACH * spread)), min(questions, ceil(centre + REACH * spread))
    return sum(
        _binomial(count, questions, discordance) * _at_least(_wins_needed(count, level), count, share_won)
        for count in range(first, last + 1)
    )


def resolvable_difference(questions: int, discordance: float, chance: float = 0.8, level: float = 0.05) -> float | None:
    """The smallest true difference that the exact test finds with the given chance; None: not even the largest.

    The largest possible difference is the discordance itself (every discordant question is won).

    Raises:
        ValueError: an argument out of range.
    """
    if not 0 < chance < 1:
        raise ValueError(f"chance {chance}: need a value strictly between 0 and 1")
    low, high = 0.0, discordance
    if power(questions, high, discordance, level) < chance:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(questions, middle, discordance, level) >= chance else (middle, high)
    return high


@lru_cache(maxsize=65536)
def _wins_needed(count: int, level: float) -> int:
    """Least wins among `count` discordant questions at which the two-sided exact test rejects; count + 1 if none."""
    limit = level / 2 * (1 + 1e-12)  # a tail that equals the level up to rounding rejects
    wins = min(count, round(count / 2 + NormalDist().inv_cdf(1 - level / 2) * sqrt(count) / 2))  # close to it
    while wins <= count and _at_least(wins, count, 0.5) > limit:
        wins += 1
    while wins > 0 and _at_least(wins - 1, count, 0.5) <= limit:
        wins -= 1
    return wins


def _at_least(wins: int, count: int, share: float) -> float:
    """Chance of at least so many wins; summed from its first term on, until nothing is added any more."""
    if wins > count:
        return 0.0
    if wins < count * share:  # the terms still grow: the other tail is the one to sum
        return 1.0 - _at_least(count - wins + 1, count, 1 - share)
    term = total = _binomial(wins, count, share)
    while wins < count and term > total * 1e-17:
        term *= (count - wins) / (wins + 1) * share / (1 - share)
        wins += 1
        total += term
    return total


def _binomial(k: int, n: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(k == n * share)
    ways = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
    return exp(ways + k * log(share) + (n - k) * log(1 - share))

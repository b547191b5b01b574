"""Statistics of small samples: intervals, paired tests, evidence that may be watched, many comparisons. Pure.

Everything paired rests on the discordant questions: a *win* is a question that only the first of two models answers, a
*loss* one that only the second does. Questions on which both agree say nothing about which is better.

The e-process (`log_e_better`) is for looking while answers come in; the exact test (`mcnemar`) for a number of
questions fixed beforehand. What a number of questions can show is in `power`; shrunken estimates are in `shrink`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log, log1p, sqrt
from statistics import NormalDist

AnswerRow = Sequence[bool | None]  # one model's verdicts in the order of the questions; None: not asked


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927): inside [0, 1], and of use near 0 and 1 and for few trials.

    Args:
        successes: 0 <= successes <= total.
        total: trials; with none the interval is [0, 1].
        confidence: two-sided, strictly between 0 and 1.

    Raises:
        ValueError: an argument out of range.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} successes in {total} trials: need 0 <= successes <= trials")
    z = _quantile(confidence)
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == total else min(1.0, (centre + spread) / scale)
    return low, high


def _quantile(confidence: float) -> float:
    """How many standard deviations a two-sided normal interval reaches."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: need a value strictly between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)


# -- two models on the same questions ---------------------------------------------------------------------------------


def discordant(first: AnswerRow, second: AnswerRow) -> tuple[int, int, int]:
    """(wins, losses, questions) of the first against the second, over the questions that both were asked.

    Raises:
        ValueError: rows of different length.
    """
    if len(first) != len(second):
        raise ValueError(f"rows of {len(first)} and {len(second)} questions: need the same questions in the same order")
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return sum(a and not b for a, b in both), sum(b and not a for a, b in both), len(both)


def paired_interval(wins: int, losses: int, questions: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a difference between paired proportions (Tango 1998, Statistics in Medicine 17:891).

    It holds every difference that the score test does not reject, so it stays honest where the normal interval
    collapses: without any discordant question it is +-z^2 / (n + z^2), not a point.

    Args:
        wins, losses: questions that only the first, only the second model answers; wins + losses <= questions.
        questions: asked of both; with none the interval is [-1, 1].
        confidence: two-sided, strictly between 0 and 1.

    Raises:
        ValueError: an argument out of range.
    """
    _check_counts(wins, losses)
    if wins + losses > questions:
        raise ValueError(f"{wins} wins and {losses} losses in {questions} questions: need wins + losses <= questions")
    z = _quantile(confidence)
    if questions == 0:
        return -1.0, 1.0
    estimate = (wins - losses) / questions
    low = _crossing(lambda d: _tango(wins, losses, questions, d) > z, -1.0, estimate)
    high = _crossing(lambda d: _tango(wins, losses, questions, d) >= -z, estimate, 1.0)
    return low, high


def paired_gain(first: AnswerRow, second: AnswerRow, confidence: float = 0.95) -> tuple[float, float, float]:
    """Accuracy of `first` minus that of `second` over the questions that both were asked, with `paired_interval`.

    Returns:
        (difference, low, high), within [-1, 1].

    Raises:
        ValueError: no common question, or rows of different length.
    """
    wins, losses, questions = discordant(first, second)
    if questions == 0:
        raise ValueError("no question that both were asked: need at least one")
    return (wins - losses) / questions, *paired_interval(wins, losses, questions, confidence)


def _tango(wins: int, losses: int, n: int, difference: float) -> float:
    """Tango's score statistic of a supposed true difference; it falls as the difference grows."""
    a = 2 * n
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    share_lost = (sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)  # its likeliest value under this difference
    variance = n * (2 * share_lost + difference * (1 - difference))
    distance = wins - losses - n * difference
    if variance <= 0:  # the supposed difference leaves no room for chance
        return 0.0 if distance == 0 else distance * float("inf")
    return distance / sqrt(variance)


def _crossing(is_left: Callable[[float], bool], low: float, high: float) -> float:
    """Where a monotone condition turns from true to false, by bisection to the last bits of a difference."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if is_left(middle) else (low, middle)
    return (low + high) / 2


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of "neither model is better": the exact binomial McNemar test.

    Exact, not mid-p: the level holds for every number of questions fixed beforehand, at the price of some power.

    Raises:
        ValueError: a negative count.
    """
    _check_counts(wins, losses)
    count = wins + losses
    term = total = 1  # C(count, 0), C(count, 1), ... in whole numbers, so nothing is rounded
    for k in range(min(wins, losses)):
        term = term * (count - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / (1 << count))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979): at most `level` keeps the chance of any false claim there.

    Valid whatever the dependence between the tests.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


# -- evidence that may be watched -------------------------------------------------------------------------------------


def log_e_better(wins: int, losses: int) -> float:
    """Natural logarithm of the e-value for "the first model is better", from its discordant questions so far.

    E = 2 * 2^(w+l) * B(w+1, l+1) * P(Beta(w+1, l+1) > 1/2): the likelihood ratio against a win probability of one half,
    mixed uniformly over win probabilities above one half (the method of mixtures; Robbins 1970, Annals of Mathematical
    Statistics 41:1397). For every true win probability of at most one half it is a supermartingale that starts at 1, so
    by Ville's inequality the chance that it EVER reaches 1 / alpha is at most alpha: it may be looked at after every
    question, and any rule may decide when to stop. It asks for questions in random order, and for a model chosen
    without having seen them. Evidence for "worse" is `log_e_better(losses, wins)`.

    The integral is the finite sum w! l! / (w+l+1)! * (C(w+l+1, 0) + ... + C(w+l+1, w)), which obeys
    E(w, l) = (1 + w E(w-1, l+1)) / (l+1): all terms are positive, so its logarithm is exact to rounding at any size.

    Raises:
        ValueError: a negative count.
    """
    _check_counts(wins, losses)
    total = wins + losses
    value = -log(total + 1)
    for w in range(1, wins + 1):
        value = _log_one_plus_exp(log(w) + value) - log(total - w + 1)
    return value


def e_better(wins: int, losses: int) -> float:
    """The e-value of `log_e_better`; infinite where it is beyond floating point."""
    value = log_e_better(wins, losses)
    return exp(value) if value < 709 else float("inf")


def e_bh(log_e_values: Sequence[float], level: float) -> list[bool]:
    """Which hypotheses to reject so that the expected share of false ones among them is at most `level`.

    e-BH (Wang and Ramdas 2022, JRSS-B 84:822): the k largest e-values, for the largest k whose smallest member is at
    least (their number) / (k level). Valid whatever the dependence, and for e-processes stopped at any time.

    Args:
        log_e_values: natural logarithms, as `log_e_better` gives them.
        level: strictly between 0 and 1.

    Raises:
        ValueError: the level is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level}: need a value strictly between 0 and 1")
    count = len(log_e_values)
    order = sorted(log_e_values, reverse=True)
    passing = [v for k, v in enumerate(order, start=1) if v >= log(count / (k * level))]
    return [bool(passing) and v >= passing[-1] for v in log_e_values]


def _log_one_plus_exp(x: float) -> float:
    return x + log1p(exp(-x)) if x > 0 else log1p(exp(x))


def _check_counts(wins: int, losses: int) -> None:
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses: need counts of at least 0")

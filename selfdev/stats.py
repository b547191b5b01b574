"""Statistics of small samples. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist


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
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: need a value strictly between 0 and 1")
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == total else min(1.0, (centre + spread) / scale)
    return low, high


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Accuracy of `first` minus accuracy of `second` on the same questions, with its normal interval.

    The variance is that of the paired differences: ((b + c) - (b - c)^2 / n) / n^2 for b questions that only the first
    answers and c that only the second does (Agresti, Categorical Data Analysis, section 11.1).

    Returns:
        (difference, low, high), within [-1, 1].

    Raises:
        ValueError: no questions, or not the same number.
    """
    n = len(first)
    if n == 0 or n != len(second):
        raise ValueError(f"{n} and {len(second)} answers: need the same number, at least one")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    difference = (only_first - only_second) / n
    variance = (only_first + only_second - (only_first - only_second) ** 2 / n) / n**2
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * sqrt(variance)
    return difference, max(-1.0, difference - reach), min(1.0, difference + reach)

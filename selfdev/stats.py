"""Statistics of small samples. Pure."""

from __future__ import annotations

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

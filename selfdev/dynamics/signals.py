"""What to do with a fit: one more iteration, stop, or look at the verifier. Pure.

The alarm is for rise-then-fall: the score from outside falls while the quality that the model grants itself goes on
rising. Then the verifier's blind spot grows and its own measurements look fine (Song et al., arXiv 2412.02674, see
diversity fall while self-selection goes on; reward over-optimisation has the same shape).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from selfdev.dynamics.curves import Curve
from selfdev.dynamics.fit import GapFit, Noise
from selfdev.dynamics.profile import widening

Array = NDArray[np.float64]

LEVEL = 0.05  # chance that an alarm fires on a run whose score does not fall
TOLERANCE = 0.01  # of the solver's drop so far: a smaller next gain is none


class Advice(StrEnum):
    """About one more iteration."""

    CONTINUE = "continue"
    STOP = "stop: the next gain is below the tolerance"
    ALARM = "stop: the score falls while self-assessed quality rises"
    UNCLEAR = "unclear: the next gain may lie on either side of the tolerance"


@dataclass(frozen=True, slots=True)
class Alarm:
    """Result of the test for rise-then-fall."""

    fired: bool
    since: float | None  # the time from which the score falls; None: it does not
    fall: float  # change of the score from then to the end, along a straight line
    rise: float  # change of self-assessed quality over the same span
    p_value: float  # of the fall, over all starts that were tried
    rose_before: bool  # whether the score had been rising until then


def blind_spot(curve: Curve, level: float = LEVEL) -> Alarm | None:
    """Does the score fall, at the end of the curve, while self-assessed quality rises?

    From every start on, a straight line is put through the rest: with standard errors from two points on (z test),
    without from four (t test). The start with the most significant fall counts, its p-value times the number of starts
    (Bonferroni). Over the same span `assessed`, or minus the verifier's uncertainty, must rise, significantly where
    four points allow a test. Only the times with a score count for its fall; all of the span count for the rise.

    Returns:
        None where there is no score or too few points.
    """
    if curve.score is None:
        return None
    fewest = 2 if curve.score_se is not None else 4
    known = [i for i, value in enumerate(curve.score) if value is not None]
    starts = range(len(known) - fewest + 1)
    if not starts:
        return None
    score = np.array([curve.score[i] for i in known], float)
    errors = None if curve.score_se is None else np.array([curve.score_se[i] for i in known], float)
    times = np.asarray(curve.times)[known]
    tests = [_slope(times[i:], score[i:], None if errors is None else errors[i:]) for i in starts]
    best = min(starts, key=lambda i: tests[i][1])
    slope, p = tests[best]
    p = min(1.0, p * len(starts))
    span = times[-1] - times[best]
    within = slice(known[best], known[-1] + 1)
    quality = np.asarray(curve.assessed or [-v for v in curve.verifier])[within]
    up, chance = _slope(np.asarray(curve.times)[within], -quality, None)
    rises = -up > 0 and (len(quality) < 4 or chance <= level)
    return Alarm(
        fired=bool(p <= level and slope < 0 and rises),
        since=float(times[best]) if slope < 0 else None,
        fall=float(slope * span),
        rise=float(-up * span),
        p_value=p,
        rose_before=best > 0 and bool(score[best] > score[0]),
    )


def _slope(times: Array, values: Array, errors: Array | None) -> tuple[float, float]:
    """Slope and the one-sided p-value of a fall; without errors and freedom for a test, p is 1."""
    w = np.ones_like(values) if errors is None else errors**-2.0
    x = times - np.average(times, weights=w)
    square = float((w * x**2).sum())
    slope = float((w * x * values).sum()) / square
    if errors is not None:
        return slope, float(stats.norm.cdf(slope * np.sqrt(square)))
    freedom = len(values) - 2
    if freedom < 2:
        return slope, 1.0
    residual = values - values.mean() - slope * x
    floor = (1e-9 * max(1e-300, float(np.abs(values).max()))) ** 2
    deviation = np.sqrt((float((residual**2).sum()) / freedom + floor) / square)
    return slope, float(stats.t.cdf(slope / deviation, freedom))


def advise(found: GapFit, alarm: Alarm | None = None, tolerance: float | None = None) -> Advice:
    """Whether one more iteration pays, by the interval of its predicted gain.

    Args:
        tolerance: a gain in nats that counts as none; default: 1 % of the solver's drop so far.
    """
    if alarm is not None and alarm.fired:
        return Advice.ALARM
    least = default_tolerance(found.curve) if tolerance is None else tolerance
    if least < 0:
        raise ValueError(f"tolerance {tolerance}: need 0 or more")
    if found.next_gain.high < least:
        return Advice.STOP
    return Advice.CONTINUE if found.next_gain.low >= least else Advice.UNCLEAR


def default_tolerance(curve: Curve) -> float:
    """1 % of the solver's range so far."""
    return TOLERANCE * (max(curve.solver) - min(curve.solver))


# -- what this many points tell ---------------------------------------------------------------------------------------


def notes(found: GapFit) -> list[str]:
    """Sentences on what the data can and cannot tell, the gravest first."""
    said = [*_few(len(found.curve), found.noise)]
    if found.straight and found.noise is not Noise.UNKNOWN:
        said.append("a straight line fits as well: no levelling off is seen, so the limits are not told")
    if found.scatter is not None and widening(found.shared.data, found.scatter) > 1:
        said.append(
            f"the points scatter {found.scatter**0.5:.1f} times as far as their standard errors say: the model is "
            "wrong or training adds noise; intervals are widened by that"
        )
    if found.equal_rates_p is not None and found.equal_rates_p < 0.05:
        said.append(
            f"solver and verifier have different rates (p {found.equal_rates_p:.3f}): the coupled model does not hold, "
            "and what it says about limits and gain is off by more than the intervals"
        )
    if found.ratio.bounded and found.ratio.high < 1:
        said.append("alpha / beta is below 1: the verifier falls faster than the solver, which the model rules out")
    said.append("alpha, beta and k by themselves cannot be told from curves; rate, alpha/beta and b/k can")
    return said


def _few(points: int, noise: Noise) -> Sequence[str]:
    if points > 5:
        return ()
    said = []
    if points == 3:
        said.append(
            "3 points tell the direction and, if the model is taken for granted, a rate; they cannot tell whether it "
            "holds: an exponential passes through any three that bend the right way, so R2 says nothing"
        )
    else:
        said.append(f"{points} points: {points - 3} more than an exponential has parameters; R2 says little")
    if noise is Noise.UNKNOWN:
        said.append(
            "noise cannot be told from so few points: no intervals; give standard errors, or measure at checkpoints "
            "inside an iteration"
        )
    return said

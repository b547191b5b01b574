"""Cross-improvement: a stronger model verifies part of the data. Pure.

Sun et al., arXiv 2507.00075, section 5: before round t the verifier's uncertainty becomes U_v / (1 + gamma eta_t),
where eta_t is the round's share of the external data (all shares sum to 1) and gamma >= 0 a constant. `shares` has the
schedules, which the paper's Proposition 5.1 says do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf, sqrt

from scipy import stats

from selfdev.dynamics.model import GapModel
from selfdev.dynamics.profile import Estimate


def cross_verified(verifier: float, gamma: float, share: float) -> float:
    """U_v after a round's share of external verification: U_v / (1 + gamma share)."""
    if gamma < 0 or not 0 <= share <= 1:
        raise ValueError(f"gamma {gamma}, share {share}: need gamma >= 0 and a share in [0, 1]")
    return verifier / (1 + gamma * share)


def cross_rounds(model: GapModel, gamma: float, shares: Sequence[float]) -> list[tuple[float, float]]:
    """(U_s, U_v) at the start and after each round of one unit of time: U_v is divided, then the model runs on.

    The paper's Proposition 5.1 says that the end depends on the sum of the shares only. On this model that is an
    approximation: a division takes more from a large U_v, and spread shares multiply to more than one large share.
    """
    state, states = model, [(model.solver0, model.verifier0)]
    for share in shares:
        helped = cross_verified(state.verifier0, gamma, share)
        solver, verifier = _restart(state, state.solver0, helped).at(1.0)
        state = _restart(state, solver, verifier)
        states.append((solver, verifier))
    return states


def _restart(model: GapModel, solver: float, verifier: float) -> GapModel:
    return GapModel(model.alpha, model.beta, model.k, model.b, solver, verifier)


def cross_limit(model: GapModel, gamma: float, shares: Sequence[float]) -> float:
    """U_s at the end of self-improvement that follows the rounds."""
    return _restart(model, *cross_rounds(model, gamma, shares)[-1]).solver_limit


def fit_gamma(
    before: Sequence[float], after: Sequence[float], shares: Sequence[float], confidence: float = 0.95
) -> Estimate:
    """gamma from verifier uncertainties measured before and after external verification.

    before / after - 1 = gamma share is a line through the origin; the interval is that of its slope (t, rounds - 1
    degrees of freedom), unbounded with one round. Rounds without external data carry nothing and are left out.

    Raises:
        ValueError: not the same number, an uncertainty that is not above 0, a share outside [0, 1], no share above 0.
    """
    if not len(before) == len(after) == len(shares):
        raise ValueError(f"{len(before)} before, {len(after)} after, {len(shares)} shares: need the same number")
    if min((*before, *after), default=1) <= 0 or any(not 0 <= share <= 1 for share in shares):
        raise ValueError("need uncertainties above 0 and shares in [0, 1]")
    rows = [(share, b / a - 1) for b, a, share in zip(before, after, shares, strict=True) if share > 0]
    if not rows:
        raise ValueError("no round has a share above 0: nothing tells gamma")
    square = sum(share**2 for share, _ in rows)
    gamma = sum(share * y for share, y in rows) / square
    freedom = len(rows) - 1
    if not freedom:
        return Estimate(gamma, -inf, inf)
    rest = sum((y - gamma * share) ** 2 for share, y in rows) / freedom
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * sqrt(rest / square)
    return Estimate(gamma, gamma - reach, gamma + reach)


# -- schedules --------------------------------------------------------------------------------------------------------

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


def gamma_of_epochs(verifier: Sequence[float], rows: Sequence[int], confidence: float = 0.95) -> Estimate | None:
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

"""Cross-improvement: a stronger model verifies part of the data. Pure.

Sun et al., arXiv 2507.00075, section 5: before round t the verifier's uncertainty becomes U_v / (1 + gamma eta_t),
where eta_t is the round's share of the external data (all shares sum to 1) and gamma >= 0 a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt

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

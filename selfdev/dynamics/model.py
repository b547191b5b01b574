"""The solver-verifier gap model: coupled equations, closed form, simulation. Pure.

Sun et al., arXiv 2507.00075, section 3. U_s and U_v are uncertainties (mean negative log-likelihood, nats; lower is
better) of one sample and of the sample that the model's own verification selects; G = U_s - U_v is the gap. Training is
driven by an energy that grows with the gap, E = f(G), in the linear case E = k G - b:

    dU_s/dt = -alpha E        dU_v/dt = -beta E        alpha > beta >= 0

beta U_s - alpha U_v is conserved, so that a run moves on a straight line of slope alpha / beta in the (U_v, U_s) plane
and stops where E = 0, at G = b / k. Curves tell the rate k (alpha - beta), the ratio alpha / beta and b / k; they do
not tell alpha, beta and k apart.

Verification by a stronger model is in `cross`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import expm1, isfinite, log

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from selfdev.dynamics.curves import Curve

Array = NDArray[np.float64]
Force = Callable[[float], float]  # E = f(G)


@dataclass(frozen=True, slots=True)
class GapModel:
    """Parameters of the linear model and the state at time 0."""

    alpha: float  # speed of the solver
    beta: float  # speed of the verifier
    k: float  # energy per nat of gap
    b: float  # energy that a gap of 0 lacks
    solver0: float
    verifier0: float

    def __post_init__(self) -> None:
        values = (self.alpha, self.beta, self.k, self.b, self.solver0, self.verifier0)
        if not all(map(isfinite, values)) or not (self.alpha > self.beta >= 0 and self.k > 0):
            raise ValueError(
                f"alpha {self.alpha}, beta {self.beta}, k {self.k}, b {self.b}, start {self.solver0}, "
                f"{self.verifier0}: need finite numbers with alpha > beta >= 0 and k > 0"
            )

    @property
    def rate(self) -> float:
        """k (alpha - beta), per unit of time."""
        return self.k * (self.alpha - self.beta)

    @property
    def gap_limit(self) -> float:
        """b / k."""
        return self.b / self.k

    @property
    def surplus(self) -> float:
        """delta: how far the gap at time 0 is above its limit."""
        return self.solver0 - self.verifier0 - self.gap_limit

    @property
    def solver_limit(self) -> float:
        """U_s at the end: (alpha U_v0 - beta U_s0 + alpha b/k) / (alpha - beta)."""
        return (self._conserved() + self.alpha * self.gap_limit) / (self.alpha - self.beta)

    @property
    def verifier_limit(self) -> float:
        """U_v at the end: (alpha U_v0 - beta U_s0 + beta b/k) / (alpha - beta)."""
        return (self._conserved() + self.beta * self.gap_limit) / (self.alpha - self.beta)

    def _conserved(self) -> float:
        return self.alpha * self.verifier0 - self.beta * self.solver0

    def at(self, time: float) -> tuple[float, float]:
        """(U_s, U_v) at a time, Proposition 3.1."""
        done = -expm1(-self.rate * time) * self.surplus / (self.alpha - self.beta)
        return self.solver0 - self.alpha * done, self.verifier0 - self.beta * done

    def time_to_within(self, distance: float) -> float:
        """When the gap is this close to its limit (Corollary 3.2): ln(|delta| / distance) / rate, at least 0."""
        if distance <= 0:
            raise ValueError(f"distance {distance}: need more than 0; the limit itself is never reached")
        return max(0.0, log(abs(self.surplus) / distance) / self.rate) if self.surplus else 0.0


def integrate(model: GapModel, times: Sequence[float], force: Force | None = None) -> tuple[Array, Array]:
    """U_s and U_v at the times, by numerical integration.

    Args:
        times: from 0 on, ascending.
        force: E = f(G), any function; default: the linear one of the model.
    """
    moments = np.asarray(times, dtype=np.float64)
    if moments.ndim != 1 or not len(moments) or moments[0] < 0 or np.any(np.diff(moments) <= 0):
        raise ValueError(f"times {list(times)}: need an ascending sequence from 0 on")
    energy = force if force is not None else lambda gap: model.k * gap - model.b

    def slope(_: float, state: Array) -> list[float]:
        e = energy(float(state[0] - state[1]))
        return [-model.alpha * e, -model.beta * e]

    start = [model.solver0, model.verifier0]
    solved = solve_ivp(slope, (0.0, max(moments[-1], 1e-12)), start, t_eval=moments, rtol=1e-9, atol=1e-9)
    return np.asarray(solved.y[0], dtype=np.float64), np.asarray(solved.y[1], dtype=np.float64)


# -- noisy curves -----------------------------------------------------------------------------------------------------


def simulate(
    model: GapModel,
    times: Sequence[float],
    noise: tuple[float, float] = (0.0, 0.0),
    correlation: float = 0.0,
    seed: int = 0,
    name: str = "simulated",
) -> Curve:
    """The closed form with normal noise.

    Args:
        noise: standard deviations of the solver's and the verifier's measurement.
        correlation: between the two at one time; both are measured on the same prompts.
    """
    states = [model.at(time) for time in times]
    clean = Curve(tuple(map(float, times)), tuple(s for s, _ in states), tuple(v for _, v in states), name=name)
    return add_noise(clean, noise, correlation, seed)


def add_noise(curve: Curve, noise: tuple[float, float], correlation: float = 0.0, seed: int = 0) -> Curve:
    """A curve with normal measuring noise on it; see `simulate`."""
    if min(noise) < 0 or not -1 < correlation < 1:
        raise ValueError(f"noise {noise}, correlation {correlation}: need noise >= 0 and -1 < correlation < 1")
    draws = np.random.default_rng(seed).standard_normal((len(curve), 2))
    draws[:, 1] = correlation * draws[:, 0] + np.sqrt(1 - correlation**2) * draws[:, 1]
    noisy = np.column_stack([curve.solver, curve.verifier]) + draws * np.asarray(noise)
    return replace(curve, solver=tuple(noisy[:, 0].tolist()), verifier=tuple(noisy[:, 1].tolist()))

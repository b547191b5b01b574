"""Measured curves of one run: solver and verifier uncertainty over time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

FEWEST = 3  # points: below, an exponential has no shape


@dataclass(frozen=True, slots=True)
class Curve:
    """One run, measured at ascending times (iterations, epochs, or fractions of them).

    Standard errors are those of a measurement, over prompts; all times or none. Both uncertainties are measured on the
    same prompts, so their errors go together: `correlation`, used only beside standard errors.
    """

    times: tuple[float, ...]
    solver: tuple[float, ...]  # U_s, lower is better
    verifier: tuple[float, ...]  # U_v, lower is better
    solver_se: tuple[float, ...] | None = None
    verifier_se: tuple[float, ...] | None = None
    correlation: float = 0.0
    score: tuple[float, ...] | None = None  # from outside (accuracy), higher is better
    score_se: tuple[float, ...] | None = None
    assessed: tuple[float, ...] | None = None  # the verifier's own judgement, higher is better; default: -verifier
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.times) < FEWEST:
            raise ValueError(f"{len(self.times)} points: need at least {FEWEST} times")
        if any(later <= earlier for earlier, later in pairwise(self.times)):
            raise ValueError("times must ascend, each once")
        for name in ("times", "solver", "verifier", "solver_se", "verifier_se", "score", "score_se", "assessed"):
            self._check(name, getattr(self, name))
        if (self.solver_se is None) != (self.verifier_se is None):
            raise ValueError("give the standard errors of both solver and verifier, or of neither")
        if self.score_se is not None and self.score is None:
            raise ValueError("score_se without score")
        if not -1 < self.correlation < 1:
            raise ValueError(f"correlation {self.correlation}: need a value strictly between -1 and 1")

    def _check(self, name: str, values: tuple[float, ...] | None) -> None:
        if values is None:
            return
        if len(values) != len(self.times):
            raise ValueError(f"{name}: {len(values)} values for {len(self.times)} times")
        if not all(map(isfinite, values)):
            raise ValueError(f"{name}: every value must be a finite number")
        if name.endswith("_se") and min(values) <= 0:
            raise ValueError(f"{name}: standard errors must be above 0")

    def __len__(self) -> int:
        return len(self.times)

    @property
    def gap(self) -> tuple[float, ...]:
        """G = U_s - U_v."""
        return tuple(s - v for s, v in zip(self.solver, self.verifier, strict=True))

    @property
    def has_errors(self) -> bool:
        """Whether the noise of the measurements is known."""
        return self.solver_se is not None

    def first(self, count: int) -> Curve:
        """Its first points."""
        return Curve(
            self.times[:count],
            self.solver[:count],
            self.verifier[:count],
            _first(self.solver_se, count),
            _first(self.verifier_se, count),
            self.correlation,
            _first(self.score, count),
            _first(self.score_se, count),
            _first(self.assessed, count),
            self.name,
        )


def _first(values: tuple[float, ...] | None, count: int) -> tuple[float, ...] | None:
    return None if values is None else values[:count]

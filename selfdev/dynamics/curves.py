"""Measured curves of one run: solver and verifier uncertainty over time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import TypeVar

T = TypeVar("T")

FEWEST = 3  # points: below, an exponential has no shape


@dataclass(frozen=True, slots=True)
class Curve:
    """One run, measured at ascending times (iterations, epochs, or fractions of them).

    Standard errors are those of a measurement, over prompts; all times or none. Both uncertainties are measured on the
    same prompts, so their errors go together: `correlation`, used only beside standard errors. The score may be
    measured at fewer times than the uncertainties: None elsewhere.
    """

    times: tuple[float, ...]
    solver: tuple[float, ...]  # U_s, lower is better
    verifier: tuple[float, ...]  # U_v, lower is better
    solver_se: tuple[float, ...] | None = None
    verifier_se: tuple[float, ...] | None = None
    correlation: float = 0.0
    score: tuple[float | None, ...] | None = None  # from outside (accuracy), higher is better
    score_se: tuple[float | None, ...] | None = None  # where there is a score, and nowhere else
    assessed: tuple[float, ...] | None = None  # the verifier's own judgement, higher is better; default: -verifier
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.times) < FEWEST:
            raise ValueError(f"{len(self.times)} points: need at least {FEWEST} times")
        if any(later <= earlier for earlier, later in pairwise(self.times)):
            raise ValueError("times must ascend, each once")
        for name in ("times", "solver", "verifier", "solver_se", "verifier_se", "assessed"):
            self._check(name, getattr(self, name))
        for name in ("score", "score_se"):
            self._check(name, getattr(self, name), gaps=True)
        if (self.solver_se is None) != (self.verifier_se is None):
            raise ValueError("give the standard errors of both solver and verifier, or of neither")
        if self.score_se is not None and self.score is None:
            raise ValueError("score_se without score")
        if self.score is not None and self.score_se is not None and _told(self.score) != _told(self.score_se):
            raise ValueError("score_se must be there where score is, and nowhere else")
        if not -1 < self.correlation < 1:
            raise ValueError(f"correlation {self.correlation}: need a value strictly between -1 and 1")

    def _check(self, name: str, values: tuple[float | None, ...] | None, gaps: bool = False) -> None:
        if values is None:
            return
        if len(values) != len(self.times):
            raise ValueError(f"{name}: {len(values)} values for {len(self.times)} times")
        told = [value for value in values if value is not None]
        if (len(told) < len(values) and not gaps) or not all(map(isfinite, told)):
            raise ValueError(f"{name}: every value must be a finite number")
        if name.endswith("_se") and min(told, default=1.0) <= 0:
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


def _first(values: tuple[T, ...] | None, count: int) -> tuple[T, ...] | None:
    return None if values is None else values[:count]


def _told(values: tuple[float | None, ...]) -> list[bool]:
    return [value is not None for value in values]

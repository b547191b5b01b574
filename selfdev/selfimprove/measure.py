"""Solver and verifier capability, measured on N samples a question. Pure.

U_s: mean total NLL of one sample; U_v: total NLL of the sample that the verifier selects (Sun et al., arXiv 2507.00075,
section 3); G = U_s - U_v. Both are over the same samples: those that ended by themselves, of the questions of which the
verifier keeps one. A sample that the token limit cut has an NLL of nothing in particular, and can not be selected; U_s
over all samples of all questions is `solver_all`, beside it. All finished samples estimate U_s, not one of them as in
the paper: the same quantity, less noise. J(f) is the mean correctness of a sample, cut ones included, J(f[w]) that of
the selected one; relative gap (J(f[w]) - J(f)) / (1 - J(f)), pooled over the questions of which one is kept (Song et
al., arXiv 2412.02674). NLL in nats at temperature 1, whatever the sampling temperature.

A question of which the verifier keeps nothing has no U_v (nan), and `kept` says how many have one. Where that number
changes from time to time, so does the mixture of questions behind a curve.

Standard errors are over questions. `*_level_se` is that of a single point. `solver_se` and `verifier_se` are those of a
point beside the other points: the same questions are asked every time, so what makes a question hard always is no noise
of the curve and is taken out (Cousineau 2005, with the correction of Morey 2008). Fits need the latter.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from math import isnan, nan, sqrt
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfdev.dynamics import Curve
from selfdev.dynamics.curves import FEWEST
from selfdev.selfimprove.selection import Sampled, select

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answered:
    """One sample with its verdict."""

    sampled: Sampled
    correct: bool


@dataclass(frozen=True, slots=True)
class QuestionValues:
    """What N samples say about one question."""

    solver: float  # nats; nan where nothing is kept, as are the others marked with *
    verifier: float  # *
    solver_all: float  # over all samples, whether they ended or were cut
    solver_per_token: float  # nats per token *
    verifier_per_token: float  # *
    tokens: float  # of one sample, the end token included
    selected_tokens: float  # *
    score: float  # share of right samples
    selected_score: float  # *
    quality: float  # that the verifier grants the selected sample *
    any_right: float  # 1 where one of the N samples is right
    answers: float  # different final answers over N
    kept: float  # 1 where the verifier keeps a sample
    truncated: float  # share of samples that the token limit cut


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: a time in epochs and the values of each question, always in the same order."""

    time: float
    questions: tuple[QuestionValues, ...]

    def mean(self, name: str) -> float:
        """Over the questions that have the value; nan where none has."""
        values = [value for question in self.questions if not isnan(value := getattr(question, name))]
        return fmean(values) if values else nan

    @property
    def kept(self) -> int:
        """Questions of which the verifier keeps a sample."""
        return sum(question.kept > 0 for question in self.questions)

    @property
    def gap(self) -> float:
        """G = U_s - U_v, nats."""
        return self.mean("solver") - self.mean("verifier")

    @property
    def relative_gap(self) -> float | None:
        """Of correctness; None where every sample is right, or none is kept."""
        rows = [question for question in self.questions if question.kept]
        score = fmean(row.score for row in rows) if rows else 1.0
        return (self.mean("selected_score") - score) / (1 - score) if score < 1 else None


def question_values(answered: Sequence[Answered], threshold: float) -> QuestionValues:
    """One question's values."""
    samples = [a.sampled for a in answered]
    place = select(samples, threshold)
    chosen = None if place is None else answered[place]
    finished = [] if chosen is None else [s for s in samples if not s.truncated]

    def of_finished(value: Callable[[Sampled], float]) -> float:
        return fmean(map(value, finished)) if finished else nan

    def of_chosen(value: Callable[[Answered], float]) -> float:
        return nan if chosen is None else float(value(chosen))

    return QuestionValues(
        solver=of_finished(lambda s: s.response.nll),
        verifier=of_chosen(lambda a: a.sampled.response.nll),
        solver_all=fmean(s.response.nll for s in samples),
        solver_per_token=of_finished(lambda s: s.nll_per_token),
        verifier_per_token=of_chosen(lambda a: a.sampled.nll_per_token),
        tokens=fmean(s.response.tokens for s in samples),
        selected_tokens=of_chosen(lambda a: a.sampled.response.tokens),
        score=fmean(a.correct for a in answered),
        selected_score=of_chosen(lambda a: a.correct),
        quality=of_chosen(lambda a: a.sampled.quality),
        any_right=float(any(a.correct for a in answered)),
        answers=len({s.response.answer for s in samples} - {None}) / len(samples),
        kept=float(place is not None),
        truncated=fmean(float(s.truncated) for s in samples),
    )


def table(points: Sequence[Point], name: str) -> Array:
    """Values of each question, nan where it has none: (times, questions)."""
    return np.array([[getattr(question, name) for question in point.questions] for point in points], dtype=np.float64)


def level_errors(values: Array) -> Array:
    """Standard error of each time's mean over the questions, (times,), from values (times, questions); nan of one."""
    held: Any = np.ma.masked_invalid(values)
    errors = held.std(axis=1, ddof=1) / np.ma.sqrt(held.count(axis=1))
    return np.asarray(np.ma.filled(errors, np.nan), dtype=np.float64)


def curve_errors(values: Array) -> Array:
    """The same beside the other times: each question's own mean over time is taken out first."""
    times = len(values)
    if times < 2:
        return level_errors(values)
    held: Any = np.ma.masked_invalid(values)
    return level_errors(np.ma.filled(held - held.mean(axis=0), np.nan)) * sqrt(times / (times - 1))


def error_correlation(first: Array, second: Array) -> float:
    """Correlation of the errors of two curves' points, pooled over the times; 0 where one has none."""
    held: list[Any] = [np.ma.masked_invalid(values) for values in (first, second)]
    centred = [v - v.mean(axis=0) - v.mean(axis=1)[:, None] + v.mean() for v in held]
    rest = [np.ma.filled(v, 0.0) for v in centred]
    size = float(np.sqrt((rest[0] ** 2).sum() * (rest[1] ** 2).sum()))
    return float(np.clip((rest[0] * rest[1]).sum() / size, -0.99, 0.99)) if size > 0 else 0.0


def usable(points: Sequence[Point]) -> list[Point]:
    """Those at which the verifier keeps a sample of some question."""
    return [point for point in points if point.kept]


def columns(points: Sequence[Point]) -> dict[str, list[float | None]]:
    """The columns of a curves file; all points are usable ones.

    Standard errors that are 0 somewhere (no question differs) are left out.
    """
    found: dict[str, list[float | None]] = {
        "time": [p.time for p in points],
        "solver": [p.mean("solver") for p in points],
        "verifier": [p.mean("verifier") for p in points],
    }
    tables = {name: table(points, name) for name in ("solver", "verifier", "score")}
    errors = {name: curve_errors(values) for name, values in tables.items()}
    if errors["solver"].min() > 0 and errors["verifier"].min() > 0:
        correlation = error_correlation(tables["solver"], tables["verifier"])
        found |= {f"{name}_se": errors[name].tolist() for name in ("solver", "verifier")}
        found["correlation"] = [correlation] * len(points)
    found["score"] = [p.mean("score") for p in points]
    if errors["score"].min() > 0:
        found["score_se"] = errors["score"].tolist()
    found["assessed"] = [p.mean("quality") for p in points]
    found |= {"gap": [p.gap for p in points], "relative_gap": [p.relative_gap for p in points]}
    found |= {f"{name}_level_se": level_errors(values).tolist() for name, values in tables.items()}
    for field in fields(QuestionValues):
        if field.name not in (*found, "quality"):
            found[field.name] = [p.mean(field.name) for p in points]
    return {name: [_known(value) for value in values] for name, values in found.items()}


def _known(value: float | None) -> float | None:
    return None if value is None or isnan(value) else value


def to_csv(points: Sequence[Point]) -> str:
    """A file that `selfdev gap fit` reads; a measurement at which nothing was kept has no row."""
    found = columns(held) if (held := usable(points)) else {name: [] for name in ("time", "solver", "verifier")}
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(found)
    for row in zip(*found.values(), strict=True):
        writer.writerow(["" if value is None else f"{value:.10g}" for value in row])
    return stream.getvalue()


def to_curve(points: Sequence[Point], name: str = "") -> Curve | None:
    """The points as what `selfdev.dynamics` fits; None where too few are usable."""
    held = usable(points)
    if len(held) < FEWEST:
        return None
    found = {key: tuple(value for value in values if value is not None) for key, values in columns(held).items()}
    return Curve(
        times=found["time"],
        solver=found["solver"],
        verifier=found["verifier"],
        solver_se=found.get("solver_se"),
        verifier_se=found.get("verifier_se"),
        correlation=found.get("correlation", (0.0,))[0],
        score=found["score"],
        score_se=found.get("score_se"),
        assessed=found["assessed"],
        name=name,
    )


def summary(point: Point) -> dict[str, float | None]:
    """Means over the questions that have the value, by name; None where none has."""
    means = {name: _known(point.mean(name)) for name in asdict(point.questions[0])}
    return {"time": point.time, **means, "gap": _known(point.gap), "relative_gap": point.relative_gap}

"""The gap stage: every sample of an iteration judged by the run's verifiers, and what is measured of that.

The samples are the iteration's programs and those that its uncertainty is measured on (`selfdev.gap_samples`), also at
checkpoints inside its DPO stage, where the verifier is the checkpoint itself. Judgements are recorded per sample, one
transaction per verifier and point in time, so that everything else here is computed from the store. `likelihood` needs
no recorded judgement: the samples of older runs hold what it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfdev.config import GapConfig, RunConfig
from selfdev.dynamics import Advice, Alarm, Curve, GapFit, advise, blind_spot
from selfdev.dynamics import fit as fit_curve
from selfdev.dynamics.curves import FEWEST
from selfdev.dynamics.signals import LEVEL
from selfdev.evaluation import Run
from selfdev.gap import JudgedSample, curve_of, has_curve_point, has_errors, mean_gain, measure, measure_uncertainty
from selfdev.gap_records import DEFINITIONS, Gap, Gaps, Quantity, recorded_points, whole
from selfdev.generate import stream_seed
from selfdev.store import RACE_BLOCK, STOPPED, CandidateRow, MeasuredRow, Store
from selfdev.types import Split
from selfdev.verifiers.base import Judgement, Response
from selfdev.verifiers.recorded import Likelihood

NEEDS_ADAPTER = "implicit-reward"  # before the first training there is no reward
NEEDS_RESULT = "majority"  # cannot judge what was never run


def track_gap(run: Run, iteration: int) -> dict[str, Any]:
    """Judge an iteration's samples, and measure; what the iteration's row holds."""
    store, config = run.store, run.config
    passes = (1 + len(store.measured_steps(iteration))) * len(config.gap.verifiers)
    with run.view.phase(run.directory, iteration, "gap", passes) as advance:
        judge_samples(run, iteration, advance)
        judge_inside(run, iteration, advance)
        gaps, inside = measure_iteration(store, config, iteration), measure_inside(store, config, iteration)
        return record_of(gaps, gain_over_seed(store, config, iteration), config.gap, inside)


def judge_samples(run: Run, iteration: int, advance: Callable[[int], None]) -> None:
    """Let the run's verifiers judge an iteration's programs and the samples of its uncertainty, those not judged yet.

    `majority` asks what a sample comes to, so it does not judge samples that are never run.
    """
    store = run.store
    rows = store.candidates(iteration, "generated")
    programs = {row.id: response_of(row) for row in rows}
    _judge(
        run,
        rows[0].checkpoint if rows else "base",
        (programs, store.judgements(iteration)),
        (_measured_responses(store.measured(iteration)), store.measured_judgements(iteration)),
        advance,
    )


def judge_inside(run: Run, iteration: int, advance: Callable[[int], None]) -> None:
    """Let the run's verifiers judge the samples of an iteration's checkpoints, each as it was at that checkpoint."""
    for step in run.store.measured_steps(iteration):
        looked, done = run.store.measured(iteration, step), run.store.measured_judgements(iteration, step)
        _judge(run, looked[0].checkpoint, ({}, {}), (_measured_responses(looked), done), advance)


Judged = tuple[Mapping[str, Response], Mapping[str, Mapping[str, Judgement]]]
"""Samples by id; verifier -> judgements that are recorded."""


def _judge(run: Run, writer: str, programs: Judged, measured: Judged, advance: Callable[[int], None]) -> None:
    """Judge what one checkpoint has written, by the verifiers whose judgements are not recorded."""
    store, adapter = run.store, None if writer == "base" else run.directory.path / writer
    waiting: dict[str, tuple[Mapping[str, Response], Mapping[str, Response]]] = {
        name: (
            programs[0] if name not in programs[1] else {},
            measured[0] if name not in measured[1] and name != NEEDS_RESULT else {},
        )
        for name in run.config.gap.verifiers
        if name != NEEDS_ADAPTER or adapter is not None
    }
    missing = [name for name, groups in waiting.items() if any(groups)]
    if not missing:
        return
    with run.parts.open_verifiers(missing, adapter) as verifiers:
        for verifier in verifiers:
            for group, add in zip(
                waiting[verifier.name], (store.add_judgements, store.add_measured_judgements), strict=True
            ):
                if group:
                    add(verifier.name, dict(zip(group, verifier.score(list(group.values())), strict=True)))
            advance(1)


def _measured_responses(rows: Sequence[MeasuredRow]) -> dict[str, Response]:
    return {row.id: Response(row.text, row.tokens, row.nll) for row in rows}


def response_of(row: CandidateRow) -> Response:
    """A sample as verifiers see it; what it comes to is its merged model."""
    merged = row.duplicate_of or row.id if row.status is not None and row.status.has_result else None
    return Response(row.text, row.tokens, row.nll, merged)


# -- measuring --------------------------------------------------------------------------------------------------------


def measure_iteration(store: Store, config: RunConfig, iteration: int) -> dict[str, Gap]:
    """Verifier -> its gap on the samples of an iteration, in the order of the configuration."""
    rows, looked = store.candidates(iteration, "generated"), store.measured(iteration)
    judged = store.judgements(iteration)
    judged.setdefault("likelihood", {row.id: _likelihood(row) for row in rows})
    measured = _judged_measured(store, iteration, 0)
    reference, verdicts = shared_verdicts(store, config, iteration)
    gap, gaps = config.gap, dict[str, Gap]()
    temperature = looked[0].temperature if looked else next((row.temperature for row in rows), None)
    for name in gap.verifiers:
        found, uncertain = judged.get(name, {}), measured.get(name, [])
        gap_found = measure(
            name,
            [_program(row, verdicts.get(row.id), found[row.id]) for row in rows if row.id in found],
            gap.n,
            gap.threshold,
            gap.resamples,
            gap.confidence,
            stream_seed(config.seed, "gap", iteration, 0),
            reference,
            uncertain if looked else None,
            temperature,
        )
        if gap_found is not None:
            gaps[name] = gap_found
    return gaps


def measure_inside(store: Store, config: RunConfig, iteration: int) -> dict[float, dict[str, Gap]]:
    """Time -> verifier -> uncertainty at the checkpoints of an iteration's DPO stage.

    Each point has samples of its own, and its bootstrap resamples these and no others: errors of different points are
    independent, but for what they share as points of one training.
    """
    gap, found = config.gap, dict[float, dict[str, Gap]]()
    for step, time in store.measured_steps(iteration).items():
        judged, heat = _judged_measured(store, iteration, step), store.measured(iteration, step)[0].temperature
        stream = stream_seed(config.seed, "gap", iteration, step)
        found[time] = {
            name: measure_uncertainty(
                name, judged[name], gap.n, gap.threshold, gap.resamples, gap.confidence, stream, heat
            )
            for name in gap.verifiers
            if name in judged
        }
    return found


def _judged_measured(store: Store, iteration: int, step: int) -> dict[str, list[JudgedSample]]:
    """Verifier -> the samples for measurement at a point that it has judged."""
    rows, judged = store.measured(iteration, step), store.measured_judgements(iteration, step)
    judged.setdefault("likelihood", {row.id: _likelihood(row) for row in rows})
    return {
        name: [JudgedSample(row.nll, row.tokens, found[row.id].score) for row in rows if row.id in found]
        for name, found in judged.items()
    }


def _likelihood(row: CandidateRow | MeasuredRow) -> Judgement:
    return Likelihood().score([Response(row.text, row.tokens, row.nll)])[0]


def _program(row: CandidateRow, verdicts: Sequence[bool] | None, judgement: Judgement) -> JudgedSample:
    ran = row.status is not None and row.status.has_result
    result = row.duplicate_of or row.id if ran else None
    return JudgedSample(row.nll, row.tokens, judgement.score, ran, verdicts, result)


def shared_verdicts(store: Store, config: RunConfig, iteration: int) -> tuple[list[bool], dict[str, list[bool]]]:
    """The seed's verdicts on the questions that all programs of an iteration answered, and theirs by program.

    A program that repeats another has the verdicts of that one, if that one answered these very questions; else none.
    """
    block = config.block_of(iteration)
    opening = int(store.get_meta(RACE_BLOCK) or store.question_count(Split.DEV, block))
    answered = store.verdicts(0, None, block)
    for earlier in range(1, iteration + 1):
        answered |= store.verdicts(earlier, "generated", block)
    found = {}
    for row in store.candidates(iteration, "generated"):
        verdicts = answered.get(row.duplicate_of or row.id, [None])[:opening]
        if row.status is not None and row.status.has_result and None not in verdicts:
            found[row.id] = [bool(v) for v in verdicts]
    return store.seed_verdicts(block)[:opening], found


def gain_over_seed(store: Store, config: RunConfig, iteration: int) -> Quantity:
    """Mean gain of an iteration's programs over the seed on the questions that all of them answered."""
    reference, verdicts = shared_verdicts(store, config, iteration)
    return mean_gain(list(verdicts.values()), reference, config.gap.confidence)


def record_of(gaps: Mapping[str, Gap], gain: Quantity, config: GapConfig, inside: Gaps) -> dict[str, Any]:
    """What the iteration's row holds, as JSON."""
    if not gaps and not inside:
        return {}
    settings = {"n": config.n, "threshold": config.threshold, "confidence": config.confidence}
    return {
        "definitions": DEFINITIONS,
        "samples": next((gap.samples for gap in gaps.values()), 0),
        **settings,
        "gain": [gain.value, gain.low, gain.high, gain.se],
        "verifiers": {name: gap.record() for name, gap in gaps.items()},
        "inside": [
            {"time": time, "verifiers": {name: gap.record() for name, gap in found.items()}}
            for time, found in inside.items()
        ],
    }


# -- over time --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """One verifier's curve so far, and what it says."""

    curve: Curve
    fit: GapFit
    alarm: Alarm | None
    advice: Advice


def fitted(
    gaps: Gaps,
    gains: Mapping[int, Quantity],
    verifier: str,
    confidence: float,
    level: float = LEVEL,
) -> Fitted | None:
    """The fit of `selfdev.dynamics` to one verifier's curve; None where `no_fit` says why.

    Points inside DPO stages make the curve better known, and what it says stays the same: the gain of one more
    iteration is from the generator that wrote the last programs to the one a whole iteration later.

    Args:
        gaps: by time, points inside DPO stages with them.
        gains: by iteration.
        verifier: whose curve.
        confidence: of every interval.
        level: chance that the alarm fires without a cause.
    """
    curve = curve_of({i: found[verifier] for i, found in gaps.items() if verifier in found}, gains)
    if curve is None:
        return None
    now = max(whole(curve.times), default=None)
    fit, alarm = fit_curve(curve, 1.0, confidence, now=now), blind_spot(curve, level)
    return Fitted(curve, fit, alarm, advise(fit, alarm))


def no_fit(gaps: Gaps, verifier: str) -> str:
    """Why there is no fit to a verifier's curve."""
    told = [found[verifier] for found in gaps.values() if verifier in found and has_curve_point(found[verifier])]
    if len(told) < FEWEST:
        late = "; its first is behind the first training: before it there is no reward" * (verifier == NEEDS_ADAPTER)
        return f"{len(told)} point{'s' * (len(told) != 1)} with U_s and U_v; a fit needs three{late}"
    bare = sum(not has_errors(gap) for gap in told)
    if len({gap.temperature for gap in told}) == 1:
        return (
            f"no fit: {bare} of {len(told)} points have no standard errors, and fewer than three are left without them"
        )
    heats = ", ".join("?" if gap.temperature is None else f"{gap.temperature:.3g}" for gap in told)
    return (
        f"no fit: U_s and U_v are of programs drawn at temperatures {heats}, and colder samples have a lower NLL "
        "without any learning; a run with gap.samples above 1 measures them at one temperature"
    )


def decide_stop(run: Run, iteration: int) -> bool:
    """Whether the run ends after this closed iteration; a decision to end is recorded, and stays.

    The first verifier of `gap.verifiers` with a U_v in every iteration so far decides. The curve is looked at after
    each iteration from the third to the last but one: error levels are divided by the number of looks (Bonferroni).
    Every look is told.
    """
    if not run.config.gap.stop_when_converged or iteration >= run.config.iterations:
        return False
    if run.store.get_meta(STOPPED) is None and iteration >= FEWEST:
        end, reason = _look(run, iteration)
        if end:
            run.store.set_meta(STOPPED, f"{iteration}: {reason}")
        said = f"the run {'ends' if end else 'goes on'} after iteration {iteration}: {reason}"
        run.directory.log(said)
        run.view.note(said)
    return run.iterations <= iteration


def _look(run: Run, iteration: int) -> tuple[bool, str]:
    """Whether the curve says that the run should end, and why or why not."""
    config = run.config.gap
    gaps, gains = recorded_points(
        {row["iteration"]: row["gap"] for row in run.store.iterations() if row["iteration"] <= iteration}
    )
    name = first_in_all(config.verifiers, [gaps[i] for i in gains])
    if name is None:
        return False, "no verifier has a U_v in every iteration"
    looks = run.config.iterations - FEWEST
    found = fitted(gaps, gains, name, 1 - (1 - config.confidence) / looks, LEVEL / looks)
    if found is None:
        return False, f"no curve fits (by {name})"
    return found.advice in (Advice.STOP, Advice.ALARM), f"{found.advice} (by {name})"


def first_in_all(names: Sequence[str], gaps: Sequence[Mapping[str, Gap]]) -> str | None:
    """The first verifier with U_s and U_v in every iteration."""
    return next((name for name in names if all(name in found and has_curve_point(found[name]) for found in gaps)), None)

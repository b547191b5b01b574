"""The gap stage: every sample of an iteration judged by the run's verifiers, and what is measured of that.

Judgements are recorded per sample, one transaction per verifier and iteration, so that everything else here is computed
from the store. `likelihood` needs no recorded judgement: the samples of older runs hold what it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfdev.config import GapConfig, RunConfig
from selfdev.dynamics import Advice, Alarm, Curve, GapFit, advise, blind_spot
from selfdev.dynamics import fit as fit_curve
from selfdev.evaluation import Run
from selfdev.gap import JudgedSample, curve_of, mean_gain, measure
from selfdev.gap_records import Gap, Quantity, recorded
from selfdev.generate import stream_seed
from selfdev.store import RACE_BLOCK, STOPPED, CandidateRow, Store
from selfdev.types import ScoredCandidate, Split
from selfdev.verifiers.base import Judgement, Response
from selfdev.verifiers.recorded import Likelihood

NEEDS_ADAPTER = "implicit-reward"  # before the first training there is no reward


def track_gap(run: Run, iteration: int) -> dict[str, Any]:
    """Judge an iteration's samples, and measure; what the iteration's row holds."""
    with run.view.phase(run.directory, iteration, "gap", len(run.config.gap.verifiers)) as advance:
        judge_samples(run, iteration, advance)
        gaps = measure_iteration(run.store, run.config, iteration)
        return record_of(gaps, gain_over_seed(run.store, run.config, iteration), run.config.gap)


def judge_samples(run: Run, iteration: int, advance: Callable[[int], None]) -> None:
    """Let the run's verifiers judge the samples of an iteration; what is recorded is not judged again."""
    rows = run.store.candidates(iteration, "generated")
    writer = rows[0].checkpoint if rows else "base"
    adapter = None if writer == "base" else run.directory.path / writer
    done = run.store.judgements(iteration)
    missing = [name for name in run.config.gap.verifiers if name not in done]
    if adapter is None:
        missing = [name for name in missing if name != NEEDS_ADAPTER]
    if not missing or not rows:
        return
    responses = [response_of(row) for row in rows]
    with run.parts.open_verifiers(missing, adapter) as verifiers:
        for verifier in verifiers:
            judged = verifier.score(responses)
            run.store.add_judgements(verifier.name, {row.id: j for row, j in zip(rows, judged, strict=True)})
            advance(1)


def response_of(row: CandidateRow) -> Response:
    """A sample as verifiers see it; what it comes to is its merged model."""
    merged = row.duplicate_of or row.id if row.status is not None and row.status.has_result else None
    return Response(row.text, row.tokens, row.nll, merged)


# -- measuring --------------------------------------------------------------------------------------------------------


def measure_iteration(store: Store, config: RunConfig, iteration: int) -> dict[str, Gap]:
    """Verifier -> its gap on the samples of an iteration, in the order of the configuration."""
    rows = store.candidates(iteration, "generated")
    scored = {c.id: c for c in store.scored(iteration)}
    judged = store.judgements(iteration)
    if "likelihood" not in judged:
        found = Likelihood().score([response_of(row) for row in rows])
        judged["likelihood"] = {row.id: j for row, j in zip(rows, found, strict=True)}
    gap, gaps = config.gap, dict[str, Gap]()
    seed = stream_seed(config.seed, "gap", iteration, 0)
    for name in config.gap.verifiers:
        samples = [
            _sample(row, scored.get(row.id), judged[name][row.id]) for row in rows if row.id in judged.get(name, {})
        ]
        measured = measure(name, samples, gap.n, gap.threshold, gap.resamples, gap.confidence, seed)
        if measured is not None:
            gaps[name] = measured
    return gaps


def _sample(row: CandidateRow, candidate: ScoredCandidate | None, judgement: Judgement) -> JudgedSample:
    """A sample with its dev score on the questions that all programs of its iteration answered."""
    score = None if candidate is None else candidate.opening_score
    better, result = None, None
    if candidate is not None and score is not None:
        counted, seed = candidate.opening_correct, candidate.opening_seed
        if counted is None:
            counted, seed = candidate.correct, candidate.seed_correct
        better, result = (counted or 0) > seed, candidate.duplicate_of or candidate.id
    return JudgedSample(row.nll, row.tokens, judgement.score, score, better, result)


def gain_over_seed(store: Store, config: RunConfig, iteration: int) -> Quantity:
    """Mean gain of an iteration's programs over the seed on the questions that all of them answered.

    Programs that repeat one of another iteration or a baseline did not answer these questions and are left out.
    """
    block = config.block_of(iteration)
    opening = int(store.get_meta(RACE_BLOCK) or store.question_count(Split.DEV, block))
    seed = store.seed_verdicts(block)[:opening]
    answered = store.verdicts(iteration, "generated", block)
    rows = [
        [bool(v) for v in answered[owner][:opening]]
        for row in store.candidates(iteration, "generated")
        if (owner := row.duplicate_of or row.id) in answered
        and row.status is not None
        and row.status.has_result
        and None not in answered[owner][:opening]
    ]
    return mean_gain(rows, seed)


def record_of(gaps: Mapping[str, Gap], gain: Quantity, config: GapConfig) -> dict[str, Any]:
    """What the iteration's row holds, as JSON."""
    if not gaps:
        return {}
    first = next(iter(gaps.values()))
    settings = {"n": config.n, "threshold": config.threshold, "confidence": config.confidence}
    return {
        "samples": first.samples,
        **settings,
        "gain": [gain.value, gain.low, gain.high, gain.se],
        "verifiers": {name: gap.record() for name, gap in gaps.items()},
    }


# -- over iterations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """One verifier's curve over the iterations so far, and what it says."""

    curve: Curve
    fit: GapFit
    alarm: Alarm | None
    advice: Advice


def fitted(
    gaps: Mapping[int, Mapping[str, Gap]], gains: Mapping[int, Quantity], verifier: str, confidence: float
) -> Fitted | None:
    """The fit of `selfdev.dynamics` to one verifier's curve; None below three iterations."""
    curve = curve_of({i: found[verifier] for i, found in gaps.items() if verifier in found}, gains)
    if curve is None:
        return None
    fit, alarm = fit_curve(curve, 1.0, confidence), blind_spot(curve)
    return Fitted(curve, fit, alarm, advise(fit, alarm))


def decide_stop(run: Run, iteration: int) -> bool:
    """Whether the run ends after this closed iteration; a decision to end is recorded, and stays.

    The first verifier of `gap.verifiers` that judged every iteration so far decides.
    """
    if not run.config.gap.stop_when_converged or iteration >= run.config.iterations:
        return False
    if run.store.get_meta(STOPPED) is None:
        reason = _reason_to_stop(run.store, run.config, iteration)
        if reason is not None:
            run.store.set_meta(STOPPED, f"{iteration}: {reason}")
            run.directory.log(f"the run ends after iteration {iteration}: {reason}")
    return run.iterations <= iteration


def _reason_to_stop(store: Store, config: RunConfig, iteration: int) -> str | None:
    rows = {row["iteration"]: recorded(row["gap"]) for row in store.iterations() if row["iteration"] <= iteration}
    gaps = {i: found for i, (found, _) in rows.items()}
    gains = {i: gain for i, (_, gain) in rows.items()}
    name = first_in_all(config.gap.verifiers, list(gaps.values()))
    found = None if name is None else fitted(gaps, gains, name, config.gap.confidence)
    if found is None or found.advice not in (Advice.STOP, Advice.ALARM):
        return None
    return f"{found.advice} (by {name})"


def first_in_all(names: Sequence[str], gaps: Sequence[Mapping[str, Gap]]) -> str | None:
    """The first verifier that every iteration has."""
    return next((name for name in names if all(name in found for found in gaps)), None)

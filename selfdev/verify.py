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
from selfdev.dynamics.curves import FEWEST
from selfdev.dynamics.signals import LEVEL
from selfdev.evaluation import Run
from selfdev.gap import JudgedSample, curve_of, has_curve_point, mean_gain, measure
from selfdev.gap_records import DEFINITIONS, Gap, Quantity, recorded
from selfdev.generate import stream_seed
from selfdev.store import RACE_BLOCK, STOPPED, CandidateRow, MeasuredRow, Store
from selfdev.types import Split
from selfdev.verifiers.base import Judgement, Response
from selfdev.verifiers.recorded import Likelihood

NEEDS_ADAPTER = "implicit-reward"  # before the first training there is no reward
NEEDS_RESULT = "majority"  # cannot judge what was never run


def track_gap(run: Run, iteration: int) -> dict[str, Any]:
    """Judge an iteration's samples, and measure; what the iteration's row holds."""
    with run.view.phase(run.directory, iteration, "gap", len(run.config.gap.verifiers)) as advance:
        judge_samples(run, iteration, advance)
        gaps = measure_iteration(run.store, run.config, iteration)
        return record_of(gaps, gain_over_seed(run.store, run.config, iteration), run.config.gap)


def judge_samples(run: Run, iteration: int, advance: Callable[[int], None]) -> None:
    """Let the run's verifiers judge an iteration's programs and the samples of its uncertainty, those not judged yet.

    `majority` asks what a sample comes to, so it does not judge samples that are never run.
    """
    store, names = run.store, run.config.gap.verifiers
    rows, looked = store.candidates(iteration, "generated"), store.measured(iteration)
    writer = rows[0].checkpoint if rows else "base"
    adapter = None if writer == "base" else run.directory.path / writer
    programs = {row.id: response_of(row) for row in rows}
    measured = {row.id: Response(row.text, row.tokens, row.nll) for row in looked}
    done, measured_done = store.judgements(iteration), store.measured_judgements(iteration)
    waiting: dict[str, tuple[Mapping[str, Response], Mapping[str, Response]]] = {
        name: (programs if name not in done else {}, measured if name not in {*measured_done, NEEDS_RESULT} else {})
        for name in names
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


def response_of(row: CandidateRow) -> Response:
    """A sample as verifiers see it; what it comes to is its merged model."""
    merged = row.duplicate_of or row.id if row.status is not None and row.status.has_result else None
    return Response(row.text, row.tokens, row.nll, merged)


# -- measuring --------------------------------------------------------------------------------------------------------


def measure_iteration(store: Store, config: RunConfig, iteration: int) -> dict[str, Gap]:
    """Verifier -> its gap on the samples of an iteration, in the order of the configuration."""
    rows, looked = store.candidates(iteration, "generated"), store.measured(iteration)
    judged, measured = store.judgements(iteration), store.measured_judgements(iteration)
    judged.setdefault("likelihood", {row.id: _likelihood(row) for row in rows})
    measured.setdefault("likelihood", {row.id: _likelihood(row) for row in looked})
    reference, verdicts = shared_verdicts(store, config, iteration)
    gap, gaps = config.gap, dict[str, Gap]()
    temperature = looked[0].temperature if looked else next((row.temperature for row in rows), None)
    for name in gap.verifiers:
        found = judged.get(name, {})
        uncertain = [
            JudgedSample(row.nll, row.tokens, measured[name][row.id].score)
            for row in looked
            if row.id in measured.get(name, {})
        ]
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


def record_of(gaps: Mapping[str, Gap], gain: Quantity, config: GapConfig) -> dict[str, Any]:
    """What the iteration's row holds, as JSON."""
    if not gaps:
        return {}
    first = next(iter(gaps.values()))
    settings = {"n": config.n, "threshold": config.threshold, "confidence": config.confidence}
    return {
        "definitions": DEFINITIONS,
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
    gaps: Mapping[int, Mapping[str, Gap]],
    gains: Mapping[int, Quantity],
    verifier: str,
    confidence: float,
    level: float = LEVEL,
) -> Fitted | None:
    """The fit of `selfdev.dynamics` to one verifier's curve; None where `no_fit` says why.

    Args:
        level: chance that the alarm fires without a cause.
    """
    curve = curve_of({i: found[verifier] for i, found in gaps.items() if verifier in found}, gains)
    if curve is None:
        return None
    fit, alarm = fit_curve(curve, 1.0, confidence), blind_spot(curve, level)
    return Fitted(curve, fit, alarm, advise(fit, alarm))


def no_fit(gaps: Mapping[int, Mapping[str, Gap]], verifier: str) -> str:
    """Why there is no fit to a verifier's curve."""
    told = [found[verifier] for found in gaps.values() if verifier in found and has_curve_point(found[verifier])]
    if len(told) < FEWEST:
        return f"{len(told)} iterations with U_s and U_v; a fit needs three"
    heats = ", ".join("?" if gap.temperature is None else f"{gap.temperature:.3g}" for gap in told)
    return (
        f"no fit: U_s and U_v are of programs drawn at temperatures {heats}, and colder samples have a lower NLL "
        "without any learning; a run with gap.samples above 1 measures them at one temperature"
    )


def decide_stop(run: Run, iteration: int) -> bool:
    """Whether the run ends after this closed iteration; a decision to end is recorded, and stays.

    The first verifier of `gap.verifiers` with a U_v in every iteration so far decides. The curve is looked at after
    each iteration from the third to the last but one: error levels are divided by the number of looks (Bonferroni).
    """
    if not run.config.gap.stop_when_converged or iteration >= run.config.iterations:
        return False
    if run.store.get_meta(STOPPED) is None:
        reason = _reason_to_stop(run, iteration)
        if reason is not None:
            run.store.set_meta(STOPPED, f"{iteration}: {reason}")
            run.directory.log(f"the run ends after iteration {iteration}: {reason}")
    return run.iterations <= iteration


def _reason_to_stop(run: Run, iteration: int) -> str | None:
    if iteration < FEWEST:
        return None
    config = run.config.gap
    rows = {row["iteration"]: recorded(row["gap"]) for row in run.store.iterations() if row["iteration"] <= iteration}
    gaps = {i: found for i, (found, _) in rows.items()}
    name = first_in_all(config.verifiers, list(gaps.values()))
    if name is None:
        run.directory.log(f"no stop decision after iteration {iteration}: no verifier has a U_v in every iteration")
        return None
    looks = run.config.iterations - FEWEST
    gains = {i: gain for i, (_, gain) in rows.items()}
    found = fitted(gaps, gains, name, 1 - (1 - config.confidence) / looks, LEVEL / looks)
    if found is None or found.advice not in (Advice.STOP, Advice.ALARM):
        return None
    return f"{found.advice} (by {name})"


def first_in_all(names: Sequence[str], gaps: Sequence[Mapping[str, Gap]]) -> str | None:
    """The first verifier with U_s and U_v in every iteration."""
    return next((name for name in names if all(name in found and has_curve_point(found[name]) for found in gaps)), None)

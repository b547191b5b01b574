"""The method, in order. Every stage reads what is recorded and adds what is missing, so that the same call continues a
run that was stopped at any instant. Parts never see the loop; the loop is the only writer of the store.

    baselines on dev
    for each iteration:  sample -> run and score on dev -> pair -> train the generator -> measure the gap
    the one winner on dev, once, on test
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from selfdev import baselines
from selfdev.compute.base import Worker
from selfdev.config import RunConfig
from selfdev.errors import StageError
from selfdev.gap import track_gap
from selfdev.generate import extract_program, sample_requests, stream_seed, temperature
from selfdev.pair import pair, ranked
from selfdev.prompting import text_hash
from selfdev.report.files import write_iteration_files
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.score import refusal, score
from selfdev.store import CandidateRow, Store, sample_row
from selfdev.tasks.base import Task
from selfdev.train import train
from selfdev.types import ExecutionStatus, MergeProgram, Outcome, PreferencePair, Split
from selfdev.wiring import Parts


def run(config: RunConfig, directory: RunDirectory, parts: Parts, view: RunView) -> None:
    """Begin or continue a run until its last iteration is closed and its winner is tested.

    Raises:
        StageError: a stage cannot go on; everything recorded so far stays.
    """
    store = directory.store
    record_facts(directory, parts)
    run_baselines(config, directory, parts, view)
    done = {row["iteration"] for row in store.iterations()}
    for iteration in range(1, config.iterations + 1):
        if iteration not in done:
            run_iteration(config, directory, parts, view, iteration)
        write_iteration_files(directory.path, store, iteration, parts.prompt)
        view.iteration(store, iteration)
    if register_winners(directory, parts, view):
        test_winners(directory, parts, view)
    for iteration in range(1, config.iterations + 1):  # again: later programs may repeat earlier merges
        write_iteration_files(directory.path, store, iteration, parts.prompt)
    view.final(store)


def run_iteration(config: RunConfig, directory: RunDirectory, parts: Parts, view: RunView, iteration: int) -> None:
    """One turn of the loop, from samples to a trained generator."""
    store = directory.store
    draw_samples(config, directory, parts, view, iteration)
    run_candidates(config, directory, parts, view, iteration)
    every = store.scored()
    current = [c for c in every if c.iteration == iteration]
    pairs = pair(parts.prompt, current, [c for c in every if c.iteration < iteration], config.pair)
    store.set_pairs(iteration, pairs)
    trained = train_generator(config, directory, parts, view, iteration, pairs)
    gap = track_gap(current, config.gap.n)
    store.commit_iteration(
        iteration,
        temperature(iteration, config.generate.temperature, config.generate.decay),
        trained,
        {} if gap is None else asdict(gap),
    )
    directory.log(f"iteration {iteration} closed: {len(current)} samples, {len(pairs)} pairs")


def record_facts(directory: RunDirectory, parts: Parts) -> None:
    """What must not change between two sittings of one run: questions, prompt, models."""
    store = directory.store
    for split, questions in ((Split.DEV, parts.task.dev), (Split.TEST, parts.task.test)):
        store.add_questions(split, questions, [text_hash(q.prompt) for q in questions])
    for key, value in parts.facts.items():
        old = store.get_meta(key)
        if old is not None and old != value:
            raise StageError(f"{key} has changed since {directory.path} was begun; give another --run-dir")
        if old is None:
            store.set_meta(key, value)


def run_baselines(config: RunConfig, directory: RunDirectory, parts: Parts, view: RunView) -> None:
    """Seed, sources and human-designed merges on dev, through the same executor as candidates."""
    example = extract_program(parts.prompt)
    rows = [
        baseline_row(b, i, stream_seed(config.seed, "execute", 0, i))
        for i, b in enumerate(baselines.table(config.models.sources, example))
    ]
    directory.store.add_candidates(rows)
    run_pending(config, directory, parts, view, 0, directory.store.candidates(0))


def draw_samples(config: RunConfig, directory: RunDirectory, parts: Parts, view: RunView, iteration: int) -> None:
    """Draw the iteration's samples, batch by batch; whole batches that are recorded are not drawn again."""
    drawn = len(directory.store.candidates(iteration, "generated"))
    missing = sample_requests(config.seed, iteration, range(drawn, config.generate.samples))
    if not missing:
        return
    heat = temperature(iteration, config.generate.temperature, config.generate.decay)
    adapter = adapter_before(directory, iteration)
    name = directory.checkpoint_name(adapter)
    with view.phase(directory, iteration, "generate", total=len(missing)) as advance:
        try:
            parts.generator.load(adapter)
            for batch in parts.generator.sample(parts.prompt, missing, heat):
                directory.store.add_candidates(
                    sample_row(s, candidate_id("generated", iteration, s.index, s.text), iteration, name, heat,
                               extract_program(s.text), stream_seed(config.seed, "execute", iteration, s.index))
                    for s in batch
                )  # fmt: skip
                advance(len(batch))
        finally:
            parts.generator.close()


def run_candidates(config: RunConfig, directory: RunDirectory, parts: Parts, view: RunView, iteration: int) -> None:
    """Run and score the iteration's programs that have no outcome yet."""
    run_pending(config, directory, parts, view, iteration, directory.store.candidates(iteration, "generated"))


def run_pending(
    config: RunConfig,
    directory: RunDirectory,
    parts: Parts,
    view: RunView,
    iteration: int,
    rows: Sequence[CandidateRow],
) -> None:
    """Run programs in order, grade what their merged models answer, and record both at once per program."""
    store = directory.store
    pending = [row for row in rows if row.status is None]
    if not pending:
        return
    name = "evaluate" if iteration else "baselines"
    with view.phase(directory, iteration, name, len(pending)) as advance, parts.open_worker() as worker:
        if store.get_meta("isolation") in (None, "full"):  # the weakest level of all sittings is the run's
            store.set_meta("isolation", worker.isolation)
        known = store.known_results()
        for row, outcome in execute(worker, pending, [q.prompt for q in parts.task.dev], known):
            if iteration == 0 and outcome.status is not ExecutionStatus.OK:  # not recorded: the next start tries again
                raise StageError(f"the baseline {row.name!r} does not run: {outcome.status}, {outcome.error}")
            record(store, row.id, outcome, known, parts.task, config.evaluate.max_truncated)
            advance(1)


def execute(
    worker: Worker, rows: Iterable[CandidateRow], prompts: Sequence[str], known: dict[str, str]
) -> Iterable[tuple[CandidateRow, Outcome]]:
    """Run programs one after another; what has a fingerprint or a result hash in `known` is not answered again."""
    for row in rows:
        assert row.source is not None  # a sample without a program has its outcome already
        yield row, worker.run(MergeProgram(row.id, row.source, row.execution_seed), prompts, known)


def record(
    store: Store,
    candidate_id: str,
    outcome: Outcome,
    known: dict[str, str],
    task: Task,
    max_truncated: float,
) -> None:
    """One program's outcome and graded dev answers, in one transaction."""
    digests = [digest for digest in (outcome.fingerprint, outcome.result_hash) if digest is not None]
    duplicate_of = next((known[digest] for digest in digests if digest in known), None)
    answers = () if outcome.completions is None else score(task.dev, outcome.completions, task.grade)
    with store.transaction():
        store.record_outcome(candidate_id, outcome, duplicate_of, refusal(answers, max_truncated))
        store.add_answers(candidate_id, answers)
    for digest in digests:
        known.setdefault(digest, duplicate_of or candidate_id)


def train_generator(
    config: RunConfig,
    directory: RunDirectory,
    parts: Parts,
    view: RunView,
    iteration: int,
    pairs: Sequence[PreferencePair],
) -> dict[str, object]:
    """DPO on the iteration's pairs, from the previous adapter; an adapter that is complete is not trained again."""
    previous = adapter_before(directory, iteration)
    with view.phase(directory, iteration, "train", total=None) as advance:
        _, report = train(
            parts.trainer,
            config.generate.model,
            previous,
            pairs,
            directory.checkpoint(iteration),
            stream_seed(config.seed, "train", iteration, 0) % 2**31,
            lambda *_: advance(1),
        )
    return asdict(report)


def adapter_before(directory: RunDirectory, iteration: int) -> Path | None:
    """The adapter that writes in an iteration: of the last earlier iteration that trained one; None is the base."""
    trained = [directory.checkpoint(i) for i in range(iteration - 1, 0, -1)]
    return next((path for path in trained if path.is_dir()), None)


def register_winners(directory: RunDirectory, parts: Parts, view: RunView) -> bool:
    """Name, on dev scores alone, what will be scored on test: the winner, the seed, the best baseline.

    The winner is run once more first; a program that gives other bits loses its score, and the next one is taken.
    """
    store = directory.store
    if store.winners():
        return True
    if not ranked(store.scored()):
        return False
    with view.phase(directory, 0, "confirm", total=None), parts.open_worker() as worker:
        while order := ranked(store.scored()):
            row = store.candidate(order[0].id)
            if confirm(worker, row, store):
                break
    if not order:
        return False
    seed = next(row.id for row in store.candidates(0) if row.kind == "seed")
    store.set_winners({"winner": order[0].id, "seed": seed, "baseline": best_baseline(store)})
    return True


def confirm(worker: Worker, row: CandidateRow, store: Store) -> bool:
    """Run a scored program again, without questions; record it as nondeterministic where the bits differ.

    Raises:
        StageError: it did not end this time (say, a timeout on a busy machine); nothing is recorded.
    """
    for _, outcome in execute(worker, [row], (), {row.result_hash or "": row.id}):
        if outcome.result_hash == row.result_hash:
            return True
        if outcome.status is not ExecutionStatus.OK:
            raise StageError(
                f"program {row.id} ran before and now ended with {outcome.status} ({outcome.error}); run again"
            )
        store.record_outcome(row.id, Outcome(ExecutionStatus.NONDETERMINISTIC, "a second run gave other bits"), None)
    return False


def best_baseline(store: Store) -> str:
    """The baseline with the best dev score, the seed apart; the first of equals."""
    counts = store.counts(Split.DEV)
    rows = [row for row in store.candidates(0) if row.kind != "seed" and row.duplicate_of is None]
    return max(rows, key=lambda row: (counts[row.id].correct, -row.index)).id


def test_winners(directory: RunDirectory, parts: Parts, view: RunView) -> None:
    """Score what was registered on the test questions, once, and note that they were opened."""
    store = directory.store
    ids = list(dict.fromkeys(store.winners().values()))
    if all(store.answers(i, Split.TEST) for i in ids):
        return
    questions = parts.task.test
    outcomes: list[Outcome] = []
    with view.phase(directory, 0, "test", total=len(ids)) as advance, parts.open_worker() as worker:
        rows = [store.candidate(i) for i in ids]
        for _, outcome in execute(worker, rows, [q.prompt for q in questions], {}):
            outcomes.append(outcome)
            advance(1)
    with store.transaction():
        store.add_opening(datetime.now(UTC).isoformat(timespec="seconds"), ids, len(questions))
        for i, outcome in zip(ids, outcomes, strict=True):
            if outcome.completions is None or outcome.result_hash != store.candidate(i).result_hash:
                raise StageError(
                    f"program {i} did not give its dev result on test ({outcome.status} {outcome.error or ''}); "
                    "run again"
                )
            store.add_answers(i, score(questions, outcome.completions, parts.task.grade))


def baseline_row(baseline: baselines.Baseline, index: int, execution_seed: int) -> CandidateRow:
    """The row of one human-designed merge."""
    return CandidateRow(
        id=candidate_id(baseline.kind, 0, index, baseline.source), kind=baseline.kind, name=baseline.name, iteration=0,
        index=index, checkpoint="", temperature=None, sample_seed=None, text=baseline.source, source=baseline.source,
        tokens=0, nll=0.0, truncated=False, execution_seed=execution_seed,
    )  # fmt: skip


def candidate_id(kind: str, iteration: int, index: int, text: str) -> str:
    """12 hex digits that name a program within a run."""
    return hashlib.sha256(f"{kind}|{iteration}|{index}|{text}".encode()).hexdigest()[:12]

"""The method, in order. Every stage reads what is recorded and adds what is missing, so that the same call continues a
run that was stopped at any instant. Parts never see the loop; the loop is the only writer of the store.

    the test questions are sealed
    baselines on dev
    for each iteration:  sample -> run and score on dev (a race) -> pair -> train the generator -> sample at checkpoints
                         of the training, judge all samples, measure the gap; where it has converged and the run may
                         end early, it does
    the best of all iterations beside the baselines, on questions that they have not met
    the one winner is registered, for `selfdev test`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from selfdev import baselines
from selfdev.config import PairConfig, RunConfig
from selfdev.dynamics.cross import counts, shares
from selfdev.errors import StageError
from selfdev.estimates import best_baseline
from selfdev.evaluation import Run, confirm, evaluate_baselines, evaluate_iteration, held_out_count, run_finals
from selfdev.gap_samples import Point, draw_at, draw_inside, missing_samples
from selfdev.generate import extract_program, sample_requests, stream_seed, temperature
from selfdev.pair import external_pairs, in_finals, inverted_share, pair
from selfdev.prompting import text_hash
from selfdev.report.files import write_iteration_files
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.stats import AnswerRow
from selfdev.store import SEALED, CandidateRow, QuestionRow, candidate_id, program_row, sample_row
from selfdev.train import train
from selfdev.types import ExecutionStatus, PreferencePair, ScoredCandidate, Split, TrainReport
from selfdev.verify import decide_stop, track_gap
from selfdev.wiring import Parts


def run(config: RunConfig, directory: RunDirectory, parts: Parts, view: RunView) -> None:
    """Begin or continue a run until its last iteration is closed and its winner is registered.

    Raises:
        StageError: a stage cannot go on; everything recorded so far stays.
    """
    run = Run(config, directory, parts, view)
    record_facts(run)
    score_baselines(run)
    for iteration in range(1, config.iterations + 1):
        if iteration not in {row["iteration"] for row in run.store.iterations()}:
            run_iteration(run, iteration)
        write_iteration_files(directory.path, run.store, iteration, parts.prompt)
        view.iteration(run.store, iteration)
        if decide_stop(run, iteration):
            break
    run_finals(run)
    register_winner(run)
    for iteration in range(1, run.iterations + 1):  # again: later programs may repeat earlier merges
        write_iteration_files(directory.path, run.store, iteration, parts.prompt)
    view.final(run.store)


def run_iteration(run: Run, iteration: int) -> None:
    """One turn of the loop, from samples to a trained generator."""
    draw_samples(run, iteration)
    evaluate_iteration(run, iteration)
    pairs, evidence = make_pairs(run, iteration)
    run.store.set_pairs(iteration, pairs)
    trained = train_generator(run, iteration, pairs)
    draw_inside(run, iteration, trained)
    current = run.store.scored(iteration)
    gap = track_gap(run, iteration)
    heat = temperature(iteration, run.config.generate.temperature, run.config.generate.decay)
    run.store.commit_iteration(iteration, heat, asdict(trained), gap, evidence)
    run.directory.log(f"iteration {iteration} closed: {len(current)} samples, {len(pairs)} pairs")


def record_facts(run: Run) -> None:
    """What must not change between two sittings of one run: questions, prompt, models. Seals the test questions."""
    run.parts.envelope.seal(run.directory.path)
    run.store.add_questions(dev_rows(run))
    run.store.add_questions(
        [
            QuestionRow(q.id, Split.TEST, q.prompt_hash, q.skill, turn=i)
            for i, q in enumerate(run.parts.envelope.questions)
        ]
    )
    for key, value in (run.parts.facts | {SEALED: run.parts.envelope.digest}).items():
        old = run.store.get_meta(key)
        if old is not None and old != value:
            raise StageError(f"{key} has changed since {run.directory.path} was begun; give another --run-dir")
        if old is None:
            run.store.set_meta(key, value)


def dev_rows(run: Run) -> list[QuestionRow]:
    """The dev questions as the store keeps them, block after block."""
    rows = []
    for number in range(run.parts.task.blocks):
        block = run.parts.task.block(number)
        first_held = len(block) - held_out_count(run.config, len(block))
        rows += [
            QuestionRow(q.id, Split.DEV, text_hash(q.prompt), q.skill, number, turn, turn >= first_held)
            for turn, q in enumerate(block)
        ]
    return rows


def score_baselines(run: Run) -> None:
    """Seed, sources and human-designed merges on their block of dev questions."""
    evaluate_baselines(run, baseline_rows(run))


def baseline_rows(run: Run) -> list[CandidateRow]:
    """Seed, sources and human-designed merges, recorded as candidates of iteration 0."""
    table = baselines.table(run.config.models.sources, extract_program(run.parts.prompt))
    run.store.add_candidates(
        program_row(b.kind, b.name, 0, i, b.source, stream_seed(run.config.seed, "execute", 0, i))
        for i, b in enumerate(table)
    )
    return run.store.baselines()


def draw_samples(run: Run, iteration: int) -> None:
    """Draw the iteration's programs, and the samples that its uncertainty is measured on, batch by batch.

    Whole batches that are recorded are not drawn again.
    """
    config, store, generator = run.config, run.store, run.parts.generator
    missing = sample_requests(
        config.seed, iteration, range(len(store.candidates(iteration, "generated")), config.generate.samples)
    )
    point = Point(iteration)
    unmeasured = missing_samples(run, point)
    if not missing and not unmeasured:
        return
    heat = temperature(iteration, config.generate.temperature, config.generate.decay)
    adapter = adapter_before(run.directory, iteration)
    name = run.directory.checkpoint_name(adapter)
    try:
        with run.view.phase(run.directory, iteration, "generate", len(missing)) as advance:
            generator.load(adapter)
            for batch in generator.sample(run.parts.prompt, missing, heat):
                store.add_candidates(
                    sample_row(s, candidate_id("generated", iteration, s.index, s.text), iteration, name, heat,
                               extract_program(s.text), stream_seed(config.seed, "execute", iteration, s.index))
                    for s in batch
                )  # fmt: skip
                advance(len(batch))
        if unmeasured:
            draw_at(run, point, unmeasured, name)
    finally:
        generator.close()


def make_pairs(run: Run, iteration: int) -> tuple[list[PreferencePair], dict[str, object]]:
    """The preference pairs of an iteration, and how far both rules can be trusted on its answers."""
    every = run.store.scored()
    current = [c for c in every if c.iteration == iteration]
    earlier = [c for c in every if c.iteration < iteration]
    answers: dict[str, AnswerRow] = {}
    for number in range(1, iteration + 1):
        answers |= run.store.verdicts(number, "generated")
    rule, prompt = run.config.pair, run.parts.prompt
    pairs = pair(prompt, current, earlier, rule, answers)
    evidence = pair_evidence(prompt, current, earlier, rule, answers)
    due = external_due(run.config, iteration)
    if due:
        added = external_pairs(prompt, external_programs(run), current, due, rule)
        pairs = pairs[: rule.max_pairs - len(added)] + added
        evidence["external"] = {"due": due, "pairs": len(added)}
    return pairs, evidence


def external_due(config: RunConfig, iteration: int) -> int:
    """How many external pairs come in at an iteration; over all iterations `cross.pairs`, whatever the schedule."""
    return counts(config.cross.pairs, shares(config.cross.schedule, config.iterations))[iteration - 1]


def external_programs(run: Run) -> list[ScoredCandidate]:
    """Human-designed merges as if the generator had written them, in the order of `baselines.published_order`.

    Dev scores have no say in it: those of baselines are on the very questions of the finals, and a generator trained on
    a choice among them would bring it to the comparison with the baselines.
    """
    scores, rows = run.store.final_counts(), run.store.baselines()
    seed = next(row.id for row in rows if row.kind == "seed")
    opening = "```python\n" if run.config.generate.chat_template else ""  # else the prompt has opened the code block
    return [
        ScoredCandidate(
            id=row.id, iteration=0, index=row.index, source=row.text, completion=f"{opening}{row.text.strip()}\n```",
            status=ExecutionStatus.OK, correct=scores[row.id].correct, total=scores[row.id].total, nll=0.0, tokens=0,
            seed_correct=scores[seed].correct,
        )
        for row in sorted(rows, key=lambda row: baselines.published_order(row.kind, row.text))
        if row.kind not in ("seed", "source")
        and row.duplicate_of is None
        and row.refused is None
        and row.id in scores
    ]  # fmt: skip


def pair_evidence(
    prompt: str,
    current: Sequence[ScoredCandidate],
    earlier: Sequence[ScoredCandidate],
    rule: PairConfig,
    answers: Mapping[str, AnswerRow],
) -> dict[str, object]:
    """Pairs by either rule, and the estimated share of wrongly ordered ones."""
    here = {c.id for c in current}
    own = {i: row for i, row in answers.items() if i in here}
    found: dict[str, object] = {"rule": rule.rule}
    for name in ("paper", "confident"):
        pairs = pair(prompt, current, earlier, rule.model_copy(update={"rule": name}), answers)
        members = {i: answers[i] for p in pairs for i in (p.chosen_id, p.rejected_id) if i in answers}
        found[name] = {"pairs": len(pairs), "inverted": inverted_share(pairs, own | members)}
    return found


def train_generator(run: Run, iteration: int, pairs: Sequence[PreferencePair]) -> TrainReport:
    """DPO on the iteration's pairs, from the previous adapter; a stage that is complete is not trained again."""
    previous = adapter_before(run.directory, iteration)
    with run.view.phase(run.directory, iteration, "train", total=None) as advance:
        _, report = train(
            run.parts.trainer,
            run.config.generate.model,
            previous,
            pairs,
            run.directory.checkpoint(iteration),
            stream_seed(run.config.seed, "train", iteration, 0) % 2**31,
            lambda *_: advance(1),
            run.config.gap.inside,
        )
    return report


def adapter_before(directory: RunDirectory, iteration: int) -> Path | None:
    """The adapter that writes in an iteration: of the last earlier iteration that trained one; None is the base."""
    trained = [directory.checkpoint(i) for i in range(iteration - 1, 0, -1)]
    return next((path for path in trained if path.is_dir()), None)


def register_winner(run: Run) -> bool:
    """Name, on dev scores alone, what `selfdev test` will score: the winner, the seed, the best baseline.

    The winner is run once more first; a program that gives other bits loses its score, and the next one is taken.
    """
    store = run.store
    if "winner" in store.winners():
        return True
    if not in_finals(store.scored()):
        return False
    with run.view.phase(run.directory, 0, "confirm", total=None), run.parts.open_worker() as worker:
        while order := in_finals(store.scored()):
            if confirm(worker, store.candidate(order[0].id), run):
                break
    if not order:
        return False
    seed = next(row.id for row in store.baselines() if row.kind == "seed")
    store.register({"winner": order[0].id, "seed": seed, "baseline": best_baseline(store).id})
    return True

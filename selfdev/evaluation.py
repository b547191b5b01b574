"""From programs to recorded outcomes and graded dev answers: baselines, iterations with or without a race, finals.

Every function reads what is recorded and adds what is missing. A program's outcome and its first answers are one
transaction, and so is every further block of answers, so a stopped race continues with the decisions it would have
made (`selfdev.race` replays them from the answers).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from selfdev.compute.base import Worker
from selfdev.config import RunConfig
from selfdev.errors import RunError, StageError, UsageError
from selfdev.pair import ranked
from selfdev.race import RaceRules, RaceState, choose_block, least_budget, race
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.score import refusal, score
from selfdev.store import NOISE, RACE_BLOCK, CandidateRow, Store
from selfdev.types import Completion, ExecutionStatus, MergeProgram, Outcome, Question, RaceStanding, Split
from selfdev.wiring import Parts

PROBE_QUESTIONS = 8  # the smaller of the two batches whose times give the cost of a swap


@dataclass(frozen=True)
class Run:
    """What the stages of a run work with."""

    config: RunConfig
    directory: RunDirectory
    parts: Parts
    view: RunView

    @property
    def store(self) -> Store:
        """The run's store; the coordinator is its only writer."""
        return self.directory.store

    @property
    def iterations(self) -> int:
        """Iterations of this run: as configured, or as many as there were when it ended early."""
        return self.store.stopped_after() or self.config.iterations

    def block_of(self, iteration: int) -> tuple[Question, ...]:
        """The dev questions of an iteration; 0 is the baselines'."""
        return self.parts.task.block(self.config.block_of(iteration))


def check_ended(store: Store, config: RunConfig) -> None:
    """
    Raises:
        RunError: the run goes on.
    """
    if len(store.iterations()) < (store.stopped_after() or config.iterations) or not store.winners():
        raise RunError(f"{store.path.parent} has not ended; `selfdev run` with its configuration goes on with it")


def held_out_count(config: RunConfig, questions: int) -> int:
    """How many questions at the end of a block no decision of a race sees."""
    return round(config.race.held_out * questions) if config.race.enabled else 0


def race_rules(run: Run) -> RaceRules:
    """The rules of this run's races; the block was recorded with the baselines."""
    size = len(run.block_of(1))
    config = run.config.race
    block = int(run.store.get_meta(RACE_BLOCK) or 0)
    return RaceRules(block, held_out_count(run.config, size), config.keep, config.budget, config.alpha)


@contextmanager
def lazy_worker(run: Run) -> Iterator[Callable[[], Worker]]:
    """A worker that is opened when it is first asked for: loading models is in vain where nothing is left to do."""
    with ExitStack() as stack:
        opened: list[Worker] = []

        def worker() -> Worker:
            if not opened:
                opened.append(stack.enter_context(run.parts.open_worker()))
                _note_isolation(run.store, opened[0])
            return opened[0]

        yield worker


# -- baselines --------------------------------------------------------------------------------------------------------


def evaluate_baselines(run: Run, rows: Sequence[CandidateRow]) -> None:
    """Run baselines on their block; the seed answers every dev question, once.

    Raises:
        StageError: a baseline does not run. Nothing of it is recorded: the next start tries again.
    """
    pending = [row for row in rows if row.status is None]
    racing, seed = run.config.race.enabled, next(row for row in rows if row.kind == "seed")
    needed = (NOISE, RACE_BLOCK) if racing else (NOISE,)
    if not pending and all(run.store.get_meta(fact) is not None for fact in needed):
        return
    with run.view.phase(run.directory, 0, "baselines", len(pending)) as advance, run.parts.open_worker() as worker:
        _note_isolation(run.store, worker)
        if racing:
            _fix_block(run, worker, seed)
        known = run.store.known_results()
        for row in pending:
            questions = run.parts.task.dev if row.kind == "seed" else run.block_of(0)
            outcome = worker.run(program_of(row), prompts_of(questions), known)
            if outcome.status is not ExecutionStatus.OK:
                raise StageError(f"the baseline {row.name!r} does not run: {outcome.status}, {outcome.error}")
            record(run, row.id, outcome, known, questions)
            advance(1)
        if run.store.get_meta(NOISE) is None:
            _note_noise(run, worker, seed)


def _note_noise(run: Run, worker: Worker, seed: CandidateRow) -> None:
    """A/A: the seed answers its block once more, in the other order and in other batches; what differs is noise."""
    questions = run.block_of(0)[::-1]
    first = verdicts_again(run, worker, seed, questions[: len(questions) // 3])
    second = verdicts_again(run, worker, seed, questions[len(questions) // 3 :])
    before = run.store.seed_verdicts(0)
    differ = sum(a != b for a, b in zip((*first, *second), reversed(before), strict=True))
    run.store.set_meta(NOISE, f"{differ} of {len(questions)}")


def verdicts_again(run: Run, worker: Worker, row: CandidateRow, questions: Sequence[Question]) -> list[bool]:
    """A program's verdicts once more, recorded nowhere.

    Raises:
        StageError: it does not run any more.
    """
    if not questions:
        return []
    digest = str(run.store.candidate(row.id).result_hash)
    outcome = worker.again(program_of(row), prompts_of(questions), digest)
    if outcome.completions is None:
        raise StageError(f"the baseline {row.name!r} does not run again: {outcome.status}, {outcome.error}")
    return [answer.correct for answer in score(questions, outcome.completions, run.parts.task.grade)]


def evaluate_listed(run: Run, rows: Sequence[CandidateRow]) -> None:
    """Run programs of iteration 0 that have no outcome yet on the baselines' block; a failure is an outcome."""
    pending = [row for row in rows if row.status is None]
    if not pending:
        return
    name = pending[0].kind
    with run.view.phase(run.directory, 0, name, len(pending)) as advance, run.parts.open_worker() as worker:
        known = run.store.known_results(name)
        for row in pending:
            record(run, row.id, worker.run(program_of(row), prompts_of(run.block_of(0)), known), known, run.block_of(0))
            advance(1)


def _fix_block(run: Run, worker: Worker, seed: CandidateRow) -> None:
    """Record how many questions a round of a race asks: as configured, or by the measured cost of a swap."""
    store, config = run.store, run.config
    size = len(run.block_of(1))
    most = size - held_out_count(config, size)
    if store.get_meta(RACE_BLOCK) is None:
        block = config.race.block or _measured_block(run, worker, seed, most)
        store.set_meta(RACE_BLOCK, str(min(block, most)))
    least = least_budget(config.generate.samples, size, race_rules(run))
    if config.race.budget is not None and config.race.budget < least:
        raise UsageError(
            f"race.budget {config.race.budget} given; {config.generate.samples} samples and {size} dev questions need "
            f"at least {least} question-evaluations (a first block for each, all for race.keep {config.race.keep})"
        )


def _measured_block(run: Run, worker: Worker, seed: CandidateRow, most: int) -> int:
    prompts = prompts_of(run.block_of(0))
    program = program_of(seed)
    digest = worker.run(program, prompts[:1], ()).result_hash
    if digest is None:
        raise StageError("the seed does not run in the sandbox")
    few, many = min(PROBE_QUESTIONS, len(prompts)), len(prompts)
    small, large = (min(_timed(worker, program, prompts[:n], digest) for _ in range(2)) for n in (few, many))
    question = max(1e-6, (large - small) / max(1, many - few))
    swap = max(0.0, small - few * question)
    block = choose_block(swap, question, lowest=min(8, most), highest=max(8, most))
    run.directory.log(f"race: a swap takes {swap:.4f} s, a question {question:.4f} s; block {block}")
    return block


def _timed(worker: Worker, program: MergeProgram, prompts: Sequence[str], digest: str) -> float:
    begun = time.perf_counter()
    worker.again(program, prompts, digest)
    return time.perf_counter() - begun


# -- an iteration -----------------------------------------------------------------------------------------------------


def evaluate_iteration(run: Run, iteration: int, kind: str = "generated", budget: int | None = None) -> None:
    """Run an iteration's programs that have no outcome yet; score all, or let them race.

    Args:
        run: the run.
        iteration: 1, 2, ...
        kind: whose programs: the run's own, or a control's.
        budget: question-evaluations instead of `race.budget`; for controls.
    """
    with lazy_worker(run) as worker:
        racing = run.config.race.enabled
        questions = run.block_of(iteration)
        opening = questions[: race_rules(run).block] if racing else questions
        pending = [row for row in run.store.candidates(iteration, kind) if row.status is None]
        if pending:
            with run.view.phase(run.directory, iteration, f"{_label(kind)}evaluate", len(pending)) as advance:
                known = run.store.known_results(kind)
                for row in pending:
                    record(run, row.id, worker().run(program_of(row), prompts_of(opening), known), known, opening)
                    advance(1)
        if racing:
            _race(run, iteration, kind, worker, budget)


def _race(run: Run, iteration: int, kind: str, worker: Callable[[], Worker], budget: int | None) -> None:
    state = race_state(run, iteration, kind, budget)
    if state is None:
        return
    if state.blocks:
        questions = run.block_of(iteration)
        with run.view.phase(run.directory, iteration, f"{_label(kind)}race", None) as advance:
            while state.blocks:
                rows = {row.id: row for row in run.store.candidates(iteration, kind)}
                for block in state.blocks:
                    asked = [questions[position] for position in block.positions]
                    answer_again(run, worker(), rows[block.candidate], asked)
                    advance(len(asked))
                state = race_state(run, iteration, kind, budget)
                assert state is not None
    run.store.set_standings(_standings(state))


def race_state(run: Run, iteration: int, kind: str, budget: int | None = None) -> RaceState | None:
    """Where the race of an iteration stands after the answers recorded so far; None where nobody entered."""
    block = run.config.block_of(iteration)
    answers = run.store.verdicts(iteration, kind, block)
    if not answers:
        return None
    rules = race_rules(run)
    if budget is not None:
        rules = replace(rules, budget=budget)
    seed = run.store.seed_verdicts(block)
    return race(range(len(seed)), seed, answers, rules, _withdrawn(run.store, iteration, kind, answers, rules))


def _withdrawn(
    store: Store, iteration: int, kind: str, answers: Mapping[str, Sequence[bool | None]], rules: RaceRules
) -> dict[str, int]:
    """Who left by refusal or failure, and after how many race questions."""
    out = {
        row.id
        for row in store.candidates(iteration, kind)
        if row.id in answers and (row.refused is not None or row.status is not ExecutionStatus.OK)
    }
    return {i: sum(v is not None for v in answers[i][: len(answers[i]) - rules.held_out]) for i in sorted(out)}


def _standings(state: RaceState) -> dict[str, RaceStanding]:
    finalists = set(state.finalists)
    return {
        s.candidate: RaceStanding(
            place, s.asked, s.correct, s.wins, s.losses, None if s.dropped is None else str(s.dropped),
            s.candidate in finalists,
        )
        for place, s in enumerate(state.standings)
    }  # fmt: skip


# -- finals -----------------------------------------------------------------------------------------------------------


def run_finals(run: Run, kind: str = "generated") -> None:
    """The best of every iteration on the baselines' block of questions, which they have not met."""
    if run.config.blocks == 1:
        return
    while waiting := finalists(run, kind):
        name = f"{_label(kind)}finals"
        with run.view.phase(run.directory, 0, name, len(waiting)) as advance, run.parts.open_worker() as worker:
            for row in waiting:
                answer_again(run, worker, row, run.block_of(0))
                advance(1)


def finalists(run: Run, kind: str = "generated") -> list[CandidateRow]:
    """Who is still to answer in the finals: the `dev.finalists` best of each iteration.

    Who has answered keeps its place, though it may have been refused since: a second start calls in nobody else.
    """
    found = []
    for iteration in range(1, run.iterations + 1):
        rows = {row.id: row for row in run.store.candidates(iteration, kind)}
        done = run.store.verdicts(iteration, kind, 0)
        best = [c for c in ranked(run.store.scored(iteration, kind)) if c.score is not None and c.id not in done]
        found += [rows[c.id] for c in best[: max(0, run.config.dev.finalists - len(done))]]
    return found


def confirm(worker: Worker, row: CandidateRow, run: Run) -> bool:
    """Run a scored program again, without questions; record it as nondeterministic where the bits differ.

    Raises:
        StageError: it did not end this time (say, a timeout on a busy machine); nothing is recorded.
    """
    outcome = worker.again(program_of(row), (), str(row.result_hash))
    if outcome.status is ExecutionStatus.OK:
        return True
    if outcome.status is not ExecutionStatus.NONDETERMINISTIC:
        raise StageError(
            f"program {row.id} ran before and now ended with {outcome.status} ({outcome.error}); run again"
        )
    run.store.record_outcome(row.id, outcome, None)
    return False


# -- one program ------------------------------------------------------------------------------------------------------


def record(run: Run, candidate_id: str, outcome: Outcome, known: dict[str, str], questions: Sequence[Question]) -> None:
    """One program's outcome and graded dev answers, in one transaction."""
    digests = [digest for digest in (outcome.fingerprint, outcome.result_hash) if digest is not None]
    duplicate_of = next((known[digest] for digest in digests if digest in known), None)
    answers = () if outcome.completions is None else score(questions, outcome.completions, run.parts.task.grade)
    with run.store.transaction():
        refused = refusal(answers, run.config.evaluate.max_truncated)
        run.store.record_outcome(candidate_id, outcome, duplicate_of, refused)
        run.store.add_answers(candidate_id, answers)
    for digest in digests:
        known.setdefault(digest, duplicate_of or candidate_id)


def answer_again(run: Run, worker: Worker, row: CandidateRow, questions: Sequence[Question]) -> None:
    """More answers of a program that has run; one that fails now loses its score and keeps its answers."""
    outcome = worker.again(program_of(row), prompts_of(questions), str(row.result_hash))
    if outcome.completions is None:
        run.store.record_outcome(row.id, outcome, None)
        return
    add_answers(run, row, questions, outcome.completions)


def add_answers(run: Run, row: CandidateRow, questions: Sequence[Question], completions: Sequence[Completion]) -> None:
    """Record graded answers of a program that has run, and whether too many of all it gave were cut; not on test."""
    store = run.store
    answers = score(questions, completions, run.parts.task.grade)
    with store.transaction():
        store.add_answers(row.id, answers)
        every = [*store.answers(row.id, Split.DEV), *store.answers(row.id, Split.STUDY)]
        store.set_refused(row.id, refusal(every, run.config.evaluate.max_truncated))


def program_of(row: CandidateRow) -> MergeProgram:
    assert row.source is not None  # a sample without a program has its outcome already
    return MergeProgram(row.id, row.source, row.execution_seed)


def prompts_of(questions: Iterable[Question]) -> list[str]:
    return [question.prompt for question in questions]


def _note_isolation(store: Store, worker: Worker) -> None:
    """The weakest level of all sittings is the run's."""
    if store.get_meta("isolation") in (None, "full"):
        store.set_meta("isolation", worker.isolation)


def _label(kind: str) -> str:
    return "" if kind == "generated" else f"{kind} "

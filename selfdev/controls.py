"""Equal-budget controls: what the same question-evaluations find without the method.

    untrained   the same generator, never trained: the same temperatures, other random streams
    grammar     random programs of the grammar that the zoo's generator was pretrained on
    random      random coefficients and densities of human-designed rules
    tpe, cma    the same under a black-box optimiser (optuna); cma searches Task Arithmetic's weights
    tuned       every human-designed method: its default first, then points of its tuning grid

A control has as many iterations as the run, asks the same questions in each and may spend as many question-evaluations
as the run spent there. Programs drawn in bulk race by the run's rules; what a race leaves over buys further programs
that answer everything. An optimiser is told the score of each of its programs on the race questions. The best of each
iteration meet the same last block, and the best of all is registered for `selfdev test`. What is left unspent is less
than one program's questions per iteration; the reports show the sum.

Programs that repeat one of the same control are not scored again; those of the run and of other controls are unknown.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from selfdev.baselines.registry import METHODS, Value, defaults, described, method_source, points, programs
from selfdev.errors import UsageError
from selfdev.evaluation import (
    Run,
    answer_again,
    check_ended,
    confirm,
    evaluate_iteration,
    held_out_count,
    lazy_worker,
    program_of,
    prompts_of,
    race_rules,
    record,
    run_finals,
)
from selfdev.generate import extract_program, stream_seed, temperature
from selfdev.pair import in_finals
from selfdev.race import least_budget
from selfdev.stats import discordant
from selfdev.store import CandidateRow, candidate_id, program_row, sample_row
from selfdev.types import ExecutionStatus, RaceStanding, SampleRequest

if TYPE_CHECKING:
    import optuna

ARMS = ("untrained", "grammar", "random", "tpe", "cma", "tuned")
OPTIMISERS = ("tpe", "cma")
MOST_DRAWS = 4  # times the run's samples per iteration: a generator that hardly ever writes a valid program ends
HIGHEST_WEIGHT = 1.2
RULES = ("task_arithmetic", "ties", "dare_ties", "breadcrumbs", "della_linear")  # of random and tpe

Draw = Callable[[int, Sequence[int]], Iterator[CandidateRow]]  # iteration, indices -> programs


def control(run: Run, arm: str, repeat: int = 0) -> str:
    """Run or continue one control; returns its kind in the store.

    Raises:
        UsageError: no such control, or optuna is missing.
        RunError: the run itself has not ended.
    """
    if arm not in ARMS:
        raise UsageError(f"there is no control {arm!r}; there are: {', '.join(ARMS)}")
    check_ended(run.store, run.config)
    kind = arm if repeat == 0 else f"{arm} {repeat + 1}"
    for iteration in range(1, run.iterations + 1):
        budget = budget_of(run, iteration)
        if arm in OPTIMISERS:
            _optimise(run, iteration, kind, arm, budget)
        else:
            _sample(run, iteration, kind, arm, budget)
    run_finals(run, kind)
    _register(run, kind)
    return kind


def budget_of(run: Run, iteration: int) -> int:
    """Question-evaluations that the run spent on the questions of an iteration."""
    return spent(run, iteration, "generated")


def spent(run: Run, iteration: int, kind: str) -> int:
    """Question-evaluations of a kind in an iteration, finals apart."""
    return run.store.evaluations(kind, iteration, run.config.block_of(iteration))


# -- programs drawn in bulk -------------------------------------------------------------------------------------------


def _sample(run: Run, iteration: int, kind: str, arm: str, budget: int) -> None:
    draw = drawing(run, kind, arm)
    if run.config.race.enabled:
        entrants = _affordable(run, iteration, budget)
        _draw_up_to(run, iteration, kind, draw, entrants)
        if entrants and not run.store.standings_of(iteration, kind):
            evaluate_iteration(run, iteration, kind, budget)
    _fill(run, iteration, kind, draw, budget)


def _affordable(run: Run, iteration: int, budget: int) -> int:
    """As many programs as the run drew, or fewer where the budget does not open a race of so many."""
    rules, size = race_rules(run), len(run.block_of(iteration))
    count = run.config.generate.samples
    while count and least_budget(count, size, rules) > budget:
        count -= 1
    return count


def _draw_up_to(run: Run, iteration: int, kind: str, draw: Draw, count: int) -> None:
    drawn = len(run.store.candidates(iteration, kind))
    if drawn < count:
        with run.view.phase(run.directory, iteration, f"{kind} draw", count - drawn) as advance:
            for row in draw(iteration, range(drawn, count)):
                run.store.add_candidates([row])
                advance(1)


def _fill(run: Run, iteration: int, kind: str, draw: Draw, budget: int) -> None:
    """Spend what is left on further programs that answer everything."""
    questions = run.block_of(iteration)
    most = MOST_DRAWS * run.config.generate.samples
    left = budget - spent(run, iteration, kind)
    if left < len(questions):
        return
    with (
        lazy_worker(run) as worker,
        run.view.phase(run.directory, iteration, f"{kind} fill", left // len(questions)) as advance,
    ):
        known = run.store.known_results(kind)
        while left >= len(questions):
            waiting = [row for row in run.store.candidates(iteration, kind) if row.status is None]
            if not waiting:
                drawn = len(run.store.candidates(iteration, kind))
                wanted = min(most - drawn, max(1, left // len(questions)))
                rows = list(draw(iteration, range(drawn, drawn + wanted))) if wanted > 0 else []
                if not rows:
                    break
                run.store.add_candidates(rows)
                continue
            outcome = worker().run(program_of(waiting[0]), prompts_of(questions), known)
            record(run, waiting[0].id, outcome, known, questions)
            now = budget - spent(run, iteration, kind)
            advance(int(now < left))
            left = now
    _place_all(run, iteration, kind)


def _place_all(run: Run, iteration: int, kind: str) -> None:
    """After a race: standings with those that came later and answered everything, among the finalists."""
    if not run.config.race.enabled:
        return
    block = run.config.block_of(iteration)
    table, seed = run.store.verdicts(iteration, kind, block), run.store.seed_verdicts(block)
    raced = len(seed) - held_out_count(run.config, len(seed))
    old = run.store.standings_of(iteration, kind)

    def standing(candidate: str) -> RaceStanding:
        if candidate in old and old[candidate].dropped is not None:
            return old[candidate]
        row = table[candidate][:raced]
        wins, losses, asked = discordant(row, seed[:raced])
        return RaceStanding(0, asked, sum(map(bool, row)), wins, losses, None, None not in table[candidate])

    every = {candidate: standing(candidate) for candidate in table}
    order = sorted(every, key=lambda i: (not every[i].finalist, every[i].dropped is not None, -every[i].asked,
                                         -every[i].correct, i))  # fmt: skip
    run.store.set_standings({i: replace(every[i], place=place) for place, i in enumerate(order)})


def drawing(run: Run, kind: str, arm: str) -> Draw:
    """How the programs of a control that draws in bulk are made; every program has its own random stream."""
    if arm == "untrained":
        return lambda iteration, indices: _untrained(run, kind, iteration, indices)
    if arm == "tuned":
        return _tuned(run, kind)
    make = _grammar_program if arm == "grammar" else _random_program

    def draw(iteration: int, indices: Sequence[int]) -> Iterator[CandidateRow]:
        for index in indices:
            rng = random.Random(stream_seed(run.config.seed, kind, iteration, index))
            name, source = make(rng, len(run.config.models.sources))
            yield _row(run, kind, iteration, index, name, source)

    return draw


def _row(run: Run, kind: str, iteration: int, index: int, name: str, source: str) -> CandidateRow:
    seed = stream_seed(run.config.seed, f"{kind} execute", iteration, index)
    return program_row(kind, name, iteration, index, source, seed)


def _untrained(run: Run, kind: str, iteration: int, indices: Sequence[int]) -> Iterator[CandidateRow]:
    config, generator = run.config, run.parts.generator
    heat = temperature(iteration, config.generate.temperature, config.generate.decay)
    requests = [SampleRequest(i, stream_seed(config.seed, kind, iteration, i)) for i in indices]
    try:
        generator.load(None)
        for batch in generator.sample(run.parts.prompt, requests, heat):
            for s in batch:
                row = sample_row(s, candidate_id(kind, iteration, s.index, s.text), iteration, "base", heat,
                                 extract_program(s.text),
                                 stream_seed(config.seed, f"{kind} execute", iteration, s.index), kind)  # fmt: skip
                yield row
    finally:
        generator.close()


def _grammar_program(rng: random.Random, sources: int) -> tuple[str, str]:
    from selfdev.zoo.grammar import write_program

    return "", write_program(rng)


def _random_program(rng: random.Random, sources: int) -> tuple[str, str]:
    return _program(RULES[rng.randrange(len(RULES))], sources, lambda _, low, high: rng.uniform(low, high))


def _program(rule: str, sources: int, choose: Callable[[str, float, float], float]) -> tuple[str, str]:
    """(name, source) of a human-designed rule; `choose(name, low, high)` gives each of its numbers."""
    given: dict[str, Value]
    if rule == "task_arithmetic":
        given = {"WEIGHTS": tuple(round(choose(f"weight {i}", 0.0, HIGHEST_WEIGHT), 4) for i in range(sources))}
    else:
        share = "DROP" if rule == "dare_ties" else "DENSITY"
        low, high = (0.05, 0.95) if rule == "dare_ties" else (0.1, 0.85) if rule == "della_linear" else (0.05, 1.0)
        given = {share: round(choose(f"{rule} {share}", low, high), 4)}
        given["SCALE"] = round(choose(f"{rule} SCALE", 0.1, 1.5), 4)
    return described(rule, given), method_source(rule, **given)


def _tuned(run: Run, kind: str) -> Draw:
    """Defaults of all methods first, then their grids in turn, in a random order each; nothing twice."""
    listed = tuning_programs(len(run.config.models.sources), stream_seed(run.config.seed, kind, 0, 0))

    def draw(iteration: int, indices: Sequence[int]) -> Iterator[CandidateRow]:
        before = sum(len(run.store.candidates(i, kind)) for i in range(1, iteration))
        for index in indices:
            if before + index < len(listed):
                name, source = listed[before + index]
                yield _row(run, kind, iteration, index, name, source)

    return draw


def tuning_programs(sources: int, seed: int) -> list[tuple[str, str]]:
    """(name, source) of every point of every method that so many sources allow: defaults, then the grids in turn."""
    rng = random.Random(seed)
    first: list[tuple[str, str]] = []
    queues: list[list[tuple[str, str]]] = []
    for row in METHODS:
        if row.name == "zero" or not row.sources[0] <= sources:
            continue
        own = [(described(row.name, p), source) for p in points(row.name, sources) for source in programs(row.name, p)]
        if not (row.name == "single_source" or row.name == "subset_average"):
            default = defaults(row.name, sources)
            first += [(row.name, source) for source in programs(row.name, default)]
        rng.shuffle(own)
        queues.append(own)
    listed = first
    while any(queues):
        for queue in queues:
            if queue:
                listed.append(queue.pop())
    unique = dict.fromkeys(source for _, source in listed)
    names = {source: name for name, source in reversed(listed)}
    return [(names[source], source) for source in unique]


# -- programs that an optimiser asks for, one after another -----------------------------------------------------------


def _optimise(run: Run, iteration: int, kind: str, arm: str, budget: int) -> None:
    questions = run.block_of(iteration)
    rules = race_rules(run) if run.config.race.enabled else None
    held = 0 if rules is None else rules.held_out
    kept = 0 if rules is None else rules.keep
    raced = questions[: len(questions) - held]
    trials = max(0, (budget - kept * held) // len(raced))
    done = run.store.candidates(iteration, kind)
    placed = run.store.standings_of(iteration, kind).values()
    ended = rules is None or any(standing.finalist for standing in placed)
    if len(done) >= trials and all(row.status is not None for row in done) and ended:
        return
    study = _study(arm, stream_seed(run.config.seed, kind, iteration, 0) % 2**32)
    block = run.config.block_of(iteration)
    name = f"{kind} optimise"
    with run.view.phase(run.directory, iteration, name, trials) as advance, run.parts.open_worker() as worker:
        known = run.store.known_results(kind)
        for index in range(trials):
            trial = study.ask()
            label, source = _asked(trial, arm, len(run.config.models.sources))
            row = _row(run, kind, iteration, index, label, source)
            run.store.add_candidates([row])
            row = run.store.candidate(row.id)
            if row.status is None:
                record(run, row.id, worker.run(program_of(row), prompts_of(raced), known), known, raced)
                row = run.store.candidate(row.id)
            verdicts = run.store.verdicts(iteration, kind, block).get(row.duplicate_of or row.id)
            study.tell(trial, _value(row, verdicts, len(raced)))
            advance(1)
        if rules is not None:
            _place_all(run, iteration, kind)
            best = sorted(run.store.standings_of(iteration, kind).items(), key=lambda item: item[1].place)
            for candidate, _ in best[:kept]:
                row = run.store.candidate(candidate)
                if row.status is ExecutionStatus.OK and row.refused is None:
                    answer_again(run, worker, row, questions[len(raced) :])
            _place_all(run, iteration, kind)


def _value(row: CandidateRow, verdicts: Sequence[bool | None] | None, asked: int) -> float:
    """What an optimiser is told: the share of right answers; the worst value for what has none."""
    if row.status is not ExecutionStatus.OK or verdicts is None:
        return 0.0
    return sum(bool(v) for v in verdicts[:asked]) / asked


def _study(arm: str, seed: int) -> optuna.Study:
    try:
        import optuna
    except ImportError:
        raise UsageError("controls tpe and cma need optuna: pip install 'selfdev[controls]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler: Any
    if arm == "tpe":
        sampler = optuna.samplers.TPESampler(seed=seed)
    else:
        sampler = optuna.samplers.CmaEsSampler(seed=seed)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _asked(trial: optuna.Trial, arm: str, sources: int) -> tuple[str, str]:
    rule = "task_arithmetic" if arm == "cma" else trial.suggest_categorical("rule", RULES)
    return _program(rule, sources, trial.suggest_float)


# -- the end ----------------------------------------------------------------------------------------------------------


def _register(run: Run, kind: str) -> None:
    """Name the control's best for `selfdev test`."""
    role = f"control {kind}"
    if role in run.store.winners():
        return
    with run.view.phase(run.directory, 0, f"{kind} confirm", None), run.parts.open_worker() as worker:
        while order := in_finals(run.store.scored(kind=kind)):
            if confirm(worker, run.store.candidate(order[0].id), run):
                run.store.register({role: order[0].id})
                return

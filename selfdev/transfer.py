"""What a run found, tried on other siblings with its numbers as they are (transfer, arXiv 2410.15639).

The run's best distinct programs, by its own ranking, are named before any question is asked. They run as they are on
task vectors of other models, in a run directory of their own: the same task, other sources. Beside them stand the
baselines of every run and the human-designed methods RE-TUNED on these models with a stated number of
question-evaluations (`selfdev.tuning`). All answer one block of dev questions, of those that the run asked nowhere
where the task has as many. The programs, the seed and the best baseline, tuned ones among them, are registered, so that
`selfdev test` can open the sealed test set for them: the same questions as the run's, so how often the run's was opened
is kept beside.

On dev the best baseline is the best of many on these very questions, which flatters it; the transferred programs were
chosen on other models. A program that is written for another number of sources fails, and its row says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from pydantic import ValidationError

from selfdev import tuning
from selfdev.config import RunConfig
from selfdev.errors import RunError, UsageError
from selfdev.estimates import best_baseline
from selfdev.evaluation import Run, evaluate_listed
from selfdev.generate import stream_seed
from selfdev.methods import NAMES
from selfdev.pair import overall
from selfdev.store import TRANSFER, Store, program_row
from selfdev.types import ExecutionStatus
from selfdev.wiring import load_run_task

KIND = "transfer"
TUNED_PROGRAMS = 150  # a tuning budget by default: so many programs that answer the block; defaults are about 40
PERMUTATIONS = 10_000


@dataclass(frozen=True, slots=True)
class Entrant:
    """A program of a run on its way to other models."""

    rank: int  # in its run; 1 is the best
    id: str  # in its run
    source: str
    execution_seed: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.id}, rank {self.rank}"


def entrants(store: Store, top: int) -> list[Entrant]:
    """The best distinct programs that a run discovered.

    Raises:
        RunError: it has none.
    """
    best = overall(store.scored())[:top]
    if not best:
        raise RunError(f"{store.path.parent} has no scored program yet; `selfdev run` with its configuration goes on")
    rows = [store.candidate(c.id) for c in best]
    return [Entrant(rank, row.id, str(row.source), row.execution_seed) for rank, row in enumerate(rows, start=1)]


def config_for(config: RunConfig, sources: Sequence[str], seed_model: str | None) -> RunConfig:
    """The run's configuration with other models.

    Raises:
        UsageError: no sources, one twice, or the run's own.
    """
    values: dict[str, Any] = json.loads(config.to_json())
    seed = seed_model or config.models.seed
    if (seed, sorted(sources)) == (config.models.seed, sorted(config.models.sources)):
        raise UsageError(f"{' '.join(sources)} are the models of the run itself; give other --sources")
    values["models"] |= {"seed": seed, "sources": list(sources)}
    try:
        return RunConfig.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UsageError(f"--sources {' '.join(sources)} given: {error.errors()[0]['msg']}") from None


def warnings_for(config: RunConfig, sources: Sequence[str]) -> list[str]:
    """What a comparison on these sources cannot say, though it may be asked for."""
    own = config.models.sources
    shared = [source for source in sources if source in own]
    found = [f"{source} is a source of the run itself; its programs were chosen on it" for source in shared]
    if len(sources) != len(own):
        found.append(f"{len(sources)} sources given, the run has {len(own)}; programs written for so many may fail")
    return found


def on_fresh(config: RunConfig) -> RunConfig:
    """The same on dev questions that the run asked nowhere; as it is where the task has too few of them."""
    fresh = config.model_copy(update={
        "dev": config.dev.model_copy(update={"fresh": True}),
        "race": config.race.model_copy(update={"enabled": False}),
    })  # fmt: skip
    try:
        load_run_task(fresh)
    except UsageError:
        return config
    return fresh


def check_methods(methods: Sequence[str]) -> None:
    """
    Raises:
        UsageError: no such method.
    """
    for name in methods:
        if name not in NAMES:
            raise UsageError(f"--methods {name} given; there are: {', '.join(NAMES)}")


def tuning_budget(config: RunConfig, methods: Sequence[str], given: int | None) -> int:
    """Question-evaluations to re-tune these methods with.

    Raises:
        UsageError: no point of a grid would be tried, or the block is too small.
    """
    size, seed = config.task.dev_size, stream_seed(config.seed, tuning.KIND, 0, 0)
    tuning.check_block(size)
    programs = tuning.least_programs(methods, len(config.models.sources), seed)
    if given is not None and given < programs * size:
        raise UsageError(
            f"--budget {given} given; the defaults of {len(methods)} methods and one more point are {programs} "
            f"programs x {size} questions: give at least {programs * size}, or fewer methods (--methods)"
        )
    return given or max(TUNED_PROGRAMS, programs) * size


def directory_name(config: RunConfig) -> str:
    """Of a transfer to these models, below the run."""
    models = "|".join((config.models.seed, *config.models.sources))
    return f"transfer-{hashlib.sha256(models.encode()).hexdigest()[:8]}"


def evaluations(run_config: RunConfig, baselines: int, programs: int, budget: int) -> int:
    """Question-evaluations of a transfer at most: seed on every block and one twice, the rest on one, tuning."""
    block, blocks = run_config.task.dev_size, 1 if run_config.dev.fresh else run_config.blocks
    return block * (blocks + baselines + programs) + budget


def transfer(
    run: Run, named: Sequence[Entrant], budget: int, methods: Sequence[str] = NAMES, openings: int = 0
) -> None:
    """Score the named programs and tune the baselines; register who is to be tested.

    Args:
        run: a directory of other models, whose baselines are scored.
        named: from `entrants`; the directory keeps its first list.
        budget: question-evaluations for tuning; a larger one goes on until the list is registered.
        methods: to tune; the directory keeps its first ones.
        openings: how often the test set of the programs' run has been opened; the first figure stays.

    Raises:
        UsageError: the budget tunes nothing.
        RunError: begun with another list, or other methods.
    """
    tuning_budget(run.config, methods, budget)
    rows = [program_row(KIND, e.name, 0, e.rank, e.source, e.execution_seed) for e in named]
    begun = run.store.candidates(0, KIND)
    if begun and [row.id for row in begun] != [row.id for row in rows]:
        raise RunError(
            f"{run.directory.path} was begun with another list ({len(begun)} programs, the first {begun[0].name}); "
            "give the --top of then, or another --out"
        )
    facts = run.store.get_meta(TRANSFER)
    if facts is not None and json.loads(facts)["methods"] != sorted(methods):
        said = " ".join(f"--methods {name}" for name in json.loads(facts)["methods"])
        raise RunError(f"{run.directory.path} was begun with {said}; give the same, or another --out")
    with run.store.transaction():
        run.store.add_candidates(rows)
        if facts is None:
            given = {"methods": sorted(methods), "fresh": run.config.dev.fresh, "openings": openings}
            run.store.set_meta(TRANSFER, json.dumps(given))
    evaluate_listed(run, run.store.candidates(0, KIND))
    if "baseline" not in run.store.winners():
        tuning.tune(run, methods, budget)
        register(run.store)


def register(store: Store) -> None:
    """Name the seed, the best baseline and every transferred program that has a merge of its own."""
    seed = next(row.id for row in store.baselines() if row.kind == "seed")
    roles = {"seed": seed, "baseline": best_baseline(store, tuning.KIND).id}
    for row in store.candidates(0, KIND):
        if row.status is ExecutionStatus.OK and row.duplicate_of is None and row.refused is None:
            roles[f"{KIND} {row.index}"] = row.id
    store.register(roles)


def rank_correlation(ranks: Sequence[int], scores: Sequence[float]) -> tuple[float, float] | None:
    """Spearman's correlation of being ranked better there with scoring better here, and its two-sided p-value.

    The p-value is the share of 10,000 seeded random orders (the one that is there among them) whose correlation is at
    least as far from 0. None for fewer than three programs, or where all score alike.
    """
    if len(ranks) < 3 or len(set(scores)) < 2:
        return None
    from scipy.stats import rankdata

    good, here = (rankdata(values).tolist() for values in ([-rank for rank in ranks], scores))
    found = _pearson(good, here)
    rng, shuffled, extreme = Random(0), list(here), 1
    for _ in range(PERMUTATIONS - 1):
        rng.shuffle(shuffled)
        extreme += abs(_pearson(good, shuffled)) >= abs(found) - 1e-12
    return found, extreme / PERMUTATIONS


def _pearson(first: Sequence[float], second: Sequence[float]) -> float:
    a, b = sum(first) / len(first), sum(second) / len(second)
    both = sum((x - a) * (y - b) for x, y in zip(first, second, strict=True))
    spread = sum((x - a) ** 2 for x in first) * sum((y - b) ** 2 for y in second)
    return float(both / spread**0.5)

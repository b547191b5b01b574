"""Transfers between scripted runs: named first, scored on one block, registered, tested by the ledger; they resume."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import spearmanr
from typer.testing import CliRunner

from selfdev import final, loop, transfer, tuning
from selfdev.cli import app
from selfdev.config import RunConfig
from selfdev.errors import RunError, UsageError
from selfdev.evaluation import Run, check_ended
from selfdev.methods import NAMES
from selfdev.pair import overall
from selfdev.report import test as tested
from selfdev.report.live import RunView
from selfdev.report.transfer import ranking, transfer_report
from selfdev.rundir import RunDirectory
from selfdev.store import Store
from selfdev.transfer import Entrant, config_for, directory_name, entrants, rank_correlation, warnings_for
from selfdev.wiring import load_run_task
from tests.scripted import HashedWorker, quality, racing_config, racing_parts


def there(source: str) -> float | None:
    """On the run's own models."""
    return quality(source)


def here(source: str) -> float | None:
    """On the others: discovered programs do a little worse, one in five needs another number of sources; TIES, which is
    no baseline of every run, does best."""
    found = quality(source)
    if "# quality" in source:
        return None if found is None or round(found * 100) % 5 == 0 else 0.9 * found
    designed = re.search(r"(?m)^[A-Z_]+ = ", source)
    if "DENSITY = " in source:
        return 0.95
    return found if not designed else 0.3 + int(hashlib.sha256(source.encode()).hexdigest()[:4], 16) / 65536 / 3


@contextmanager
def opened(path: Path, config: RunConfig, of, workers=None):
    parts = racing_parts(quality_of=of, workers=workers)
    with open(os.devnull, "w") as sink, RunDirectory(path, config) as directory:
        directory.begin()
        run = Run(config, directory, parts, RunView(Console(file=sink)))
        loop.record_facts(run)
        yield run


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> list[Entrant]:
    path = tmp_path_factory.mktemp("transfer") / "run"
    config = racing_config(iterations=2)
    with opened(path, config, there) as run:
        loop.run(config, run.directory, run.parts, run.view)
        best = overall(run.store.scored())
        found = entrants(run.store, 6)
        assert [e.id for e in found] == [c.id for c in best[:6]]
        assert [e.rank for e in found] == [1, 2, 3, 4, 5, 6]
    return found


OTHER = ("zoo:solver-add-sub", "zoo:solver-add-mul", "zoo:solver-sub-mul")


TUNED = ("task_arithmetic", "ties")


def begin(path: Path, named: list[Entrant], budget: int = 400, workers=None, methods=TUNED) -> dict:
    config = config_for(racing_config(iterations=2), OTHER, None)
    with opened(path, config, here, workers) as run:
        loop.score_baselines(run)
        transfer.transfer(run, named, budget, methods, openings=2)
        return run.store.dump()


def test_programs_seed_and_best_baseline_meet_on_one_block_and_are_registered(named, tmp_path: Path) -> None:
    named = [*named, Entrant(7, "feedbeef0000", "def merge_models(t):\n    return t  # quality 0.500", 1)]  # fails here
    begin(tmp_path / "t", named)
    store = Store(tmp_path / "t" / "store.sqlite", read_only=True)
    rows, roles = store.candidates(0, transfer.KIND), store.winners()
    failed = [row for row in rows if row.status != "ok"]
    assert "feedbeef0000, rank 7" in [row.name for row in failed]
    assert [row.execution_seed for row in rows] == [e.execution_seed for e in named]
    assert set(roles) == {"seed", "baseline", *(f"transfer {r.index}" for r in rows if r.status == "ok")}
    counts = store.final_counts()
    designed = [*store.baselines(), *store.candidates(0, tuning.KIND)]
    best = max(counts[r.id].correct for r in designed if r.kind != "seed" and r.id in counts)
    assert counts[roles["baseline"]].correct == best
    assert store.candidate(roles["baseline"]).kind == tuning.KIND
    assert 0 < store.evaluations(tuning.KIND) <= 400
    assert len({counts[r.id].total for r in rows if r.id in counts}) == 1
    text = printed(transfer_report(store))
    assert "Spearman" in text
    assert "exception" in text
    assert all(e.id in text for e in named)
    store.close()


def test_the_sealed_test_set_opens_by_its_ledger(named, tmp_path: Path) -> None:
    begin(tmp_path / "t", named)
    config = config_for(racing_config(iterations=2), OTHER, None)
    with opened(tmp_path / "t", config, here) as run:
        scored = len(set(run.store.winners().values()))
        assert final.test(run) == scored
        assert run.store.openings() == 1
        found = tested.comparisons(run.store)
        assert {c.against for c in found} == {"seed", "baseline"}
        assert len(found) == 2 * len(ranking(run.store))
        text = printed(tested.test_report(run.store))
        assert "are better than the seed" in text
        assert all(run.store.candidate(i).name in text for role, i in run.store.winners().items() if "transfer" in role)
        table = " ".join(printed(transfer_report(run.store)).split())
        assert "test, 95 %" in table
        said = "Test questions: the same set as that run's, which had been opened 2 times when this began"
        assert said in table
        assert said in " ".join(text.split())
        assert "those of the run that the programs were chosen on" in table


def test_a_budget_that_tunes_nothing_is_refused(named, tmp_path: Path) -> None:
    config = config_for(racing_config(iterations=2), OTHER, None)
    assert transfer.tuning_budget(config, TUNED, None) == 150 * 40
    assert transfer.tuning_budget(config, TUNED, 120) == 120  # two defaults and one more point
    with pytest.raises(UsageError, match="--budget 119 given; the defaults of 2 methods and one more point are 3"):
        transfer.tuning_budget(config, TUNED, 119)
    with pytest.raises(UsageError, match="give at least 120"):
        begin(tmp_path / "t", named, budget=119)
    begin(tmp_path / "t", named, budget=120)
    with opened(tmp_path / "t", config, here) as run:
        tried = {row.method: row.tried for row in tuning.tuned(run, TUNED)}
        assert sum(tried.values()) == 3
    every = transfer.tuning_budget(config, NAMES, None)  # by default a hundred points of grids are tried
    assert every // 40 - tuning.least_programs(NAMES, 3, 0) >= 100
    with pytest.raises(UsageError, match="--methods tie given"):
        transfer.check_methods(["tie"])


def test_a_block_that_is_too_small_to_tune_on_is_refused() -> None:
    tuning.check_block(6)  # four choose, two estimate
    with pytest.raises(UsageError, match="5 dev questions; tuning needs at least 6"):
        tuning.check_block(5)


def test_questions_are_those_that_the_run_asked_nowhere() -> None:
    config = config_for(racing_config(iterations=2), OTHER, None)
    fresh = transfer.on_fresh(config)
    own, other = load_run_task(config), load_run_task(fresh)
    assert (other.blocks, len(other.dev)) == (1, 40)
    assert not {q.id for q in other.dev} & {q.id for q in own.dev}
    assert other.test == own.test
    assert [q.skill for q in other.dev[:6]] != ["add", "sub", "mul"] * 2  # in random order
    assert fresh.block_of(1) == 0


def test_without_further_questions_the_run_s_own_are_asked(tmp_path: Path) -> None:
    lines = [f'{{"question": "What is {i} and 1?", "answer": "{i + 1}"}}' for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    given = {"task.name": "jsonl", "task.data": str(tmp_path / "rows.jsonl"), "task.test_size": 5}
    config = config_for(racing_config(iterations=1, **given, **{"task.dev_size": 6}), OTHER, None)
    assert transfer.on_fresh(config) == config  # 12 dev, 5 test, 3 more


def test_only_a_run_that_has_ended_is_transferred(tmp_path: Path) -> None:
    config = racing_config(iterations=2)
    with opened(tmp_path / "run", config, there) as run:
        loop.score_baselines(run)
        loop.run_iteration(run, 1)
        with pytest.raises(RunError, match="run has not ended"):
            check_ended(run.store, config)
    done = CliRunner().invoke(app, ["transfer", str(tmp_path / "run"), "--sources", *OTHER])
    assert isinstance(done.exception, RunError)
    assert "has not ended" in str(done.exception)


def test_it_continues_and_keeps_its_list(named, tmp_path: Path) -> None:
    whole = begin(tmp_path / "whole", named)

    class Stop(Exception):
        pass

    class Stopping(HashedWorker):
        left = 0

        def run(self, *args):
            Stopping.left -= 1
            if Stopping.left < 0:
                raise Stop
            return super().run(*args)

    stops = 0
    config = config_for(racing_config(iterations=2), OTHER, None)
    while True:
        Stopping.left = 30
        parts = racing_parts(quality_of=here, worker_class=Stopping)
        with open(os.devnull, "w") as sink, RunDirectory(tmp_path / "t", config) as directory:
            directory.begin()
            run = Run(config, directory, parts, RunView(Console(file=sink)))
            loop.record_facts(run)
            try:
                loop.score_baselines(run)
                transfer.transfer(run, named, 400, TUNED, openings=2)
            except Stop:
                stops += 1
                continue
            assert run.store.dump() == whole
            break
    assert stops >= 1
    with pytest.raises(RunError, match="begun with another list"):
        begin(tmp_path / "t", named[:3])
    with pytest.raises(RunError, match="begun with --methods task_arithmetic --methods ties"):
        begin(tmp_path / "t", named, methods=("ties",))
    assert begin(tmp_path / "t", named, budget=4000) == whole  # registered: nothing is added any more


def test_the_models_are_other_ones() -> None:
    config = racing_config()
    with pytest.raises(UsageError, match="are the models of the run itself"):
        config_for(config, config.models.sources[::-1], None)
    with pytest.raises(UsageError, match="names one model twice"):
        config_for(config, ("a", "a"), None)
    assert warnings_for(config, OTHER) == []
    assert warnings_for(config, (*OTHER, "zoo:solver-add")) == [
        "zoo:solver-add is a source of the run itself; its programs were chosen on it",
        "4 sources given, the run has 3; programs written for so many may fail",
    ]
    other = config_for(config, OTHER, "zoo:other-seed")
    assert other.models.seed == "zoo:other-seed"
    assert other.model_copy(update={"models": config.models}) == config
    assert directory_name(other) != directory_name(config_for(config, OTHER, None))


def test_rank_correlation_is_spearmans() -> None:
    ranks, scores = [1, 2, 3, 4, 5, 6, 7, 8], [9.0, 7.0, 8.0, 8.0, 3.0, 5.0, 4.0, 1.0]
    found = rank_correlation(ranks, scores)
    assert found is not None
    assert found[0] == pytest.approx(-spearmanr(ranks, scores).statistic)
    assert found[1] == pytest.approx(spearmanr(ranks, scores).pvalue, abs=0.01)
    assert rank_correlation([1, 2, 3], [3.0, 2.0, 1.0]) == (
        pytest.approx(1.0),
        pytest.approx(1 / 3, abs=0.02),
    )  # 2 of 3!
    # ranks there from the worst: 3 2 1; here the first two share 2.5, the last has 1: products of the deviations
    # 1 * 0.5 + 0 * 0.5 + -1 * -1 = 1.5, over sqrt(2 * 1.5)
    found = rank_correlation([1, 2, 3], [5.0, 5.0, 1.0])
    assert found is not None
    assert found[0] == pytest.approx(1.5 / 3**0.5)
    assert rank_correlation([1, 2], [1.0, 2.0]) is None
    assert rank_correlation([1, 2, 3], [1.0, 1.0, 1.0]) is None


def printed(what) -> str:
    console = Console(width=150, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(what)
    return console.export_text()

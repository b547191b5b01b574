"""The loop with races and fresh questions in every iteration: who was asked what, and what counts."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from selfdev import loop
from selfdev.config import RunConfig
from selfdev.errors import UsageError
from selfdev.evaluation import Run, race_state
from selfdev.race import RaceRules, race
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.stats import discordant
from selfdev.store import Store
from selfdev.types import ExecutionStatus, Outcome, Split
from selfdev.wiring import Parts
from tests.end_to_end.test_loop import KILLED, dump, killed_until_it_gets_through
from tests.scripted import HashedWorker, racing_config, racing_parts

RULES = RaceRules(block=8, held_out=12, keep=3, alpha=0.1)  # of `racing_config`: 40 questions, 30 % held out
SAMPLES = 24


def config_of(**overrides: object) -> RunConfig:
    return racing_config(**{"generate.samples": SAMPLES, "iterations": 2, "dev.finalists": 2,
                             "evaluate.max_truncated": 0.4, **overrides})  # fmt: skip


def run(path: Path, parts: Parts | None = None, **overrides: object) -> str:
    """One run (or its continuation); returns what it printed."""
    config = config_of(**overrides)
    with open(os.devnull, "w") as sink, RunDirectory(path, config) as directory:
        console = Console(record=True, width=160, file=sink)
        directory.begin()
        loop.run(config, directory, parts or racing_parts(), RunView(console))
        return console.export_text()


@contextmanager
def reading(path: Path) -> Iterator[Store]:
    store = Store(path / "store.sqlite", read_only=True)
    yield store
    store.close()


@contextmanager
def reopened(path: Path, **overrides: object) -> Iterator[Run]:
    config = config_of(**overrides)
    with open(os.devnull, "w") as sink, RunDirectory(path, config) as directory:
        directory.begin()
        yield Run(config, directory, racing_parts(), RunView(Console(file=sink)))


@dataclass(frozen=True)
class Finished:
    path: Path
    text: str
    workers: list[HashedWorker]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    path = tmp_path_factory.mktemp("racing") / "run"
    workers: list[HashedWorker] = []
    return Finished(path, run(path, racing_parts(workers=workers)), workers)


def questions_of(store: Store, candidate_id: str) -> list[int]:
    """Numbers of the dev questions that a candidate has answered."""
    return [int(a.question_id.removeprefix("dev-")) for a in store.answers(candidate_id, Split.DEV)]


# -- questions --------------------------------------------------------------------------------------------------------


def test_a_program_answers_its_iterations_block_and_only_the_best_the_finals(finished: Finished) -> None:
    with reading(finished.path) as store:
        for iteration in (1, 2):
            in_finals = 0
            for c in store.scored(iteration):
                blocks = {number // 40 for number in questions_of(store, c.id)}
                if c.duplicate_of is not None or c.status is not ExecutionStatus.OK:
                    assert blocks == set()
                    continue
                assert blocks in ({iteration}, {iteration, 0})
                assert (0 in blocks) == (c.final_correct is not None)
                in_finals += 0 in blocks
                if 0 in blocks:
                    assert sum(n < 40 for n in questions_of(store, c.id)) == 40 == c.final_total
                    assert c.standing is not None
                    assert c.standing.finalist
            assert in_finals == 2  # dev.finalists
        for row in store.candidates(0):
            blocks = {number // 40 for number in questions_of(store, row.id)}
            assert blocks == ({0, 1, 2} if row.kind == "seed" else set() if row.duplicate_of else {0})


def test_no_question_serves_two_iterations(finished: Finished) -> None:
    with reading(finished.path) as store:
        uses = store.question_uses()
        seed = next(row.id for row in store.candidates(0) if row.kind == "seed")
        others = len([r for r in store.candidates(0) if r.duplicate_of is None]) - 1
        assert [(block, who, iteration, used) for block, who, iteration, used, _ in uses] == [
            (0, "baselines", 0, 40), (0, "generated", 1, 40), (0, "generated", 2, 40),
            (1, "baselines", 0, 40), (1, "generated", 1, 40), (2, "baselines", 0, 40), (2, "generated", 2, 40),
        ]  # fmt: skip
        assert [count for *_, count in uses if count <= 80] == [40 * (1 + others), 80, 80, 40, 40]
        assert len(questions_of(store, seed)) == 120
        assert store.evaluations("generated") == sum(n for _, who, _, _, n in uses if who == "generated")


def test_blocks_and_held_out_questions_are_on_record(finished: Finished) -> None:
    with reading(finished.path) as store:
        assert store.get_meta("race block") == "8"
        assert [store.question_count(Split.DEV, block) for block in (None, 0, 1, 2, 3)] == [120, 40, 40, 40, 0]
        assert [store.question_count(Split.DEV, block, held_out=True) for block in (0, 1, 2)] == [12, 12, 12]
    db = sqlite3.connect(finished.path / "store.sqlite")
    rows = db.execute("SELECT block, turn, held_out FROM question WHERE split = 'dev' ORDER BY position").fetchall()
    db.close()
    assert rows == [(block, turn, int(turn >= 28)) for block in range(3) for turn in range(40)]


# -- the race ---------------------------------------------------------------------------------------------------------


def test_who_was_dropped_has_a_standing_and_no_score(finished: Finished) -> None:
    reasons: set[str] = set()
    with reading(finished.path) as store:
        for iteration in (1, 2):
            raced = [c for c in store.scored(iteration) if c.standing is not None and c.duplicate_of is None]
            gone = [c for c in raced if c.standing.dropped]
            reasons |= {c.standing.dropped for c in gone}
            for c in gone:
                assert (c.correct, c.score, c.gain, c.total, c.final_score) == (None, None, None, 0, None)
                asked = questions_of(store, c.id)
                assert len(asked) == c.standing.asked <= 28
                assert asked == list(range(40 * iteration, 40 * iteration + len(asked)))  # in the order of the block
                assert c.measured == c.standing.correct / c.standing.asked
            assert sorted(c.standing.place for c in raced) == list(range(len(raced)))
    assert reasons == {"futile", "beaten"}


def test_the_score_of_a_finalist_counts_held_out_questions_only(finished: Finished) -> None:
    with reading(finished.path) as store:
        seed = next(row.id for row in store.candidates(0) if row.kind == "seed")
        for iteration in (1, 2):
            best = [c for c in store.scored(iteration) if c.standing is not None and c.standing.finalist]
            assert len([c for c in best if c.duplicate_of is None]) == 3  # race.keep
            held = {f"dev-{n}" for n in range(40 * iteration + 28, 40 * iteration + 40)}
            for c in best:
                owner = c.duplicate_of or c.id
                right = [a.correct for a in store.answers(owner, Split.DEV) if a.question_id in held]
                seeds = [a.correct for a in store.answers(seed, Split.DEV) if a.question_id in held]
                assert (c.correct, c.total, len(right)) == (sum(right), 12, 12)
                assert (c.seed_correct, c.gain) == (sum(seeds), (sum(right) - sum(seeds)) / 12)
            survivors = [c for c in store.scored(iteration) if c.standing is not None and c.standing.dropped is None]
            assert all(c.score is None for c in survivors if not c.standing.finalist)


def test_scores_before_any_decision_are_those_of_the_first_block(finished: Finished) -> None:
    with reading(finished.path) as store:
        for c in store.scored(1):
            if c.standing is None or c.duplicate_of is not None:
                continue
            first = [a.correct for a in store.answers(c.id, Split.DEV) if 40 <= int(a.question_id[4:]) < 48]
            assert (c.opening_correct, c.opening_total) == (sum(first), 8)


def test_standings_are_those_of_a_fresh_replay_of_the_answers(finished: Finished) -> None:
    """The race core is given the verdicts read by plain SQL, in the recorded order of the questions."""
    db = sqlite3.connect(finished.path / "store.sqlite")
    seed_id = db.execute("SELECT id FROM candidate WHERE kind = 'seed'").fetchone()[0]
    with reading(finished.path) as store:
        for iteration in (1, 2):
            ids = [
                i for (i,) in db.execute(
                    "SELECT id FROM candidate WHERE iteration = ? AND status = 'ok' AND duplicate_of IS NULL",
                    (iteration,),
                )
            ]  # fmt: skip
            table = {}
            for i in (seed_id, *ids):
                rows = db.execute(
                    """SELECT position, correct FROM question LEFT JOIN answer ON question_id = question.id AND
                       candidate_id = ? WHERE split = 'dev' AND block = ? ORDER BY position""",
                    (i, iteration),
                )
                table[i] = [None if correct is None else bool(correct) for _, correct in rows]
            seed = table.pop(seed_id)
            state = race(range(40), seed, table, RULES)
            assert state.blocks == ()
            recorded = store.standings_of(iteration, "generated")
            assert [s.candidate for s in state.standings] == sorted(recorded, key=lambda i: recorded[i].place)
            for s in state.standings:
                r = recorded[s.candidate]
                assert (r.asked, r.correct, r.wins, r.losses) == (s.asked, s.correct, s.wins, s.losses)
                assert (r.wins, r.losses) == discordant(table[s.candidate][: s.asked], seed[: s.asked])[:2]
                assert r.dropped == (None if s.dropped is None else str(s.dropped))
            assert {i for i, r in recorded.items() if r.finalist} == set(state.finalists)
    db.close()


def test_a_race_asks_fewer_questions_than_asking_everyone(finished: Finished) -> None:
    with reading(finished.path) as store:
        entered = len([c for c in store.scored() if c.standing is not None and c.duplicate_of is None])
        spent = sum(n for block, who, _, _, n in store.question_uses() if who == "generated" and block)
        assert 2 * 3 * 40 < spent < 0.8 * entered * 40
    assert "question-evaluations instead of" in finished.text
    assert "finalists 3" in finished.text


def test_programs_run_once_and_go_on_by_their_recorded_bits(finished: Finished) -> None:
    runs = [i for worker in finished.workers for i in worker.runs]
    assert len(runs) == len(set(runs))
    with reading(finished.path) as store:
        for worker in finished.workers:
            for candidate_id, prompts in worker.again_prompts:
                assert store.candidate(candidate_id).result_hash is not None
                assert len(prompts) in (8, 4, 12, 40, 0, 13, 27)  # blocks, held out, finals, confirm, the seed's noise


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.randoms(use_true_random=False), share=st.sampled_from([0.1, 0.5, 1.0]))
def test_no_held_out_verdict_changes_a_standing(finished: Finished, flips, share: float) -> None:
    """Turn recorded held-out verdicts, of candidates and of the seed; the replay of the run must not notice."""
    with reopened(finished.path) as opened:
        db = opened.store._db
        db.execute("BEGIN")
        try:
            before = {i: race_state(opened, i, "generated") for i in (1, 2)}
            keys = db.execute(
                "SELECT candidate_id, question_id FROM answer JOIN question ON id = question_id WHERE held_out"
            ).fetchall()
            picked = [tuple(key) for key in keys if flips.random() < share]
            db.executemany("UPDATE answer SET correct = 1 - correct WHERE candidate_id = ? AND question_id = ?", picked)
            for i, state in before.items():
                after = race_state(opened, i, "generated")
                assert (after.standings, after.finalists) == (state.standings, state.finalists)
        finally:
            db.execute("ROLLBACK")


# -- the whole --------------------------------------------------------------------------------------------------------


def test_the_winner_is_the_best_of_the_finals(finished: Finished) -> None:
    with reading(finished.path) as store:
        met = [c for c in store.scored() if c.final_score is not None and c.duplicate_of is None]
        assert len(met) == 4
        best = max(met, key=lambda c: (c.final_score, -c.iteration, -c.index))
        assert store.winners()["winner"] == best.id
        counts = store.final_counts()
        assert {counts[i].total for i in store.winners().values()} == {40}  # all on the same questions
        assert store.openings() == 0


def test_the_same_command_again_does_nothing(finished: Finished) -> None:
    before = dump(finished.path)

    def refuse(*_: object) -> None:
        raise AssertionError("must not be called")

    run(finished.path, replace(racing_parts(), generator=None, trainer=None, open_worker=refuse))
    assert dump(finished.path) == before


def test_the_same_seed_gives_the_same_store(finished: Finished, tmp_path: Path) -> None:
    run(tmp_path / "again")
    assert dump(tmp_path / "again") == dump(finished.path)


class Failing(HashedWorker):
    """The best program of the first iteration does not run again after its first block."""

    stops = "0.930"  # its quality
    passes = 0  # calls of `again` that still go well
    status = ExecutionStatus.CRASH

    def again(self, program, prompts, expected):
        if f"# quality {self.stops}" in program.source:
            if self.passes == 0:
                return Outcome(self.status, "gone")
            self.passes -= 1
        return super().again(program, prompts, expected)


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_a_candidate_that_fails_while_it_races_leaves_the_race(passes: int, tmp_path: Path) -> None:
    """It fails before round 2, before round 3, or on the held-out questions; the others' race goes on."""
    worker = type("Failing", (Failing,), {"passes": passes})
    shared: list[HashedWorker] = []
    run(tmp_path / "run", racing_parts(2, shared, worker), iterations=1)
    with reading(tmp_path / "run") as store:
        gone = next(c for c in store.scored(1) if "quality 0.930" in c.source)
        assert gone.status is ExecutionStatus.CRASH
        assert (gone.score, gone.final_score) == (None, None)
        standing = store.standings()[gone.id]
        assert (standing.dropped, standing.finalist) == ("refused", False)
        assert standing.asked == min(28, 8 * (1 + passes)) == len(questions_of(store, gone.id))
        best = [c for c in store.scored(1) if c.standing is not None and c.standing.finalist]
        assert len(best) == 3
        assert all(c.total == 12 for c in best)
        assert gone.id not in store.winners().values()
        assert all(gone.id not in (p.chosen_id, p.rejected_id) for p in store.pairs(1, ""))
    before = dump(tmp_path / "run")
    run(tmp_path / "run", racing_parts(2, None, worker), iterations=1)
    assert dump(tmp_path / "run") == before


def test_a_candidate_whose_answers_are_cut_leaves_the_race(tmp_path: Path) -> None:
    worker = type("Cut", (HashedWorker,), {"cut": 0.93})
    run(tmp_path / "run", racing_parts(2, None, worker), iterations=1)
    with reading(tmp_path / "run") as store:
        refused = next(c for c in store.scored(1) if "quality 0.930" in c.source)
        assert refused.status is ExecutionStatus.OK
        assert refused.refused is not None
        assert "8 of 8 answers were cut" in refused.refused
        assert (refused.standing.dropped, refused.standing.asked, refused.score) == ("refused", 8, None)
        assert refused.id not in store.winners().values()
        assert all(p.chosen_id != refused.id for p in store.pairs(1, ""))


class CutInFinals(HashedWorker):
    """The best program writes without end on the questions of the finals, and only there."""

    def again(self, program, prompts, expected):
        outcome = super().again(program, prompts, expected)
        if "# quality 0.930" not in program.source or len(prompts) != 40:
            return outcome
        return replace(outcome, completions=tuple(replace(c, truncated=True) for c in outcome.completions))


class FailsInFinals(HashedWorker):
    def again(self, program, prompts, expected):
        if "# quality 0.930" in program.source and len(prompts) == 40:
            return Outcome(ExecutionStatus.NONDETERMINISTIC, "other bits")
        return super().again(program, prompts, expected)


class FailsWhenConfirmed(HashedWorker):
    def again(self, program, prompts, expected):
        if "# quality 0.930" in program.source and not prompts:
            return Outcome(ExecutionStatus.NONDETERMINISTIC, "other bits")
        return super().again(program, prompts, expected)


@pytest.mark.parametrize("worker", [CutInFinals, FailsInFinals, FailsWhenConfirmed])
def test_who_drops_out_late_changes_nothing_in_a_second_start(worker: type[HashedWorker], tmp_path: Path) -> None:
    """The finals depend on what is recorded before them: also where they are cut short after the first member."""
    run(tmp_path / "run", racing_parts(2, None, worker), iterations=1)
    whole = dump(tmp_path / "run")
    with reading(tmp_path / "run") as store:
        assert "0.930" not in store.candidate(store.winners()["winner"]).source
    run(tmp_path / "run", racing_parts(2, None, worker), iterations=1)
    assert dump(tmp_path / "run") == whole

    class Stopped(worker):
        def again(self, program, prompts, expected):
            if len(prompts) == 40 and "# quality 0.930" not in program.source and program.id not in {seed}:
                raise KeyboardInterrupt
            return super().again(program, prompts, expected)

    with reading(tmp_path / "run") as store:
        seed = next(row.id for row in store.candidates(0) if row.kind == "seed")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", racing_parts(2, None, Stopped), iterations=1)
    run(tmp_path / "stopped", racing_parts(2, None, worker), iterations=1)
    assert dump(tmp_path / "stopped") == whole


# -- budget, block, what is recorded with the baselines ---------------------------------------------------------------


def test_a_budget_is_kept_and_the_best_are_still_estimated(tmp_path: Path) -> None:
    """24 samples, first block 8 each, 3 of them all 40: at least 24 * 8 + 3 * 32 = 288."""
    run(tmp_path / "run", iterations=1, **{"race.budget": 288}, parts=racing_parts(2))
    with reading(tmp_path / "run") as store:
        spent = sum(n for block, who, _, _, n in store.question_uses() if (block, who) == (1, "generated"))
        raced = [c.standing for c in store.scored(1) if c.standing is not None and c.duplicate_of is None]
        assert spent <= 288
        assert "budget" in {s.dropped for s in raced}
        assert sum(s.finalist for s in raced) == 3


def test_a_budget_that_is_too_small_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match=r"^race\.budget 287 given; .* at least 288 question-eval") as caught:
            run(tmp_path / "run", iterations=1, **{"race.budget": 287}, parts=racing_parts(2))
        assert "\n" not in str(caught.value)
    with reading(tmp_path / "run") as store:
        assert all(row.status is None for row in store.candidates())


def test_a_measured_block_is_recorded_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(path, iterations=1, **{"race.block": None}, parts=racing_parts(2))
    with reading(path) as store:
        block = int(store.get_meta("race block") or 0)
        openings = {c.opening_total for c in store.scored(1) if c.standing is not None and c.duplicate_of is None}
    assert 8 <= block <= 28
    assert openings == {block}
    assert "questions per round" in (path / "log.txt").read_text() or f"block {block}" in (path / "log.txt").read_text()
    before = dump(path)
    run(path, iterations=1, **{"race.block": None}, parts=racing_parts(2))
    assert dump(path) == before


@pytest.mark.parametrize("fact", ["race block", "seed against itself"])
def test_a_stop_before_a_fact_of_the_seed_is_recorded_changes_nothing(
    fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", iterations=1, parts=racing_parts(2))
    real = Store.set_meta

    def stopping(self: Store, key: str, value: str) -> None:
        if key == fact:
            raise KeyboardInterrupt
        real(self, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "set_meta", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", iterations=1, parts=racing_parts(2))
    run(tmp_path / "run", iterations=1, parts=racing_parts(2))
    assert dump(tmp_path / "run") == dump(tmp_path / "whole")


def test_answers_that_do_not_depend_on_their_batch_make_no_noise(finished: Finished) -> None:
    assert "asked again in other batches, the seed's verdict differed on 0 of 40 questions" in finished.text


def test_races_on_one_fixed_block(tmp_path: Path) -> None:
    """All iterations ask block 0: finalists meet the baselines on its held-out part, and there are no finals."""
    parts = racing_parts(1)
    run(tmp_path / "run", parts, **{"dev.resample": "fixed"})
    with reading(tmp_path / "run") as store:
        held = round(0.3 * len(parts.task.dev))
        best = [c for c in store.scored() if c.score is not None and c.duplicate_of is None]
        assert len(best) == 6
        assert {(c.total, c.final_correct == c.correct, c.final_total) for c in best} == {(held, True, held)}
        assert {store.final_counts()[i].total for i in store.winners().values()} == {held}
        assert len(store.final_places()) == held


# -- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kill_dash_nine_anywhere_in_a_race_gives_the_same_tables(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    script = KILLED.format(root=str(Path(__file__).parents[2]), module="test_racing_loop", overrides="")
    assert killed_until_it_gets_through(script, tmp_path / "killed", stride=11) >= 8
    assert dump(tmp_path / "killed") == dump(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 20, 50])
def test_kill_dash_nine_at_a_block_of_answers_gives_the_same_race(call: int, tmp_path: Path) -> None:
    """One kill in the middle of the race, at block `call`."""
    run(tmp_path / "whole", iterations=1, parts=racing_parts(2))
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from selfdev.store import Store
from tests.end_to_end.test_racing_loop import run
from tests.scripted import racing_parts
real, left = Store.set_refused, [{call}]
def counted(*args):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*args)
Store.set_refused = counted
run(Path(sys.argv[1]), racing_parts(2), iterations=1)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "killed")]
    assert subprocess.run(command, env=env, check=False).returncode == -9
    run(tmp_path / "killed", iterations=1, parts=racing_parts(2))
    assert dump(tmp_path / "killed") == dump(tmp_path / "whole")

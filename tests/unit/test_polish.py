"""Polishing on a scripted run: a planted better constant is found and shown on held-out questions; noise is not."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from selfdev.cli import app
from selfdev.errors import UsageError
from selfdev.evaluation import Run
from selfdev.polish import _block, bounds, plan, polish, tunable
from selfdev.power import Verdict
from selfdev.program_edits import constants
from selfdev.report.live import RunView
from selfdev.report.polish import polish_report, sentence, write_polished
from selfdev.rundir import RunDirectory
from selfdev.store import AFTER, Store
from selfdev.study import asking, begin
from selfdev.types import Split
from tests.scripted import HashedWorker, racing_config, scripted_parts
from tests.unit import studies
from tests.unit.studies import Stopping, printed

HELPFUL = "def merge_models(tvs):\n    gain = 0.3  # helpful\n    return [t[0] * gain for t in tvs]\n"
IDLE = "def merge_models(tvs):\n    gain = 0.3  # idle\n    return [t[0] * gain for t in tvs]\n"


def quality(source: str) -> float | None:
    """`HELPFUL` is best at 0.9; `IDLE` and Task Arithmetic have luck alone, another one for every setting."""
    if "# quality" in source:
        text = source.split("# quality ")[1].split()[0]
        return None if text == "fails" else float(text)
    numbers = [c.value for c in constants(source) if c.role == "value"]
    if "# helpful" in source:
        return round(max(0.0, 0.95 - abs(numbers[0] - 0.9)), 4)
    if "# idle" in source or re.search(r"(?m)^WEIGHTS = ", source):
        return 0.5 + sum(numbers) * 1e-6
    return 0.4 if "torch.zeros_like(tensor)" not in source else 0.3


def opened(path: Path, worker_class: type[HashedWorker] = HashedWorker):
    return studies.opened(path, studies.study_parts((HELPFUL, IDLE), quality, worker_class=worker_class))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return studies.finish(tmp_path_factory.mktemp("polish") / "run", studies.study_parts((HELPFUL, IDLE), quality))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def planted(store: Store, mark: str):
    return next(row for row in store.candidates(1, "generated") if mark in (row.source or ""))


def test_a_better_constant_is_found_and_shown_on_questions_that_did_not_choose_it(copied: Path) -> None:
    with opened(copied) as run:
        before = run.store.scored(), run.store.final_counts()
        found = polish(run, planted(run.store, "helpful"), 1500)
        value = next(c.value for c in constants(found.program.row.source or "") if c.role == "value")
        assert 0.7 < value <= 1.1
        assert found.against_original.verdict is Verdict.BETTER
        assert found.against_original.questions == len(found.study.held_out)
        assert found.program.dropped > 0
        assert found.program.spent <= 1500
        assert found.control.spent <= 1500
        assert "is better than" in sentence(found)
        path = write_polished(copied, found)
        assert path is not None
        assert f"gain = {value!r}  # helpful" in path.read_text()
        assert (run.store.scored(), run.store.final_counts()) == before
        assert f"{value:g}" in printed(polish_report(found))
        # at the width of a terminal too every figure is there to its last digit
        text = printed(polish_report(found), 80)
        assert found.control.row.name in text
        assert f"{found.program.gain:+.3f}" in text
        held = {q.id for q in found.study.held_out}
        answering = [
            row.id
            for row in found.study.rows()
            if held & {a.question_id for a in run.store.answers(row.id, Split.STUDY)}
        ]
        assert set(answering) == {found.original.id, found.program.row.id}


def test_luck_where_it_was_chosen_is_not_sold_as_a_gain(copied: Path) -> None:
    with opened(copied) as run:
        found = polish(run, planted(run.store, "idle"), 1500)
        assert found.program.gain > 0  # the best of many
        assert found.against_original.verdict is Verdict.NOT_RESOLVED
        assert "is not resolvably better than" in sentence(found)


def without_fresh(run: Run) -> Run:
    return Run(run.config, run.directory, replace(run.parts, fresh=lambda first, count: ()), run.view)


def test_a_program_is_not_compared_on_questions_that_chose_it_unless_told_to(copied: Path) -> None:
    with opened(copied) as run:
        bare, of = without_fresh(run), planted(run.store, "helpful")
        first = polish(bare, of, 240)  # on the block of the other iteration
        assert first.study.origin == "others"
        assert {q.id for q in first.study.questions} <= {q.id for q in run.parts.task.block(2)}
        assert "SEEN" not in sentence(first)
        made = first.program.row
        with pytest.raises(UsageError, match=r"only dev questions that \w+ was chosen by"):
            polish(bare, made, 240)
        assert not any(row.kind.endswith(made.id) for row in run.store.candidates(AFTER))  # nothing is begun
        found = polish(bare, made, 240, allow_seen=True)
        assert found.study.origin == "own"
        assert "on SEEN questions" in sentence(found)
        with pytest.raises(UsageError, match="only dev questions"):
            polish(bare, made, 240)
        if (path := write_polished(copied, found)) is not None:
            assert "# questions: SEEN" in path.read_text()


def test_what_a_study_made_has_met_the_questions_of_its_origin(copied: Path) -> None:
    with opened(copied) as run:
        made = polish(run, planted(run.store, "helpful"), 240).program.row  # chosen on fresh questions
        assert made.iteration == AFTER
        study = begin(without_fresh(run), "ablation", made, 30, {})
        assert study.origin == "others"
        assert {q.id for q in study.questions} <= {q.id for q in run.parts.task.block(2)}  # not those of iteration 1


def test_programs_that_write_without_end_are_no_better_setting(copied: Path) -> None:
    class Endless(HashedWorker):
        def _answer(self, quality, prompts):
            return tuple(replace(c, truncated=quality > 0.8) for c in super()._answer(quality, prompts))

    with opened(copied, Endless) as run:
        found = polish(run, planted(run.store, "helpful"), 1500)
        assert found.program.failed > 0
        assert found.program.gain > 0
        assert quality(found.program.row.source or "") <= 0.8
        with asking(found.study) as ask:
            row = found.study.add(900, "endless", HELPFUL.replace("0.3", "0.9"))
            for count in (5, 10):
                row = ask(row, found.study.decide[:count])
        assert row.refused is not None


def test_without_a_place_for_a_merge_every_program_is_asked_once(tmp_path: Path) -> None:
    for cache, block in ((0, 77), (2**30, 20)):
        config = racing_config(iterations=1, **{"race.enabled": False, "race.cache_bytes": cache})
        with open(os.devnull, "w") as sink, RunDirectory(tmp_path / str(cache), config) as directory:
            directory.begin()
            run = Run(config, directory, scripted_parts(), RunView(Console(file=sink)))
            assert _block(run, 77) == block


def test_stopped_anywhere_it_ends_the_same(copied: Path, tmp_path: Path) -> None:
    shutil.copytree(copied, tmp_path / "whole")
    with opened(tmp_path / "whole") as run:
        expected = polish(run, planted(run.store, "helpful"), 400)
        dump = run.store.dump()
    parts = studies.study_parts((HELPFUL, IDLE), quality, worker_class=Stopping)
    found, held, stops = studies.in_pieces(
        copied, parts, 17, lambda run: polish(run, planted(run.store, "helpful"), 400)
    )
    assert held == dump
    assert (found.program, found.control) == (expected.program, expected.control)
    assert stops >= 2


def test_what_is_tuned_and_where() -> None:
    assert [c.value for c in tunable("x = 0.5 * y[1] + 1e-8")] == [0.5]
    with pytest.raises(UsageError, match="no constant to tune"):
        tunable("x = y[1].sum(0)")
    assert bounds(0.5) == (0.0, 1.2)
    assert bounds(-2) == (-4.0, 0.0)
    assert bounds(0) == (-1.0, 1.0)
    with pytest.raises(UsageError, match="at least 168 question-evaluations"):
        plan(167)
    done = CliRunner().invoke(app, ["polish", "nowhere", "winner", "--budget", "167"])  # before anything is opened
    assert isinstance(done.exception, UsageError)

"""Ablations of a scripted run: planted no-ops and a planted essential line are recovered; it resumes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from selfdev import ablation, loop
from selfdev.ablation import Worth, ablate, check_budget, least_budget, plan, removals
from selfdev.cli import app
from selfdev.cli import control as cli_control
from selfdev.compute.scripted import ScriptedWorker
from selfdev.errors import RunError, StageError, UsageError
from selfdev.evaluation import Run, program_of, record
from selfdev.methods import evaluate_methods
from selfdev.report.ablation import ablation_report, simplest_sentence, write_simplest
from selfdev.report.live import RunView
from selfdev.report.tables import dev_table
from selfdev.rundir import RunDirectory
from selfdev.stats import mcnemar
from selfdev.store import AFTER, Store, program_row
from selfdev.types import Completion, ExecutionStatus, Outcome, Split
from tests.scripted import HashedWorker, racing_config
from tests.unit import studies
from tests.unit.studies import FRESH, Stopping, printed

SOURCE = """import torch


def merge_models(task_vectors):
    strong = 0.9  # quality of the whole
    strong = strong * 1.0
    weak = 0.8
    return strong
"""


def quality(source: str) -> float | None:
    """What running `SOURCE` with plain Python returns; the samples' own comment otherwise."""
    if "# quality 0" in source or "# quality f" in source:
        text = source.split("# quality ")[1].split()[0]
        return None if text == "fails" else float(text)
    if "strong" not in source:
        return 0.4 if "torch.zeros_like(tensor)" not in source else 0.3
    scope: dict = {}
    try:
        exec(source.replace("import torch", ""), scope)
        return min(1.0, float(scope["merge_models"]([])))
    except Exception:
        return None


def opened(path: Path, workers: list[ScriptedWorker] | None = None, worker_class: type[HashedWorker] = HashedWorker):
    return studies.opened(path, studies.study_parts((SOURCE,), quality, workers, worker_class))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return studies.finish(tmp_path_factory.mktemp("ablation") / "run", studies.study_parts((SOURCE,), quality))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def planted(store: Store):
    return next(row for row in store.candidates(1, "generated") if row.source and "strong" in row.source)


def test_every_part_is_told_from_the_others(copied: Path) -> None:
    with opened(copied) as run:
        before = run.store.scored(), run.store.final_counts(), run.store.known_results()
        found = ablate(run, planted(run.store), 3000)
        worth = {f.edit.text: f.worth for f in found.findings}
        assert worth["remove `weak = 0.8`"] is Worth.IDENTICAL
        assert worth["remove `strong = strong * 1.0`"] is Worth.IDENTICAL
        assert worth["remove `strong = 0.9`"] is Worth.FAILS
        assert worth["0.9 becomes 0"] is Worth.ESSENTIAL
        assert worth["0.9 becomes 1"] is Worth.BETTER  # right on everything
        zero = next(f for f in found.findings if f.edit.text == "0.9 becomes 0")
        assert (zero.wins, zero.losses) == (0, pytest.approx(0.9 * zero.questions, rel=0.1))
        assert zero.p_value < 1e-6
        assert found.simplest.identical
        gone = ("weak", "* 1.0", "import")  # nothing reads torch
        without = [line for line in SOURCE.splitlines() if not any(part in line for part in gone)]
        assert found.simplest.source.splitlines() == without
        assert [e.text for e in found.simplest.edits if e.kind == "import"] == [
            "remove `import torch`, which nothing reads"
        ]
        assert "the same merge, so no question is needed" in simplest_sentence(found)
        assert found.spent <= 3000
        assert (run.store.scored(), run.store.final_counts(), run.store.known_results()) == before
        assert "same merge" in printed(ablation_report(found))
        # at the width of a terminal too every figure is there to its last digit
        cells = printed(ablation_report(found), 80).split()
        for cell in (f"{zero.wins}-{zero.losses}", f"{zero.p_value:.2g}", f"{zero.difference:+.3f}"):
            assert cell in cells
        path = write_simplest(copied, found)
        assert path is not None
        assert f"# simplified from: {found.study.of.id}" in path.read_text()
        assert run.store.candidate(found.simplest.candidate).source == found.simplest.source


def test_what_changes_no_bit_goes_though_the_budget_is_spent(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "COMBINATIONS", 0)  # nothing is left for combinations
    with opened(copied) as run:
        found = ablate(run, planted(run.store), 400)
        assert found.spent + 2 * len(found.study.held_out) + len(found.study.decide) > 400
        assert found.simplest.identical
        assert "weak" not in found.simplest.source


def test_a_loss_is_left_open_only_where_the_interval_holds_one(copied: Path) -> None:
    with opened(copied) as run:
        found = ablate(run, planted(run.store), 3000)
    assert found.simplest.edits
    said = [
        simplest_sentence(
            replace(found, simplest=replace(found.simplest, identical=False, wins=wins, losses=losses, questions=22))
        )
        for wins, losses in ((1, 2), (5, 0))
    ]
    assert "a loss of 0.2" in said[0]
    assert "5 won, 0 lost" in said[1]
    assert "a loss of" not in said[1]


def test_it_asks_questions_that_the_run_asked_nowhere(copied: Path) -> None:
    with opened(copied) as run:
        study = ablate(run, planted(run.store), 3000).study
        assert study.origin == "fresh"
        asked = {a.question_id for row in study.rows() for a in run.store.answers(row.id, Split.STUDY)}
        assert asked <= {q.id for q in FRESH}
        assert not any(run.store.answers(row.id, Split.DEV) for row in study.rows())
        # another study of the same run has questions of its own
        other = next(c for c in run.store.scored() if c.correct and c.id != study.of.id and c.duplicate_of is None)
        second = ablation.begin(run, "other", run.store.candidate(other.id), 50, {})
        assert not {q.id for q in second.questions} & {q.id for q in study.questions}
        with pytest.raises(RunError, match="was begun with budget 3000"):
            ablate(run, planted(run.store), 2999)


def test_stopped_anywhere_it_ends_the_same(finished: Path, tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for path in (whole, pieces):
        shutil.copytree(finished, path)
    with opened(whole) as run:
        expected = ablate(run, planted(run.store), 2000)
        dump = run.store.dump()
    parts = studies.study_parts((SOURCE,), quality, worker_class=Stopping)
    found, held, stops = studies.in_pieces(pieces, parts, 3, lambda run: ablate(run, planted(run.store), 2000))
    assert held == dump
    assert (found.findings, found.simplest) == (expected.findings, expected.simplest)
    assert stops >= 2
    with opened(pieces, workers := []) as run:
        ablate(run, planted(run.store), 2000)
        assert run.store.dump() == dump
    assert not any(worker.runs or worker.again_runs for worker in workers)


def test_a_program_that_ran_and_fails_when_asked_again_is_tried_again_later(copied: Path) -> None:
    class Busy(HashedWorker):
        def again(self, program, prompts, expected):
            if "strong" in program.source:
                return Outcome(ExecutionStatus.TIMEOUT, "30 s")
            return super().again(program, prompts, expected)

    with opened(copied) as run:
        of = planted(run.store)
        worker = Busy(quality, studies.ANSWERS)
        busy = Run(run.config, run.directory, replace(run.parts, open_worker=lambda: nullcontext(worker)), run.view)
        with pytest.raises(StageError, match="ran before and now ended with timeout"):
            ablate(busy, of, 3000)
        assert all(row.status in ("ok", "exception") for row in run.store.candidates(AFTER))
        assert {f.edit.text: f.worth for f in ablate(run, of, 3000).findings}["0.9 becomes 0"] is Worth.ESSENTIAL


def test_later_commands_leave_the_table_of_a_run_as_it_was(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(copied) as run:
        table, uses = dev_table(run.store).caption, run.store.question_uses()
        monkeypatch.setattr(HashedWorker, "cut", 0.4)  # every answer of the methods is cut
        evaluate_methods(run, ["ties"])
        assert sum(row.truncated for row in run.store.final_counts().values()) > 0
        assert dev_table(run.store).caption == table
        assert [line for line in run.store.question_uses() if line[1] != "method"] == uses


def test_methods_are_scored_in_a_run_that_stopped_before_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "run") as run:
        loop.record_facts(run)
    monkeypatch.setattr(cli_control, "opened", lambda path, console: opened(path))
    for arguments in (["--only", "ties"], ["--tune", "--budget", "200", "--only", "ties"]):
        done = CliRunner().invoke(app, ["baselines", str(tmp_path / "run"), *arguments])
        assert (done.exit_code, done.exception) == (0, None)
        assert "ties" in done.output
    assert "tuning, 5 programs x 40 questions: at most 200 question-evaluations" in done.output
    assert "recorded" not in done.output
    done = CliRunner().invoke(app, ["baselines", str(tmp_path / "run"), *arguments[:2], "240", *arguments[3:]])
    assert re.search(
        r"tuning, 6 programs x 40 questions, (\d+) of their answers recorded; the rest: at most", done.output
    )


def test_a_budget_that_cannot_reach_is_refused_before_anything_runs(copied: Path) -> None:
    # 14 questions decide, asked of the original, of one merge and of half a combination, and 6 held out of two programs
    assert least_budget(1) == 47  # 14 * (1 + 1.5 + 2 * 0.3 / 0.7) = 47
    assert least_budget(10) == 236  # 14 * (1 + 15 + 0.857...)
    with opened(copied, workers := []) as run:
        with pytest.raises(UsageError, match=r"--budget 46 given; at least 47 .* one of the 9 removals .*, 215 if all"):
            ablate(run, planted(run.store), 46)
        assert run.store.candidates(AFTER) == []
        with pytest.raises(UsageError, match="2 merges to ask need at least 68"):  # known once all have run
            ablate(run, planted(run.store), 47)
        assert len(run.store.candidates(AFTER)) == 10
    assert len(workers) == 1
    check_budget(removals(SOURCE), 47)


def test_a_budget_that_does_not_reach_is_refused() -> None:
    with pytest.raises(UsageError, match="10 merges to ask need at least"):
        plan(10, 100)
    with pytest.raises(UsageError, match="no constant, branch or statement"):
        removals("def merge_models(tvs):\n    return tvs[0]\n")
    assert plan(10, 10**9) == ablation.MOST_QUESTIONS
    assert plan(10, 2000) == 169  # 118 decide (2000 / (1 + 10 * 1.5 + 2 * 0.3 / 0.7)), which are 70 %
    assert len(removals(SOURCE)) >= 6


@pytest.mark.parametrize("asked", [1, 26, 1000])
def test_every_budget_that_is_accepted_can_show_something(asked: int) -> None:
    least = next(b for b in range(10, 10**6, 10) if accepted(asked, b))
    questions = plan(asked, least)
    held = round(0.3 * questions)
    assert mcnemar(0, held) < 0.05
    assert asked * mcnemar(0, questions - held) < 0.05  # Holm's first step


def accepted(asked: int, budget: int) -> bool:
    try:
        return plan(asked, budget) > 0
    except UsageError:
        return False


def test_too_few_questions_are_refused(copied: Path) -> None:
    with opened(copied) as run:
        few = Run(run.config, run.directory, replace(run.parts, fresh=lambda first, count: FRESH[:17][first:][:count]),
                  run.view)  # fmt: skip
        with pytest.raises(RunError, match="17 dev questions are too few to compare programs on; 20 are needed"):
            ablation.begin(few, "other", planted(run.store), 17, {})


PLANTED = """import torch


def merge_models(task_vectors):
    out = {}
    for name in task_vectors[0]:
        x = 0.5 * task_vectors[0][name]
        x = x + 0.4 * task_vectors[1][name]  # essential
        x = x * 1.0  # nothing
        spread = x.std()  # nothing
        if x.dim() > 7:
            x = x * 0.0
        out[name] = x
    return out
"""


class Weighed:
    """An evaluator that answers more of the same questions the larger the merged entries are."""

    def __init__(self, answers: dict[str, str]) -> None:
        self._answers, self._quality = answers, 0.0

    def apply(self, merged) -> None:
        self._quality = float(merged["a.weight"].mean())

    def restore(self) -> None:
        self._quality = 0.0

    def generate(self, prompts):
        def share(prompt: str) -> float:
            return int(hashlib.sha256(prompt.encode()).hexdigest()[:12], 16) / 16**12

        return [Completion(self._answers[p] if share(p) < self._quality else " #### -1", 4, False) for p in prompts]


@contextmanager
def in_the_sandbox(path: Path, source: str, shape: tuple[int, int]):
    """(a run, the row of one program that has run in the real sandbox on two task vectors)."""
    import torch
    from selfdev_sandbox import Limits, Sandbox

    from selfdev.compute.local import LocalWorker

    made = studies.study_parts((SOURCE,), quality)
    vectors = [{"a.weight": torch.ones(*shape), "b.weight": torch.ones(5)} for _ in range(2)]
    config = racing_config(iterations=2)
    with (
        open(os.devnull, "w") as sink,
        Sandbox(Limits(seconds=30)) as box,
        RunDirectory(path / "run", config) as directory,
    ):
        directory.begin()
        worker = LocalWorker(box, Weighed(studies.ANSWERS), vectors, 2**20)
        run = Run(
            config, directory, replace(made, open_worker=lambda: nullcontext(worker)), RunView(Console(file=sink))
        )
        loop.record_facts(run)
        row = program_row("generated", "", 1, 0, source, 5)
        run.store.add_candidates([row])
        record(run, row.id, worker.run(program_of(row), [], {}), {}, [])
        yield run, run.store.candidate(row.id)


CHAINED = """import torch
import math


def merge_models(task_vectors):
    out = {}
    scale = math.pi
    for name in task_vectors[0]:
        x = task_vectors[0][name]
        keep = int(x.numel())
        cut = x.abs().flatten().topk(keep).values[-1]
        x = x * (x.abs() >= cut) * (scale / math.pi)
        out[name] = x
    return out
"""


def test_what_only_removed_statements_read_goes_with_its_imports(tmp_path: Path) -> None:
    with in_the_sandbox(tmp_path, CHAINED, (4, 3)) as (run, row):
        found = ablate(run, row, 2000)
    assert found.simplest.identical
    assert found.simplest.source.strip().splitlines() == [
        "def merge_models(task_vectors):", "    out = {}", "    for name in task_vectors[0]:",
        "        x = task_vectors[0][name]", "        out[name] = x", "    return out",
    ]  # fmt: skip
    gone = [edit.text for edit in found.simplest.edits if edit.kind == "import"]
    assert gone == [f"remove `import {name}`, which nothing reads" for name in ("torch", "math")]


SIZED = """import torch


def merge_models(task_vectors):
    out = {}
    for name in task_vectors[0]:
        x = task_vectors[0][name]
        if x.numel() > 20000:
            x = x * 0.3
        out[name] = x
    return out
"""


def test_a_condition_on_sizes_that_no_probe_meets_is_not_taken_for_nothing(tmp_path: Path) -> None:
    with in_the_sandbox(tmp_path, SIZED, (256, 128)) as (run, row):
        found = ablate(run, row, 1500)
    worth = {f.edit.text: f.worth for f in found.findings}
    assert worth["as if `x.numel() > 20000` never held"] is Worth.BETTER  # other bits on the large matrix
    assert worth["remove `x = x * 0.3`"] is Worth.BETTER
    assert worth["as if `x.numel() > 20000` always held"] is not Worth.IDENTICAL  # other bits on the vector
    assert not found.simplest.identical


def test_in_the_real_sandbox_planted_parts_are_recovered(tmp_path: Path) -> None:
    with in_the_sandbox(tmp_path, PLANTED, (4, 3)) as (run, row):
        found = ablate(run, row, 3000)
    worth = {f.edit.text: f.worth for f in found.findings}
    assert worth["remove `x = x + 0.4 * task_vectors[1][name]`"] is Worth.ESSENTIAL
    assert worth["remove `x = x * 1.0`"] is Worth.IDENTICAL
    assert worth["remove `spread = x.std()`"] is Worth.IDENTICAL
    assert worth["as if `x.dim() > 7` never held"] is Worth.IDENTICAL
    assert worth["as if `x.dim() > 7` always held"] is Worth.ESSENTIAL
    assert worth["remove `x = 0.5 * task_vectors[0][name]`"] is Worth.FAILS
    assert worth["`0.5 * task_vectors[0][name]` becomes `task_vectors[0][name]`"] is Worth.BETTER
    assert worth["`0.4 * task_vectors[1][name]` becomes `task_vectors[1][name]`"] is Worth.BETTER
    assert "task_vectors[1][name]" in found.simplest.source
    assert not any(part in found.simplest.source for part in ("nothing", "spread", "if "))
    assert found.spent <= 3000

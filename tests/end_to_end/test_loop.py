"""The loop with scripted parts: what it records, what it writes, and that stopping it anywhere changes nothing."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from rich.console import Console

from selfdev import loop
from selfdev.errors import RunError, StageError
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.store import Store
from selfdev.types import ExecutionStatus, Split
from tests.scripted import quality, scripted_config, scripted_parts


def run(path: Path, parts=None, **overrides) -> str:
    """One run (or its continuation); returns what it printed."""
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    config = scripted_config(**overrides)
    with console.file, RunDirectory(path, config) as directory:
        directory.begin()
        loop.run(config, directory, parts or scripted_parts(), RunView(console))
        return console.export_text()


def dump(path: Path) -> dict:
    store = Store(path / "store.sqlite", read_only=True)
    rows = store.dump()
    store.close()
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("loop") / "run"
    return path, run(path)


def test_every_stage_is_recorded(finished) -> None:
    store = Store(finished[0] / "store.sqlite", read_only=True)
    assert len(store.candidates(0)) == 1 + 3 + 1 + 27  # the scripted prompt has no worked example
    for iteration in (1, 2, 3):
        rows = store.candidates(iteration, "generated")
        assert [r.index for r in rows] == list(range(20))
        assert [r.status for r in rows[2:5]] == [
            ExecutionStatus.OK, ExecutionStatus.NO_CODE, ExecutionStatus.EXCEPTION,
        ]  # fmt: skip
        assert {r.checkpoint for r in rows} == {"base" if iteration == 1 else f"checkpoints/iteration-{iteration - 1}"}
        assert store.pair_count(iteration) > 0
    assert [r["temperature"] for r in store.iterations()] == pytest.approx([1.2, 1.0, 1.2 / 1.4])
    assert all(r["train"]["steps"] > 0 and r["gap"]["samples"] > 1 for r in store.iterations())
    store.close()


def test_the_winner_is_the_best_on_dev_and_the_test_set_stays_sealed(finished) -> None:
    store = Store(finished[0] / "store.sqlite", read_only=True)
    winners = store.winners()
    best = max(store.scored(), key=lambda c: (c.score or 0.0, -c.iteration, -c.index))
    assert winners["winner"] == best.id
    assert store.candidate(winners["seed"]).kind == "seed"
    assert store.candidate(winners["baseline"]).kind != "seed"
    assert store.openings() == 0  # `selfdev test` opens the set
    assert store.counts(Split.TEST) == {}
    store.close()


def test_repeated_merges_are_not_scored_twice(finished) -> None:
    store = Store(finished[0] / "store.sqlite", read_only=True)
    scored = store.scored()
    repeats = [c for c in scored if c.duplicate_of is not None]
    assert repeats
    assert all(store.answers(c.id, Split.DEV) == [] for c in repeats)
    hashes = [r.result_hash for r in store.candidates() if r.result_hash and r.duplicate_of is None]
    assert len(hashes) == len(set(hashes))
    store.close()


def test_algorithms_are_runnable_files_with_a_header(finished) -> None:
    files = sorted((finished[0] / "algorithms" / "iteration-2").iterdir())
    assert files[0].name.startswith("rank-001_dev-")
    text = files[0].read_text()
    for key in ("selfdev algorithm", "iteration: 2", "dev: ", "status: ok", "generator checkpoint: checkpoints/iter",
                "sampling seed: "):  # fmt: skip
        assert key in text
    assert callable(runpy.run_path(str(files[0]))["merge_models"])
    scores = [float(f.name.split("_dev-")[1][:4]) for f in files]
    assert scores == sorted(scores, reverse=True)


def test_pairs_load_with_datasets(finished, tmp_path: Path) -> None:
    data = datasets.load_dataset(
        "json", data_files=str(finished[0] / "pairs" / "iteration-2.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    assert {"prompt", "chosen", "rejected", "chosen_score", "rejected_score"} <= set(data.column_names)
    assert all(row["chosen_score"] > row["rejected_score"] for row in data)
    assert all(row["chosen"].rstrip().endswith("```") for row in data)


def test_the_output_tells_the_story(finished) -> None:
    for part in ("samples 20", "parsed 16", "best so far", "DPO: ", "solver-verifier gap", "dev scores",
                 "pairs in the wrong order, estimated: paper", "noise floor", "Task Arithmetic", "95 % (paired)",
                 "uniform average", "test: sealed (40 questions), 3 candidates registered"):  # fmt: skip
        assert part in finished[1], part


def test_the_same_command_again_does_nothing_twice(finished) -> None:
    path = finished[0]
    before = dump(path)
    stamps = {p: p.stat().st_mtime_ns for p in (path / "checkpoints").rglob("*")}

    def refuse(*_args, **_kwargs):
        raise AssertionError("must not be called")

    parts = scripted_parts(refuse, refuse)
    run(path, parts)
    assert dump(path) == before
    assert {p: p.stat().st_mtime_ns for p in (path / "checkpoints").rglob("*")} == stamps


def test_the_same_seed_gives_the_same_store_and_another_seed_does_not(finished, tmp_path: Path) -> None:
    run(tmp_path / "again")
    assert dump(tmp_path / "again") == dump(finished[0])
    run(tmp_path / "other", seed=1)
    assert dump(tmp_path / "other") != dump(finished[0])


def test_all_candidates_failing_ends_without_a_winner(tmp_path: Path) -> None:
    text = run(tmp_path / "run", scripted_parts(samples=lambda *_: "nothing here"), iterations=2)
    store = Store(tmp_path / "run" / "store.sqlite", read_only=True)
    assert store.winners() == {}
    assert [r["train"]["steps"] for r in store.iterations()] == [0, 0]
    assert store.openings() == 0
    store.close()
    assert "no candidate has a score" in text


def test_changed_questions_or_models_are_refused(tmp_path: Path) -> None:
    parts = scripted_parts()
    run(tmp_path / "run", parts, iterations=1)
    with pytest.raises(StageError, match="prompt has changed"):
        run(tmp_path / "run", replace(parts, facts={"prompt": "another"}), iterations=1)
    task = replace(parts.task, dev=parts.task.dev[:-1])
    with pytest.raises(RunError, match="dev questions"):
        run(tmp_path / "run", replace(parts, task=task), iterations=1)


def test_a_program_that_gives_other_bits_again_cannot_win(tmp_path: Path) -> None:
    """The best program's result changes on its second run: it loses its score and the next one is tested."""
    parts = scripted_parts()

    class Fickle:
        isolation = "scripted"

        def __init__(self, worker) -> None:
            self._worker = worker

        def run(self, program, prompts, known):
            return self._worker.run(program, prompts, known)

        def again(self, program, prompts, expected):
            best = "# quality 0.45" in program.source
            return self._worker.again(program, prompts, "other bits" if best else expected)

    @contextmanager
    def open_worker():
        with parts.open_worker() as worker:
            yield Fickle(worker)

    run(tmp_path / "run", replace(parts, open_worker=open_worker), iterations=1)
    store = Store(tmp_path / "run" / "store.sqlite", read_only=True)
    unstable = [c for c in store.candidates(1) if c.status is ExecutionStatus.NONDETERMINISTIC]
    assert unstable
    assert all("quality 0.45" in (c.source or "") for c in unstable)
    winner = store.candidate(store.winners()["winner"])
    assert "quality 0.35" in (winner.source or "")  # 0.40 repeats a baseline
    store.close()


def test_a_baseline_that_failed_once_is_tried_again(tmp_path: Path) -> None:
    parts = scripted_parts()
    broken = scripted_parts(quality_of=lambda source: None if "WEIGHTS" in source else quality(source))
    with pytest.raises(StageError, match=r"baseline 'Task Arithmetic 0\.2 0\.2 0\.2' does not run"):
        run(tmp_path / "run", broken, iterations=1)
    run(tmp_path / "run", parts, iterations=1)
    run(tmp_path / "whole", parts, iterations=1)
    assert dump(tmp_path / "run") == dump(tmp_path / "whole")


KILLED = """
import os, random, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from selfdev.store import Store
from tests.end_to_end.{module} import run

budget = [int(sys.argv[2])]

def counted(method):
    def wrapper(*args, **kwargs):
        budget[0] -= 1
        if budget[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*args, **kwargs)
        budget[0] -= 1
        if budget[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapper

for name in ("add_candidates", "record_outcome", "add_answers", "set_pairs", "commit_iteration", "register",
             "set_standings", "set_refused", "add_seconds", "set_meta", "add_questions", "add_measured",
             "add_judgements", "add_measured_judgements"):
    setattr(Store, name, counted(getattr(Store, name)))
for name in ("rename", "replace"):
    setattr(Path, name, counted(getattr(Path, name)))
run(Path(sys.argv[1]){overrides})
"""


def killed_until_it_gets_through(script: str, path: Path, stride: int = 7) -> int:
    """Start `KILLED` again and again, each time with more writes before the kill; returns how often it was killed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    step, kills, code = 1, 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        code = subprocess.run([sys.executable, "-c", script, str(path), str(step)], env=env, check=False).returncode
        step += stride
        kills += code == -signal.SIGKILL
    assert code == 0
    return kills


@pytest.mark.slow
def test_kill_dash_nine_anywhere_gives_the_same_tables(tmp_path: Path) -> None:
    """Kill before and after every kind of write, at growing points, until the run gets through; with checkpoints."""
    run(tmp_path / "whole", iterations=2, **{"gap.checkpoints": 2})
    overrides = ", iterations=2, **{'gap.checkpoints': 2}"
    script = KILLED.format(root=str(Path(__file__).parents[2]), module="test_loop", overrides=overrides)
    assert killed_until_it_gets_through(script, tmp_path / "killed") >= 8
    adapters = {
        p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole" / "checkpoints").rglob("*") if p.is_file()
    }
    assert len({path.parent for path in adapters if "step-" in str(path)}) == 3  # the first stage has two steps
    for name in adapters:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert dump(tmp_path / "killed") == dump(tmp_path / "whole")
    files = {
        p.relative_to(tmp_path / "whole"): p.read_bytes() for p in (tmp_path / "whole" / "algorithms").rglob("*.py")
    }
    for name, content in files.items():
        assert (tmp_path / "killed" / name).read_bytes() == content
    assert json.loads((tmp_path / "killed" / "config.json").read_text())["iterations"] == 2

"""A small run with every part real: zoo models, sandbox child, transformers, TRL in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peft import PeftModel

from selfdev.models import load_causal_lm
from selfdev.store import Store

COMMAND = [
    sys.executable, "-m", "selfdev", "run", "--iterations", "2", "--samples", "16", "--seed", "3", "--set", "threads=1",
    "--set", "task.dev_size=24", "--set", "task.test_size=48", "--set", "train.max_steps=2",
    "--set", "train.batch_size=2",
    "--set", "generate.batch_size=8", "--set", "generate.temperature=1.0", "--run-dir",
]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HF_HUB_OFFLINE": "1"}


def run(path: Path) -> str:
    done = subprocess.run([*COMMAND, str(path)], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def dump(path: Path) -> dict:
    store = Store(path / "store.sqlite", read_only=True)
    try:
        return store.dump()
    finally:
        store.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "run"
    run(path)
    return path


def test_the_same_seed_gives_the_same_store(finished: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    first, second = dump(finished), dump(tmp_path / "again")
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], name


def test_killed_three_times_it_ends_with_the_same_store(finished: Path, tmp_path: Path) -> None:
    """SIGKILL to the whole process group once work is recorded, wherever that is; then the same command again."""
    path = tmp_path / "killed"
    for expected in ("baselines: begins", "iteration 1 · evaluate: begins", "iteration 1 · train: begins"):
        process = subprocess.Popen(
            [*COMMAND, str(path)], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 240
        while expected not in (path / "log.txt").read_text() if (path / "log.txt").exists() else True:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run(path)
    assert dump(path) == dump(finished)


def test_adapters_load_with_peft(finished: Path) -> None:
    adapters = sorted(p for p in (finished / "checkpoints").iterdir() if p.is_dir())
    assert adapters
    for adapter in adapters:
        base, _ = load_causal_lm("zoo:generator", dtype="float32")
        model = PeftModel.from_pretrained(base, str(adapter), local_files_only=True)
        trained = [p for n, p in model.named_parameters() if "lora_B" in n]
        assert any(p.abs().sum() > 0 for p in trained)


def test_a_discovered_algorithm_runs_outside_selfdev(finished: Path) -> None:
    """The files are plain PyTorch: the best one of each iteration merges random task vectors in a bare interpreter."""
    files = sorted((finished / "algorithms").glob("iteration-*/rank-001_*.py"))
    assert files
    code = (
        "import runpy, sys, torch\n"
        "names = {'model.layers.0.mlp.up_proj.weight': (6, 4), 'model.norm.weight': (4,)}\n"
        "vectors = [{n: torch.randn(s) for n, s in names.items()} for _ in range(3)]\n"
        "merged = runpy.run_path(sys.argv[1])['merge_models'](vectors)\n"
        "assert list(merged) == list(names) and all(merged[n].shape == s for n, s in names.items())\n"
    )
    for file in files:
        done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-1500:]

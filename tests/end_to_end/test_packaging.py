"""The wheel holds everything a run needs and works away from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_ZOO_BYTES = 25_000_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_zoo_prompts_presets_and_sandbox_are_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    for name in (
        "selfdev/presets/demo.toml", "selfdev/prompts/generator/merge.md.jinja", "selfdev_sandbox/zygote.py",
        "selfdev/baselines/task_arithmetic.py", "selfdev/zoo/models/generator/model.safetensors",
        "selfdev/zoo/models/solver-seed/tokenizer.json",
    ):  # fmt: skip
        assert name in sizes
    assert not [n for n in sizes if n.startswith(("tests/", "benchmarks/", "sandbox/"))]
    assert sum(size for name, size in sizes.items() if name.startswith("selfdev/zoo/models/")) <= MAX_ZOO_BYTES


def test_an_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(target), "HF_HUB_OFFLINE": "1"}
    code = "import selfdev; print(selfdev.__file__); from selfdev.cli import main; main()"
    small = ["--samples", "4", "--iterations", "1", "--set", "task.dev_size=8", "--set", "task.test_size=8",
             "--set", "threads=1"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "run", "--dry-run", *small],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(target) in done.stdout
    assert "forecast" in done.stdout

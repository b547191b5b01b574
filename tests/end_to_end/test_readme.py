"""Every command of the README is executed; its tree and preset names are real."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selfdev.store import Store

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.strip().splitlines()]
SLOW_COMMANDS = {"selfdev run --preset smollm2-generator", "selfdev evaluate --model smollm2"}


def expand(command: str) -> list[str]:
    """A `make` target -> the commands it would run once everything is installed; others as they are."""
    if not command.startswith("make "):
        return [command]
    target = command.split()[1]
    lines = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", target],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return [line for line in lines if "selfdev" in line or "pytest" in line]


def run(command: str, cwd: Path) -> str:
    """Run one README command with this interpreter; returns its standard output."""
    words = shlex.split(re.sub(r"^\S*/(?=selfdev )", "", command))
    replaced = {"selfdev": ["-m", "selfdev"], "pip": ["-m", "pip"]}[words[0]]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *replaced, *words[1:]], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone to the commands, after a small run in the place of `make demo`'s."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "tests" / "data", folder / "tests" / "data")
    run(
        "selfdev run --iterations 1 --samples 12 --run-dir runs/demo --set task.test_size=50 --set threads=1 "
        "--set task.dev_size=60 --set train.max_steps=2",
        folder,
    )
    return folder


def is_slow(command: str) -> bool:
    return command.startswith(("make ", "pip ")) or any(command.startswith(s) for s in SLOW_COMMANDS)


def test_the_readme_has_its_two_commands_first() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]
    search, opening = expand("make demo")
    assert search.endswith("selfdev run --iterations 3 --preset demo --run-dir runs/demo")
    assert opening.endswith("selfdev test runs/demo")
    assert "-m pytest" in expand("make test")[-1]
    assert "make test\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", [c for c in COMMANDS if not is_slow(c)])
def test_command(command: str, workplace: Path) -> None:
    assert run(command, workplace).strip()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_itself(tmp_path: Path) -> None:
    """`make demo` without the installation: three iterations, a winner tested next to seed and best baseline."""
    printed = "".join(run(command, tmp_path) for command in expand("make demo"))
    for part in ("forecast", "iteration 3", "best baseline on dev", "best on dev", "the set was opened once"):
        assert part in printed
    assert run("selfdev run --iterations 3 --preset demo --run-dir runs/demo", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_small_language_model(workplace: Path, tmp_path: Path) -> None:
    """The SmolLM2 commands, in the README's order. Of its 32 programs two run here; on another CPU it may be none."""
    for command in COMMANDS:
        if is_slow(command) and not command.startswith("make "):
            try:
                assert run(command, workplace).strip() or command.startswith("pip ")
            except AssertionError as error:
                if "all 32 candidates failed" not in str(error):
                    raise
    store = Store(workplace / "runs" / "smollm2-generator-seed0" / "store.sqlite", read_only=True)
    texts = [row.text for row in store.candidates(1, "generated")]
    store.close()
    assert len(texts) == 32
    assert sum("merge_models" in text for text in texts) >= 5


def test_every_command_has_help_and_a_mention() -> None:
    """All in one process: what is tested is the text, and starting Python takes longer than printing it."""
    code = (
        "import sys; from selfdev.cli import main\n"
        "for name in sys.argv[1:]:\n"
        "    print('@@')\n"
        "    try: main([*name.split(), '--help'])\n"
        "    except SystemExit as end: assert not end.code, name\n"
    )
    names = (
        "run", "show", "top", "test", "register", "control", "baselines", "doctor", "config", "evaluate", "grade",
        "plan", "apply", "export", "ablate", "polish", "transfer", "selfimprove", "gap run", "gap fit",
        "gap simulate", "zoo list", "zoo finetune",
    )  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    printed = subprocess.run([sys.executable, "-c", code, *names], env=env, capture_output=True, text=True, check=True)
    texts = printed.stdout.split("@@")[1:]
    for name, text in zip(names, texts, strict=True):
        assert f"selfdev {name}" in README
        assert len(text) > 100, name


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys; from selfdev.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'trl', 'datasets')))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False).returncode == 0


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README


def test_the_tree_names_what_is_there() -> None:
    tree = README.split("## Layout")[1]
    for name in ("selfdev", "sandbox", "prompts", "tests", "benchmarks"):
        assert re.search(rf"(?m)^{name}/", tree)
        assert (ROOT / name).is_dir()

"""Bad input: one clear line, exit code 1 or 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfdev.cli import main
from selfdev.models import resolve

SMALL = ["--samples", "2", "--iterations", "1", "--set", "task.dev_size=4", "--set", "task.test_size=4"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that must fail with one line on standard error; returns (exit code, line)."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("selfdev: ")
    return caught.value.code, captured.err  # type: ignore[return-value]


def copy_model(name: str, to: Path) -> Path:
    shutil.copytree(resolve(f"zoo:{name}"), to)
    return to


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--preset", "nope"], "unknown preset 'nope'"),
        (["run", "--set", "train.bta=1"], "did you mean 'train.beta'"),
        (["run", "--set", "seed=x"], "'seed' got 'x'"),
        (["run", "--samples", "0"], "'generate.samples' got 0"),
        (["run", "--samples", "many"], "--samples"),
        (["run", "--config", "missing.toml"], "cannot read the configuration missing.toml"),
        (["run", "--device", "tpu"], "unknown device 'tpu'"),
        (["run", "--device", "cuda:99"], "cuda:99"),
        (["run", "--colour"], "--colour"),
        (["run", "--set", "sandbox.seconds=inf"], "'sandbox.seconds' got"),
        (["run", "--set", "seed=1979-05-27"], "'seed' got"),
        (["config", "--preset", "nope"], "unknown preset"),
        (["evaluate"], "--model"),
        (["baselines"], "a run directory, or --preset or --config"),
        (["baselines", "runs/a", "--preset", "demo"], "a run directory, or --preset or --config"),
        (["baselines", "--preset", "demo", "--tune"], "--budget N"),
        (["baselines", "--preset", "demo", "--budget", "500"], "--budget belongs to --tune"),
        (["baselines", "--preset", "demo", "--tune", "--budget", "50"], "answers 200 dev questions"),
        (["baselines", "--preset", "demo", "--set", "task.dev_size=5", "--tune", "--budget", "50"], "at least 6, two"),
        (["baselines", "--preset", "demo", "--only", "tis"], "no baseline 'tis'"),
        (["baselines", "--preset", "demo", "--only", "greedy_soup"], "'greedy_soup' without --tune"),
        (["conquer"], "conquer"),
    ],
)
def test_usage_errors_exit_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, line = fails(capsys, *arguments)
    assert code == 2
    assert message in line
    assert list(Path.cwd().iterdir()) == []


def test_models_that_do_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every case runs against the real zoo and leaves no run directory behind."""
    truncated = copy_model("solver-add", tmp_path / "truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    misshapen = copy_model("solver-add", tmp_path / "misshapen")
    tensors = load_file(misshapen / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, misshapen / "model.safetensors", metadata={"format": "pt"})
    gpt = copy_model("solver-add", tmp_path / "gpt")
    config = json.loads((gpt / "config.json").read_text())
    (gpt / "config.json").write_text(json.dumps({**config, "architectures": ["T5Model"], "model_type": "t5"}))
    (tmp_path / "empty").mkdir()
    cases = {
        "zoo:nothing": "no model 'nothing' in the zoo",
        str(tmp_path / "missing"): "missing",
        str(tmp_path / "empty"): "config.json",
        str(truncated): "truncated",
        str(misshapen): "model.norm.weight",
        str(gpt): "gpt",
        "zoo:solver-seed": "identical to the seed",
        "zoo:generator": "zoo:generator",
    }
    for source, message in cases.items():
        given = f'models.sources=["zoo:solver-sub", "{source}"]'
        code, line = fails(capsys, "run", *SMALL, "--set", given, "--run-dir", "run")
        assert code == 1, line
        assert message in line
        assert not Path("run").exists()


def test_a_generator_or_seed_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("models.seed", "generate.model"):
        code, line = fails(capsys, "run", *SMALL, "--set", f"{key}=./nowhere", "--run-dir", "run")
        assert code == 1
        assert "nowhere" in line
        assert not Path("run").exists()


@pytest.mark.parametrize(
    ("content", "message"), [("", "holds no rows"), ('{"question": "x"}\n', "answer"), ("not json\n", "line 1")]
)
def test_data_files(capsys: pytest.CaptureFixture[str], content: str, message: str) -> None:
    Path("rows.jsonl").write_text(content)
    code, line = fails(capsys, "evaluate", "--model", "zoo:solver-seed", "--task", "gsm8k", "--data", "rows.jsonl")
    assert code == 1
    assert "rows.jsonl" in line
    assert message in line


def test_an_unknown_isolation_layer(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = fails(capsys, "run", *SMALL, "--set", 'sandbox.allow_missing=["seccmp"]', "--run-dir", "run")
    assert code == 1
    assert "seccmp" in line
    assert not Path("run").exists()


def test_a_damaged_store(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    Path("run/store.sqlite").write_bytes(b"SQLite format 3\x00" + b"x" * 5000)
    assert fails(capsys, "show", "run")[0] == 1
    assert "not a run directory" in fails(capsys, "top", "run/store.sqlite")[1]


def test_a_name_is_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    main_exit = fails(capsys, "run", *SMALL, "--set", "models.seed=./[red]x[/b]", "--run-dir", "run")
    assert "[red]x[/b]" in main_exit[1]


def test_a_second_process_is_refused_before_any_model_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfdev.config import load_config
    from selfdev.rundir import RunDirectory

    overrides = {"generate.samples": 2, "iterations": 1, "task.dev_size": 4, "task.test_size": 4}
    monkeypatch.setattr("selfdev.wiring.build_parts", lambda _: pytest.fail("models must not be loaded"))
    with RunDirectory(Path("run"), load_config(overrides=overrides)):
        code, line = fails(capsys, "run", *SMALL, "--run-dir", "run")
    assert code == 1
    assert "another selfdev process" in line


def test_run_directories(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert "is a file" in fails(capsys, "run", *SMALL, "--run-dir", "file")[1]
    assert "cannot write" in fails(capsys, "run", *SMALL, "--run-dir", "/proc/selfdev")[1]
    Path("foreign").mkdir()
    Path("foreign/notes.txt").write_text("")
    assert "holds no run" in fails(capsys, "run", *SMALL, "--run-dir", "foreign")[1]
    for command in ("show", "top"):
        assert "not a run directory" in fails(capsys, command, "nowhere")[1]
    Path("other").mkdir()
    Path("other/config.json").write_text('{"config": {}}')
    for command in ("show", "top"):
        assert "other holds no results of a run (no store.sqlite)" in fails(capsys, command, "other")[1]

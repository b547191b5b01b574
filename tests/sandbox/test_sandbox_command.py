"""`python -m selfdev_sandbox`: check, run, doctor, and one line for each wrong call."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from selfdev_sandbox.__main__ import main

HONEST = "def merge_models(t):\n    return {k: (t[0][k] + t[1][k]) / 2 for k in t[0]}\n"


@pytest.fixture
def tensors(tmp_path: Path) -> list[str]:
    paths = []
    for i in (1, 3):
        paths.append(str(tmp_path / f"{i}.safetensors"))
        save_file({"w": torch.full((2, 2), float(i))}, paths[-1])
    return paths


def test_run_writes_the_result(tmp_path: Path, tensors: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    program, out = tmp_path / "mean.py", tmp_path / "out.safetensors"
    program.write_text(HONEST)
    assert main(["run", str(program), "--tensors", *tensors, "--out", str(out), "--verify"]) == 0
    assert load_file(out)["w"].tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert capsys.readouterr().out.startswith("ok: 2 operations")


def test_run_reports_a_failing_program(tmp_path: Path, tensors: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    program, out = tmp_path / "bad.py", tmp_path / "out.safetensors"
    program.write_text("def merge_models(t):\n    return t[5]\n")
    assert main(["run", str(program), "--tensors", *tensors, "--out", str(out)]) == 1
    assert capsys.readouterr().err == "exception (line 2): IndexError: list index out of range\n"
    assert not out.exists()


@pytest.mark.parametrize("missing", ["program", "tensors", "format", "corpus", "device"])
def test_a_wrong_call_is_one_line(
    tmp_path: Path, tensors: list[str], capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    program = tmp_path / "mean.py"
    program.write_text(HONEST)
    out = ["--out", str(tmp_path / "out.safetensors")]
    calls = {
        "program": ["run", str(tmp_path / "none.py"), "--tensors", *tensors, *out],
        "tensors": ["run", str(program), "--tensors", str(tmp_path / "none.safetensors"), *out],
        "format": ["run", str(program), "--tensors", str(program), *out],
        "corpus": ["check", str(tmp_path / "none")],
        "device": ["run", str(program), "--tensors", *tensors, *out, "--device", "nonsense"],
    }
    assert main(calls[missing]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_check_prints_a_line_per_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "mean.py").write_text(HONEST)
    (tmp_path / "hostile.py").write_text("import os\ndef merge_models(t):\n    os.mkdir('/tmp/selfdev-payload/x')\n")
    assert main(["check", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pass  hostile.py: violation, line 1")
    assert lines[1:] == ["pass  valid/mean.py: ok", "2 passed, 0 failed"]
    (tmp_path / "broken.py").write_text("# never: accepted\n" + HONEST)
    assert main(["check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 1 failed"


def test_doctor_names_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for word in ("landlock", "seccomp", "rlimits", "no_new_privs", "uid", "level         full", "operations = 20000"):
        assert word in told

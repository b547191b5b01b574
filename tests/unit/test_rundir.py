"""Run directories: one writer, one configuration, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfdev.config import load_config
from selfdev.errors import RunError
from selfdev.rundir import RunDirectory, check_directory, read_saved_config, write_atomic

CONFIG = load_config(overrides={"seed": 5})
WANTED = json.loads(CONFIG.to_json())


def test_a_run_of_an_older_version_is_called_that(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", CONFIG) as directory:
        directory.begin()
    saved = json.loads(CONFIG.to_json())
    del saved["gap"]["samples"], saved["dev"]["fresh"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved))
    with pytest.raises(RunError, match=r"older version.*dev\.fresh.*can be shown, not continued"):
        check_directory(tmp_path / "run", WANTED)
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved | {"seed": 6}))
    with pytest.raises(RunError, match="another configuration"):
        check_directory(tmp_path / "run", WANTED)


def test_a_directory_is_made_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    with RunDirectory(path, CONFIG) as directory:
        assert not directory.begun
        directory.begin()
        directory.log("hello")
    with RunDirectory(path, CONFIG) as directory:
        assert directory.begun
    assert read_saved_config(path)["seed"] == 5
    assert (path / "log.txt").read_text().endswith("hello\n")


def test_leaving_before_it_begins_takes_everything_away_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with RunDirectory(tmp_path / "mine" / "deep" / "run", CONFIG):
        assert (tmp_path / "mine" / "deep" / "run" / "lock").exists()
    assert list((tmp_path / "mine").iterdir()) == []


def test_leaving_keeps_what_somebody_else_has_put_there(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "deep" / "run", CONFIG):
        (tmp_path / "deep" / "notes.txt").touch()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["notes.txt"]


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        RunDirectory(tmp_path / ("x" * 300), CONFIG)


def test_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", CONFIG) as directory:
        directory.begin()
    other = load_config(overrides={"seed": 5, "train.beta": 0.5})
    with pytest.raises(RunError, match=r"train\.beta: .* -> 0\.5.*another --run-dir"):
        RunDirectory(tmp_path / "run", other)


def test_foreign_directories_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="holds no run"):
        RunDirectory(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file"):
        check_directory(tmp_path / "thesis.tex", WANTED)


def test_what_another_command_began_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"config": {"epochs": 2}, "facts": {}}))
    with pytest.raises(RunError, match=r"holds no run but something else \(config\.json\); give another --run-dir"):
        RunDirectory(tmp_path, CONFIG)
    wanted = {"config": {"epochs": 3}, "facts": {}}
    with pytest.raises(RunError, match=r"thing of another configuration \(config\.epochs: 2 -> 3\); give another --in"):
        check_directory(tmp_path, wanted, "thing", "--in")
    (tmp_path / "config.json").unlink()
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match=r"is not empty and holds no thing \(no config\.json\); give another --in"):
        check_directory(tmp_path, wanted, "thing", "--in")
    with pytest.raises(RunError, match=r"is a file; give another --in"):
        check_directory(tmp_path / "thesis.tex", wanted, "thing", "--in")
    with pytest.raises(RunError, match=r"cannot write.*; give another --in"):
        check_directory(tmp_path / ("x" * 300), wanted, "thing", "--in")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_process_is_refused_and_a_dead_one_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from selfdev.config import load_config;"
        "from selfdev.rundir import RunDirectory;"
        "d = RunDirectory(Path(sys.argv[1]), load_config(overrides={'seed': 5})); print('up', flush=True);"
        "time.sleep(60)"
    )
    path = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "up\n"
        with pytest.raises(RunError, match=rf"another selfdev process \(pid {holder.pid}\)"):
            RunDirectory(path, CONFIG)
        holder.kill()
        holder.wait()
    with RunDirectory(path, CONFIG):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot write"):
        RunDirectory(tmp_path / "run", CONFIG)


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        RunDirectory(tmp_path / "file" / "run", CONFIG)


def test_damaged_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        read_saved_config(tmp_path)
    with pytest.raises(RunError, match="is not a run directory"):
        read_saved_config(tmp_path / "nothing")


def test_write_atomic_replaces_whole_files(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "x.txt", "one")
    write_atomic(tmp_path / "a" / "x.txt", "two")
    assert [(p.name, p.read_text()) for p in (tmp_path / "a").iterdir()] == [("x.txt", "two")]

"""What a phase leaves behind: one line, in a log too."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

from rich.console import Console

from selfdev.config import load_config
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory


def test_a_phase_leaves_one_line_in_a_log(tmp_path: Path) -> None:
    stream = StringIO()
    with RunDirectory(tmp_path / "run", load_config()) as directory:
        directory.begin()
        view = RunView(Console(file=stream, width=80))
        with view.phase(directory, 2, "race", 3) as advance:
            advance(3)
        with view.phase(directory, 0, "confirm", None):
            pass
        assert set(directory.store.seconds()) == {0, 2}
    assert re.fullmatch(r"iteration 2 · race: \d+\.\d s\nconfirm: \d+\.\d s\n", stream.getvalue())

"""Files of a self-improvement. What is there is not done again; what is half there is completed or begun anew.

config.json                    configuration, and digests of model, questions and external answers
samples/epoch-01.jsonl         N samples of every training question, drawn before the epoch
kept/epoch-01.jsonl            what the epoch trained on: own selected answers and external ones
checkpoints/epoch-01-middle/   LoRA adapter in the middle of the epoch
checkpoints/epoch-01/          at its end, with its losses; no directory where nothing was kept
measurements/00.jsonl          N samples of every measurement question: at the start, then two per epoch
curves.csv                     measurement questions; `selfdev gap fit` reads it
curves-train.csv               training questions, from the samples of each epoch, so one point per epoch
result.json                    fits, forecast, cross-improvement
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from selfdev.rundir import CONFIG_NAME, LOCK_NAME, check_directory, take_lock, translated, write_atomic
from selfdev.selfimprove.settings import ImproveConfig

WHAT, OPTION = "self-improvement", "--out"


class Directory(AbstractContextManager["Directory"]):
    """A directory that this process alone may write to."""

    def __init__(self, path: Path, config: ImproveConfig, facts: Mapping[str, str]) -> None:
        """Lock the directory; make it if it does not exist.

        Raises:
            RunError: locked, of another configuration, something else's, or not writable.
        """
        self.path = path
        wanted = {"config": json.loads(config.model_dump_json()), "facts": dict(facts)}
        with translated(path, OPTION):
            check_directory(path, wanted, WHAT, OPTION)
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = take_lock(path / LOCK_NAME, OPTION)
            check_directory(path, wanted, WHAT, OPTION)  # again: another process may have been faster
            self.begun = (path / CONFIG_NAME).exists()
            if not self.begun:
                write_atomic(path / CONFIG_NAME, json.dumps(wanted, indent=2) + "\n")
            for name in ("samples", "kept", "checkpoints", "measurements"):
                (path / name).mkdir(exist_ok=True)

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def samples(self, epoch: int) -> Path:
        """Samples of the training questions."""
        return self.path / "samples" / f"epoch-{epoch:02d}.jsonl"

    def kept(self, epoch: int) -> Path:
        """What the epoch trains on."""
        return self.path / "kept" / f"epoch-{epoch:02d}.jsonl"

    def checkpoint(self, epoch: int, middle: bool = False) -> Path:
        """Adapter of an epoch."""
        return self.path / "checkpoints" / f"epoch-{epoch:02d}{'-middle' if middle else ''}"

    def measurement(self, number: int) -> Path:
        """Samples of the measurement questions."""
        return self.path / "measurements" / f"{number:02d}.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON lines file; a last line that was cut while it was written is no row. [] where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows at once, or nothing."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def keep_rows(path: Path, count: int) -> None:
    """Cut the file after its first `count` rows."""
    lines = path.read_bytes().split(b"\n")[:count] if path.exists() else []
    with path.open("r+b" if path.exists() else "w+b") as stream:
        stream.truncate(sum(len(line) + 1 for line in lines))


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows by one write, on the disk when this returns."""
    with path.open("ab") as stream:
        stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        stream.flush()
        os.fsync(stream.fileno())

"""A run directory: who may write to it, and where things lie in it.

    config.json        the resolved configuration
    store.sqlite       everything else that must survive
    algorithms/        every scored program as a file       (a view of the store)
    pairs/             DPO data per iteration               (a view of the store)
    checkpoints/       iteration-N/: the generator's LoRA adapter after N iterations
    log.txt            one line per event

One process at a time: a lock on `lock`, which the system releases when the holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from selfdev.config import RunConfig, differences
from selfdev.errors import RunError, UsageError
from selfdev.store import FILE_NAME, Store

CONFIG_NAME = "config.json"
LOCK_NAME = "lock"


class RunDirectory:
    """A run directory that this process alone may write to. Use as a context manager, then `begin`.

    Until `begin` the directory holds nothing but the lock; leaving without it takes away what was made here.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        """Lock the directory; make it if it does not exist.

        Raises:
            RunError: locked by another process, belongs to another configuration, not a run directory, or unwritable.
        """
        self.path = path
        self._config = config
        self._store: Store | None = None
        with translated(path):
            wanted = json.loads(config.to_json())
            check_directory(path, wanted)
            self._made = [p for p in (path, *path.parents) if not p.exists()]  # deepest first
            path.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(path / LOCK_NAME)
            check_directory(path, wanted)  # again: another process may have been faster

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        if self._store is not None:
            self._store.close()
            self._log.close()
        elif self._made:
            (self.path / LOCK_NAME).unlink(missing_ok=True)
            with suppress(OSError):  # somebody else has put something there since
                for folder in self._made:
                    folder.rmdir()
        self._lock.close()

    @property
    def begun(self) -> bool:
        """An earlier sitting has written here."""
        return (self.path / CONFIG_NAME).exists()

    def begin(self) -> None:
        """Write the configuration if it is not there, open store and log.

        Raises:
            RunError: the directory cannot be written, or its store cannot be used.
        """
        with translated(self.path):
            if not self.begun:
                write_atomic(self.path / CONFIG_NAME, self._config.to_json())
            self._log = (self.path / "log.txt").open("a", encoding="utf-8")
        self._store = Store(self.path / FILE_NAME)

    @property
    def store(self) -> Store:
        """The run's store; there once `begin` was called."""
        if self._store is None:
            raise RuntimeError("begin() comes first")
        return self._store

    def checkpoint(self, iteration: int) -> Path:
        """Where the adapter trained in an iteration lies."""
        return self.path / "checkpoints" / f"iteration-{iteration}"

    def checkpoint_name(self, adapter: Path | None) -> str:
        """How the store names a checkpoint: `base`, or the adapter's directory below the run."""
        return "base" if adapter is None else adapter.relative_to(self.path).as_posix()

    def log(self, message: str) -> None:
        """Append one line with the time."""
        self._log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {message}\n")
        self._log.flush()


@contextmanager
def translated(path: Path, option: str = "--run-dir") -> Iterator[None]:
    """Errors of the file system become a line for people."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write to {path}: {error.strerror}; give another {option}") from None


def check_directory(path: Path, wanted: Mapping[str, Any], what: str = "run", option: str = "--run-dir") -> None:
    """Fail unless `path` is free and can be made, or holds what this very configuration began. Leaves nothing behind.

    Args:
        path: where a command is to work.
        wanted: what its `config.json` says, or would say.
        what: that such a directory holds, in messages.
        option: by which people name another one.

    Raises:
        RunError: with the reason, and what to do.
    """
    with translated(path, option):
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; give another {option}")
        if (path / CONFIG_NAME).exists():
            held = read_saved_config(path)
            if not held.keys() & wanted.keys():
                raise RunError(f"{path} holds no {what} but something else ({CONFIG_NAME}); give another {option}")
            _check_same(path, held, wanted, what, option)
        elif path.is_dir() and any(p.name != LOCK_NAME and p.suffix != ".tmp" for p in path.iterdir()):
            raise RunError(f"{path} is not empty and holds no {what} (no {CONFIG_NAME}); give another {option}")
        _probe_writable(path)


def _check_same(path: Path, held: Mapping[str, Any], wanted: Mapping[str, Any], what: str, option: str) -> None:
    changed = differences(held, wanted)
    if changed and all(_absent(held, line.partition(":")[0]) for line in changed):
        raise RunError(
            f"{path} was begun by an older version, without settings that this one has "
            f"({', '.join(line.partition(':')[0] for line in changed[:4])}, ...): it can be shown, not continued"
        )
    if changed:
        shown = "; ".join(changed[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
        raise RunError(f"{path} belongs to a {what} of another configuration ({shown}); give another {option}")


def _absent(values: object, dotted: str) -> bool:
    """Whether a configuration has no such key at all."""
    for key in dotted.split("."):
        if not isinstance(values, dict) or key not in values:
            return True
        values = values[key]
    return False


def _probe_writable(path: Path) -> None:
    """Make and remove a folder in `path`, or in its nearest ancestor: permissions alone do not tell."""
    nearest = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    os.rmdir(tempfile.mkdtemp(prefix=".selfdev-", suffix=".tmp", dir=nearest))


def read_saved_config(path: Path) -> dict[str, object]:
    """The resolved configuration of a run.

    Raises:
        RunError: there is none, or it is damaged.
    """
    try:
        values = json.loads((path / CONFIG_NAME).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is not a run directory (no {CONFIG_NAME}); `selfdev run` makes one") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path / CONFIG_NAME} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise RunError(f"{path / CONFIG_NAME} holds no configuration")
    return values


def read_run_config(path: Path) -> RunConfig:
    """The configuration of a run, for commands that go on working in it.

    Raises:
        RunError: there is none, or it was written by a version with other settings.
    """
    try:
        return RunConfig.model_validate_json(json.dumps(read_saved_config(path)))
    except ValidationError as error:
        raise RunError(
            f"{path / CONFIG_NAME} is not a configuration of this version: {error.errors()[0]['msg']}"
        ) from None


def check_writable(path: Path) -> None:
    """Check, before long work, that `write_atomic` can write this file.

    Raises:
        UsageError: a directory, or in a place that is missing or not writable.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {path}; give a file in an existing, writable directory")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def take_lock(path: Path, option: str = "--run-dir") -> IO[str]:
    """Lock a file until it is closed or this process ends, however it ends.

    Raises:
        RunError: another process holds it.
    """
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise RunError(
            f"another selfdev process (pid {holder}) is working on {path.parent}; wait for it or give another {option}"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file

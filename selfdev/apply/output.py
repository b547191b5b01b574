"""Directories that appear whole: made beside their place under another name, then renamed."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from selfdev.errors import StageError, UsageError
from selfdev.models import local_directory

# What a model directory needs beside weights; a card of its own is written.
_CARRIED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_TEMPLATES = "additional_chat_templates"
_PARTIAL = ".partial"


def check_new(out: Path) -> None:
    """Check, before long work, that a directory can appear there.

    Raises:
        UsageError: something is there already, or its parent is missing or not writable.
    """
    parent = out.absolute().parent
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists already; give a new --out")
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"cannot write {out}; give a new directory in an existing, writable one")


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A temporary directory that becomes `out` when the block ends well, and goes away when it does not.

    What processes that were killed have left of the same `out` goes away first.

    Raises:
        UsageError: as `check_new`.
        StageError: it cannot be written.
    """
    check_new(out)
    parent, prefix = out.absolute().parent, f".{out.name}-"
    with ExitStack() as stack:
        for left in parent.glob(f"{glob.escape(prefix)}*{_PARTIAL}"):
            if _locked(left, stack):
                shutil.rmtree(left, ignore_errors=True)
        try:
            made = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=_PARTIAL))
            stack.callback(shutil.rmtree, made, ignore_errors=True)
            _locked(made, stack)
            yield made
            made.chmod(0o755)
            check_new(out)
            made.rename(out)
        except OSError as error:
            raise StageError(f"cannot write {out}: {error.strerror or error}; give another --out") from None


def _locked(directory: Path, stack: ExitStack) -> bool:
    """Lock a directory for this process while the stack is open; False: another one has it, or it cannot be opened."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def carry_over(ref: str, directory: Path) -> list[str]:
    """Copy configuration, tokenizer, chat template and generation settings of a model; the names of the files."""
    origin = local_directory(ref)
    names = [name for name in _CARRIED if (origin / name).is_file()]
    for name in names:
        shutil.copyfile(origin / name, directory / name)
    if (origin / _TEMPLATES).is_dir():
        shutil.copytree(origin / _TEMPLATES, directory / _TEMPLATES)
        names.append(_TEMPLATES)
    return names

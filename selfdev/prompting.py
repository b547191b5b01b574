"""Find, render and hash the files of `prompts/`. Templates are Jinja; a missing variable fails."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError

from selfdev.errors import UsageError


def prompts_dir() -> Path:
    """The prompts: inside the package when installed, at the repository's top level in development."""
    package = Path(__file__).parent
    installed = package / "prompts"
    return installed if installed.is_dir() else package.parent / "prompts"


def read_prompt(relative: str) -> str:
    """The text of one file below prompts/, as it is.

    Raises:
        UsageError: no such file, or a path that leaves the folder.
    """
    root = prompts_dir().resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        allowed = ", ".join(sorted(p.relative_to(root).as_posix() for p in root.rglob("*.jinja")))
        raise UsageError(f"no prompt {relative!r}; allowed: {allowed}")
    return path.read_text("utf-8")


def render_prompt(relative: str, **variables: Any) -> str:
    """One file below prompts/, rendered. The trailing newline stays: prompts end on a token border."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        return environment.from_string(read_prompt(relative)).render(**variables)
    except TemplateError as error:
        raise UsageError(f"prompt {relative!r} does not render: {error}") from None


def text_hash(text: str) -> str:
    """SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()

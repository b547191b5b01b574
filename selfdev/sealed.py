"""The test set in an envelope: what a search may know of it, and a file that only `selfdev test` opens.

When a run begins, its test questions and their reference answers are written to `sealed/test.json` in the run directory
and their digest to the store; then the process forgets them. Search, pairing and training are given a task without test
questions and never import `open_envelope`. What stays known of a test question is its id and the hash of its prompt.

This guards against mistakes of the program, not against its owner: the file can be read by who may read the run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from selfdev.errors import RunError
from selfdev.prompting import text_hash
from selfdev.rundir import write_atomic
from selfdev.tasks.base import Task
from selfdev.types import Question

SEALED_NAME = Path("sealed") / "test.json"


@dataclass(frozen=True, slots=True)
class PublicQuestion:
    """What a search may know of a test question."""

    id: str
    prompt_hash: str
    skill: str


@dataclass(slots=True)
class Envelope:
    """Test questions on their way to the disk; they can be written once, and not be read from here."""

    questions: tuple[PublicQuestion, ...]
    digest: str  # SHA-256 of the sealed file
    _content: str | None = field(repr=False)

    def seal(self, run: Path) -> None:
        """Write the file if it is not there, and forget the questions. One that is there is not looked into."""
        path = run / SEALED_NAME
        content, self._content = self._content, None
        if content is not None and not path.exists():
            write_atomic(path, content)


def seal(task: Task) -> tuple[Task, Envelope]:
    """The task without its test questions and their references, and the envelope that holds the questions."""
    content = json.dumps(
        [{"id": q.id, "prompt": q.prompt, "gold": q.gold, "skill": q.skill} for q in task.test], indent=0
    )
    public = tuple(PublicQuestion(q.id, text_hash(q.prompt), q.skill) for q in task.test)
    dev_ids = {q.id for q in task.dev}
    references = {id_: text for id_, text in task.references.items() if id_ in dev_ids}
    return replace(task, test=(), references=references), Envelope(public, _digest(content), content)


def open_envelope(run: Path, digest: str) -> tuple[Question, ...]:
    """The test questions of a run. Called by `selfdev test` and nothing else.

    Raises:
        RunError: the file is missing or is not the one that was sealed.
    """
    path = run / SEALED_NAME
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); the test questions of a run lie there") from None
    _check(content, digest, path)
    return tuple(Question(row["id"], row["prompt"], row["gold"], row["skill"]) for row in json.loads(content))


def _check(content: str, digest: str, path: Path) -> None:
    if _digest(content) != digest:
        raise RunError(f"{path} has changed since the run was begun, so its test scores would mean nothing")


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()

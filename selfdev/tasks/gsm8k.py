"""GSM8K (Cobbe et al., arXiv 2110.14168): rows from a file or the hub, a frozen 5-shot prefix, lm-eval's grading.

The five worked problems are the project's own (prompts/tasks/gsm8k-5shot.json), the same for every question, so that an
engine can compute them once; lm-eval draws other shots for every question. Left out: lm-eval's exact prompts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from selfdev.errors import DataError
from selfdev.grading.gsm8k import extract_strict, grade_strict, normalise
from selfdev.prompting import read_prompt
from selfdev.tasks.base import Task
from selfdev.types import Question

HUB_ID = "openai/gsm8k"
STOP = ("Question:", "</s>", "<|im_end|>")  # lm-eval 0.4.13
MAX_NEW_TOKENS = 256  # lm-eval 0.4.13

_SHOTS = "tasks/gsm8k-5shot.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the data set."""

    question: str
    answer: str  # the whole reference solution, ending in `#### N`


def gsm8k_task(*, dev_size: int, test_size: int | None, seed: int, data: str | Path | None = None) -> Task:
    """Dev and test questions drawn without overlap from the same rows (the paper draws both from the test split).

    Raises:
        DataError: the rows cannot be read or do not suffice.
    """
    rows = load_rows(data)
    wanted = dev_size + (1 if test_size is None else test_size)
    if wanted > len(rows):
        raise DataError(
            f"{_source(data)} has {len(rows)} different questions; {dev_size} for dev and "
            f"{'at least 1' if test_size is None else test_size} for test were asked for"
        )
    drawn = random.Random(f"gsm8k/{seed}").sample(rows, len(rows) if test_size is None else wanted)
    return _task(drawn[:dev_size], drawn[dev_size:])


def gsm8k_questions(*, limit: int, data: str | Path | None = None) -> Task:
    """The first rows in order, all of them in `dev`: what one model is scored on.

    Raises:
        DataError: the rows cannot be read.
    """
    return _task(load_rows(data, limit), [])


def _task(dev: Sequence[Row], test: Sequence[Row]) -> Task:
    prefix = few_shot_prefix()
    return Task(
        name="gsm8k",
        dev=tuple(to_question(row, "dev", prefix) for row in dev),
        test=tuple(to_question(row, "test", prefix) for row in test),
        stop=STOP,
        max_new_tokens=MAX_NEW_TOKENS,
        grade=grade_strict,
    )


def to_question(row: Row, split: str, prefix: str) -> Question:
    """The row as the solver sees it, behind the few-shot prefix."""
    return Question(
        id=f"gsm8k-{split}-{hashlib.sha256(row.question.encode()).hexdigest()[:12]}",
        prompt=f"{prefix}Question: {row.question}\nAnswer:",
        gold=normalise(row.answer),
    )


def few_shot_prefix() -> str:
    """Five worked problems in lm-eval's layout, each followed by a blank line."""
    shots = json.loads(read_prompt(_SHOTS))
    return "".join(f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n" for shot in shots)


def load_rows(data: str | Path | None = None, limit: int | None = None) -> list[Row]:
    """Rows in the order of the source; a question that occurs twice is kept once.

    Args:
        data: a .jsonl or .jsonl.gz file with the fields question and answer; None for the hub's test split.
        limit: stop after this many rows.

    Raises:
        DataError: no such file, a malformed line (path and number are given), no rows, or no access to the hub.
    """
    found: dict[str, Row] = {}
    for row in _hub_rows() if data is None else _file_rows(Path(data)):
        if limit is not None and len(found) >= limit:
            break
        found.setdefault(row.question, row)
    if not found:
        raise DataError(f"{_source(data)} holds no rows; one JSON object a line is needed, with question and answer")
    return list(found.values())


def _source(data: str | Path | None) -> str:
    return f"data set {HUB_ID}" if data is None else str(data)


def _file_rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise DataError(f"no data file {path}; give a .jsonl or .jsonl.gz file with the fields question and answer")
    number = 0
    try:
        with _open_text(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _parse(line, f"{path}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read after line {number} ({error})") from error


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _parse(line: str, place: str) -> Row:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON ({error})") from error
    return _row(fields, place)


def _row(fields: Any, place: str) -> Row:
    if not isinstance(fields, dict):
        raise DataError(f"{place}: a JSON object with question and answer is needed")
    for name in ("question", "answer"):
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            raise DataError(f"{place}: field {name!r} is missing, empty or no text; found fields: {_names(fields)}")
    if extract_strict(fields["answer"]) is None:
        raise DataError(f"{place}: the answer does not end in '#### N', so there is nothing to compare with")
    return Row(question=fields["question"], answer=fields["answer"])


def _names(fields: dict[str, Any]) -> str:
    return ", ".join(map(str, fields)) or "none"


def _hub_rows() -> Iterator[Row]:
    from datasets import load_dataset

    try:
        rows: Sequence[Any] = load_dataset(HUB_ID, "main", split="test")
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"data set {HUB_ID} cannot be loaded ({type(error).__name__}: is the hub reachable?); "
            "give a .jsonl file with --data"
        ) from error
    for number, fields in enumerate(rows, start=1):
        yield _row(dict(fields), f"data set {HUB_ID}, row {number}")

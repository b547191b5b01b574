"""`selfdev grade`: verdicts on completions that lie in a file, whoever made them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from selfdev.errors import DataError, UsageError
from selfdev.grading.base import Grade

# For each task the graders that report it, the one that the search uses first.
TASK_GRADERS: dict[str, tuple[str, ...]] = {
    "arithmetic": ("gsm8k-strict", "gsm8k-flexible"),
    "gsm8k": ("gsm8k-strict", "gsm8k-flexible"),
    "math": ("math", "math-minerva", "math-verify", "math-hendrycks"),
    "hendrycks_math": ("math", "math-minerva", "math-verify", "math-hendrycks"),
    "jsonl": ("exact", "number"),
}
FIELDS = ("id", "completion", "gold")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the file."""

    number: int  # of the line, from 1
    id: str
    completion: str
    gold: str  # the reference as given: a whole solution or a bare answer
    truncated: bool | None  # None: the line does not say


def grade(
    task: Annotated[str, typer.Option("--task", "-t", help="gsm8k, math, jsonl or arithmetic.")],
    completions: Annotated[
        Path, typer.Option("--completions", "-c", help="A .jsonl file with id, completion and gold.")
    ],
    grader: Annotated[
        str | None,
        typer.Option("--grader", "-g", help="One grader, or several with commas. Default: all of the task's."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a verdict per row to this .jsonl file.")
    ] = None,
) -> None:
    """Grade completions from a file. A row may say `"truncated": true`; it is counted, and graded all the same."""
    names = _graders(task, grader)
    _check_output(output, completions)
    rows = read_rows(completions)
    console = Console()
    golds = {name: [_gold(name, row, completions) for row in rows] for name in names}
    verdicts = {name: _grade(name, rows, golds[name], console) for name in names}
    console.print(_table(task, rows, verdicts))
    if output is not None:
        _write(output, rows, verdicts)
        console.print(f"verdicts: {output}")


def _graders(task: str, grader: str | None) -> tuple[str, ...]:
    from selfdev.grading import load_grader

    if task not in TASK_GRADERS:
        raise UsageError(f"unknown task {task!r}; allowed: {', '.join(TASK_GRADERS)}")
    names = TASK_GRADERS[task] if grader is None else tuple(dict.fromkeys(name.strip() for name in grader.split(",")))
    for name in names:
        load_grader(name)
    return names


def _check_output(output: Path | None, completions: Path) -> None:
    if output is None:
        return
    if output.exists() and completions.exists() and output.samefile(completions):
        raise UsageError(f"output {output} is the file of completions; give another name")
    from selfdev.rundir import check_writable

    check_writable(output)


def read_rows(path: Path) -> list[Row]:
    """The file's rows in order.

    Raises:
        DataError: no such file, no rows, or a malformed line, with its number.
    """
    if not path.is_file():
        raise DataError(f"no file {path}; give a .jsonl file with the fields {', '.join(FIELDS)}")
    rows = list(_lines(path))
    if not rows:
        raise DataError(f"{path} holds no rows; one JSON object a line is needed, with {', '.join(FIELDS)}")
    return rows


def _lines(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _row(line, number, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read after line {number} ({error})") from error


def _row(line: str, number: int, place: str) -> Row:
    try:
        fields = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: a JSON object with {', '.join(FIELDS)} is needed")
    for name in FIELDS:
        if name not in fields:
            raise DataError(f"{place}: field {name!r} is missing; found fields: {', '.join(fields) or 'none'}")
    if not isinstance(fields["completion"], str):
        raise DataError(f"{place}: field 'completion' is no text")
    truncated = fields.get("truncated")
    if truncated is not None and not isinstance(truncated, bool):
        raise DataError(f"{place}: field 'truncated' is neither true nor false")
    return Row(number, _plain(fields, "id", place), fields["completion"], _plain(fields, "gold", place), truncated)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _plain(fields: dict[str, Any], name: str, place: str) -> str:
    value = fields[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 51.0 is written 51, as GSM8K does
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise DataError(f"{place}: field {name!r} is neither text nor a number, or is empty")
    return str(value)


def _grade(name: str, rows: Sequence[Row], golds: Sequence[str], console: Console) -> list[Grade]:
    from selfdev.grading import grade_all, load_grader

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        graded = bar.add_task(name, total=len(rows))
        texts = [row.completion for row in rows]
        return grade_all(load_grader(name), texts, golds, lambda: bar.advance(graded))


def _gold(name: str, row: Row, path: Path) -> str:
    from selfdev.grading import gold_of

    try:
        return gold_of(name, row.gold)
    except DataError as error:
        raise DataError(f"{path}, line {row.number}: {error}") from None


def _table(task: str, rows: Sequence[Row], verdicts: dict[str, list[Grade]]) -> Table:
    from selfdev.stats import wilson_interval

    heads = ("grader", "accuracy", "correct", "95 % interval", "unparsable", "timeouts")
    table = Table(*heads, title=f"{task}: {len(rows)} completions", title_justify="left")
    for name, grades in verdicts.items():
        correct = sum(verdict.correct for verdict in grades)
        low, high = wilson_interval(correct, len(grades))
        table.add_row(
            name,
            f"{correct / len(grades):.3f}",
            f"{correct}/{len(grades)}",
            f"{low:.3f} to {high:.3f}",
            str(sum(verdict.extracted is None and not verdict.timed_out for verdict in grades)),
            str(sum(verdict.timed_out for verdict in grades)),
        )
    table.caption = _caption(rows)
    return table


def _caption(rows: Sequence[Row]) -> str:
    told = [row.truncated for row in rows if row.truncated is not None]
    parts = [
        f"{sum(not row.completion.strip() for row in rows)} empty",
        f"{sum(told)} truncated" if told else "truncated unknown: no row has the field",
    ]
    if 0 < len(told) < len(rows):
        parts.append(f"{len(rows) - len(told)} rows without the field 'truncated'")
    repeated = len(rows) - len({row.id for row in rows})
    if repeated:
        parts.append(f"{repeated} ids occur again")
    return ", ".join(parts)


def _write(path: Path, rows: Sequence[Row], verdicts: dict[str, list[Grade]]) -> None:
    from selfdev.rundir import write_atomic

    text = "".join(_line(row, i, verdicts) for i, row in enumerate(rows))
    try:
        write_atomic(path, text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _line(row: Row, index: int, verdicts: dict[str, list[Grade]]) -> str:
    fields: dict[str, Any] = {"id": row.id, "gold": row.gold}
    for name, grades in verdicts.items():
        verdict = grades[index]
        fields[name] = {"extracted": verdict.extracted, "correct": verdict.correct, "timed_out": verdict.timed_out}
    if row.truncated is not None:
        fields["truncated"] = row.truncated
    return json.dumps(fields) + "\n"

"""Rows of a data set, from .jsonl, .jsonl.gz or .parquet files or from the hub: one reader, the same fields everywhere.

A bad row stops the reading with one line that names file and row: a benchmark with a hole in it gives numbers that
cannot be compared. Left out: what the fields mean (see the tasks), splits.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from selfdev.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a row are read. A dotted name reaches into nested objects."""

    question: tuple[str, ...]  # several are joined by one blank
    answer: str
    subject: str | None = None  # None: rows have no subject

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, as a user would write them."""
        return (*self.question, self.answer, *(() if self.subject is None else (self.subject,)))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the data, as written."""

    question: str
    answer: str  # the whole reference: a solution or just its answer
    subject: str  # "" where there is none
    place: str  # for messages: file and row


def read_rows(path: str | Path, fields: Fields, limit: int | None = None) -> list[Row]:
    """Rows of a local file, in order.

    Args:
        path: .parquet, .gz (JSON lines) or JSON lines under any other name.
        fields: what to read.
        limit: stop after this many rows.

    Raises:
        DataError: no such file, unreadable, no rows, or a bad row (file and row are given).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(
            f"no data file {path}; give a .jsonl, .jsonl.gz or .parquet file with the fields {', '.join(fields.names)}"
        )
    records = _parquet(path) if path.suffix == ".parquet" else _json_lines(path)
    rows = list(islice((_row(record, fields, place) for place, record in records), limit))
    if not rows:
        raise DataError(f"{path} holds no rows; rows with the fields {', '.join(fields.names)} are needed")
    return rows


def hub_rows(data_set: str, configs: Sequence[str], split: str, fields: Fields, limit: int | None = None) -> list[Row]:
    """Rows of a split of a hub data set, its configs one after the other in the order given.

    Raises:
        DataError: the hub does not serve it, or a bad row.
    """
    rows: list[Row] = []
    for config in configs:
        if limit is None or len(rows) < limit:
            rows += _hub_config(data_set, config, split, fields, None if limit is None else limit - len(rows))
    return rows


def content_hash(rows: Iterable[Row]) -> str:
    """SHA-256 over what the rows say, in order: the same for a .jsonl file, its .gz and its .parquet."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.question, row.answer, row.subject]).encode() + b"\n")
    return digest.hexdigest()


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with _open_text(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield (place := f"{path}, line {number}"), _parse(line, place)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read after line {number} ({error})") from error


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _parse(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error}); one JSON object a line is needed") from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", record
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet after row {number} ({error})") from error


def _hub_config(data_set: str, config: str, split: str, fields: Fields, limit: int | None) -> list[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        records: Sequence[Any] = load_dataset(data_set, config, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        key = "train_data" if split == "train" else "data"
        raise DataError(
            f"data set {data_set} ({config}, {split}) did not load ({type(error).__name__}: is the hub reachable?); "
            f"give a local file with the fields {', '.join(fields.names)}: task.{key} or --{key.replace('_', '-')} FILE"
        ) from error
    numbered = enumerate(islice(iter(records), limit), start=1)
    return [_row(dict(record), fields, f"data set {data_set}, {config} {split} row {number}")
            for number, record in numbered]  # fmt: skip


def _row(record: Any, fields: Fields, place: str) -> Row:
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: an object with the fields {', '.join(fields.names)} is needed")
    parts = [_text(record, name, fields, place, numbers=False) for name in fields.question]
    return Row(
        question=parts[0] if len(parts) == 1 else " ".join(part.strip() for part in parts),
        answer=_text(record, fields.answer, fields, place, numbers=True),
        subject="" if fields.subject is None else _text(record, fields.subject, fields, place, numbers=False),
        place=place,
    )


def _text(record: Mapping[str, Any], name: str, fields: Fields, place: str, *, numbers: bool) -> str:
    value = _value(record, name)
    if numbers:
        value = _number_text(value)
    if not isinstance(value, str) or not value.strip():
        found = ", ".join(map(str, record)) or "none"
        raise DataError(
            f"{place}: field {name!r} is missing, empty or no text; found fields: {found}; "
            f"expected: {', '.join(fields.names)}"
        )
    if _SURROGATE.search(value):
        raise DataError(f"{place}: field {name!r} holds half of a surrogate pair, which is not text")
    return value


def _number_text(value: Any) -> Any:
    """A number as text, whole ones without a point; everything else, `true` and NaN too, as it is."""
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value) if value.is_integer() else value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _value(record: Mapping[str, Any], name: str) -> Any:
    if name in record:
        return record[name]
    head, _, rest = name.partition(".")
    inner = record.get(head)
    return _value(inner, rest) if rest and isinstance(inner, Mapping) else None

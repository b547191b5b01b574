"""Reading rows: three formats that say the same, and one clear line for everything that is wrong with a file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from pyarrow import parquet

from selfdev.errors import DataError
from selfdev.tasks.rows import Fields, Row, content_hash, hub_rows, read_rows

FIELDS = Fields(("question",), "answer")
SUBJECTS = Fields(("problem",), "solution", "type")
TWO = [{"question": "How many legs?", "answer": "Four.\n#### 4"}, {"question": "Café “Zum Hof”?", "answer": "#### 2"}]
GOOD = '{"question": "q", "answer": "#### 1"}\n'


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "unit"), [("rows.jsonl", "line"), ("rows.jsonl.gz", "line"), ("rows.parquet", "row"), ("rows", "line")]
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, unit: str) -> None:
    path = write(tmp_path / name, TWO)
    rows = read_rows(path, FIELDS)
    assert rows == [
        Row("How many legs?", "Four.\n#### 4", "", f"{path}, {unit} 1"),
        Row("Café “Zum Hof”?", "#### 2", "", f"{path}, {unit} 2"),
    ]
    assert content_hash(rows) == content_hash(read_rows(write(tmp_path / "other.jsonl", TWO), FIELDS))
    assert read_rows(path, FIELDS, limit=1) == rows[:1]


def test_the_content_hash_follows_order_and_every_field() -> None:
    one, two = Row("q", "a", "s", "here"), Row("r", "a", "s", "there")
    assert content_hash([one]) == content_hash([Row("q", "a", "s", "elsewhere")])
    others = [[two, one], [one], [Row("q", "b", "s", ""), two], [Row("q", "a", "t", ""), two]]
    assert len({content_hash(rows) for rows in [[one, two], *others]}) == 5


def test_a_byte_order_mark_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    plain = tmp_path / "bom.jsonl"
    plain.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\n \n{GOOD}".encode())
    packed = tmp_path / "bom.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        assert [row.place for row in read_rows(path, FIELDS)] == [f"{path}, line 1", f"{path}, line 4"]


def test_several_question_fields_are_joined_and_dots_reach_inside(tmp_path: Path) -> None:
    row = {"Body": "Each pack costs 76 dollars ", "Question": " How much?", "more": {"Answer": 51.0, "a.b": "x"}}
    path = write(tmp_path / "rows.jsonl", [row])
    (read,) = read_rows(path, Fields(("Body", "Question"), "more.Answer"))
    assert (read.question, read.answer) == ("Each pack costs 76 dollars How much?", "51")
    assert read_rows(path, Fields(("Body",), "more.a.b"))[0].answer == "x"  # a name with a dot wins over reaching in
    assert read_rows(path, Fields(("Body",), "more.Answer"))[0].question == "Each pack costs 76 dollars "  # as written


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (51.0, "51"), (0.5, "0.5"), (-2, "-2"), (10**400, str(10**400)), (" 7 ", " 7 ")],
    ids=["int", "whole float", "float", "negative", "huge", "text"],
)
def test_a_number_serves_as_an_answer(tmp_path: Path, value: object, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": value}))
    assert read_rows(path, FIELDS)[0].answer == text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "holds no rows"),
        ("\n\n", "holds no rows"),
        (GOOD + "{", "line 2: not JSON"),
        (GOOD + "[" * 100_000, "line 2: not JSON"),
        (GOOD + "[1]", "line 2: an object with the fields question, answer is needed"),
        (GOOD + "7", "line 2: an object"),
        (GOOD + '\n{"question": "r"}', "line 3: field 'answer' is missing, empty or no text; found fields: question"),
        (GOOD + '{"question": "r", "answer": null}', "line 2: field 'answer'"),
        (GOOD + '{"question": "r", "answer": ""}', "line 2: field 'answer'"),
        (GOOD + '{"question": "r", "answer": true}', "line 2: field 'answer'"),
        (GOOD + '{"question": "r", "answer": NaN}', "line 2: field 'answer'"),
        (GOOD + '{"question": "r", "answer": ["4"]}', "line 2: field 'answer'"),
        ('{"question": " \\n", "answer": "#### 1"}', "line 1: field 'question'"),
        ('{"question": 3, "answer": "#### 1"}', "line 1: field 'question'"),
        ('{"problem": "q", "solution": "1"}', "found fields: problem, solution; expected: question, answer"),
        ("{}", "found fields: none"),
        ('{"question": "\\ud800", "answer": "1"}', "line 1: field 'question' holds half of a surrogate pair"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_rows(path, FIELDS)
    assert part in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_subject_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"problem": "q", "solution": "1"}])
    with pytest.raises(DataError, match=r"line 1: field 'type' .* expected: problem, solution, type"):
        read_rows(path, SUBJECTS)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data file .*absent\.jsonl; give a \.jsonl, \.jsonl\.gz or \.parquet file"):
        read_rows(tmp_path / "absent.jsonl", FIELDS)
    with pytest.raises(DataError, match="no data file"):
        read_rows(tmp_path, FIELDS)
    (tmp_path / "latin.jsonl").write_bytes(GOOD.encode() + b'{"question": "caf\xe9", "answer": "#### 1"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl: cannot be read after line \d"):
        read_rows(tmp_path / "latin.jsonl", FIELDS)


def test_a_truncated_or_false_gzip_file(tmp_path: Path) -> None:
    whole = write(tmp_path / "rows.jsonl.gz", [{"question": f"q{n * 7919}", "answer": "1"} for n in range(20_000)])
    whole.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz: cannot be read after line [1-9]\d{3,}"):
        read_rows(whole, FIELDS)
    (tmp_path / "plain.jsonl.gz").write_text(GOOD)
    with pytest.raises(DataError, match=r"plain\.jsonl\.gz: cannot be read after line 0"):
        read_rows(tmp_path / "plain.jsonl.gz", FIELDS)
    spoilt = bytearray(gzip.compress(GOOD.encode() * 50))
    spoilt[len(spoilt) // 2] ^= 0xFF
    (tmp_path / "spoilt.jsonl.gz").write_bytes(bytes(spoilt))
    with pytest.raises(DataError, match=r"spoilt\.jsonl\.gz"):
        read_rows(tmp_path / "spoilt.jsonl.gz", FIELDS)


def test_parquet_that_is_none_or_lacks_a_column(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text(GOOD)
    with pytest.raises(DataError, match=r"text\.parquet: cannot be read as Parquet after row 0"):
        read_rows(tmp_path / "text.parquet", FIELDS)
    lacking = write(tmp_path / "lacking.parquet", [{"question": "q", "text": "1"}])
    with pytest.raises(DataError, match=r"row 1: field 'answer' .* found fields: question, text"):
        read_rows(lacking, FIELDS)
    with pytest.raises(DataError, match=r"row 2: field 'answer'"):
        read_rows(write(tmp_path / "null.parquet", [*TWO[:1], {"question": "r", "answer": None}]), FIELDS)


def test_hub_rows_come_config_by_config(monkeypatch: pytest.MonkeyPatch) -> None:
    served = {
        name: Dataset.from_list([{"problem": f"{name} {n}", "solution": "1", "type": name} for n in range(3)])
        for name in ("algebra", "geometry")
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda data_set, config, split: served[config])
    rows = hub_rows("org/math", ("algebra", "geometry"), "test", SUBJECTS)
    assert [row.question for row in rows] == [f"{name} {n}" for name in served for n in range(3)]
    assert rows[3].place == "data set org/math, geometry test row 1"
    assert hub_rows("org/math", ("algebra", "geometry"), "test", SUBJECTS, limit=4) == rows[:4]
    assert hub_rows("org/math", ("algebra", "geometry"), "test", SUBJECTS, limit=2) == rows[:2]


@pytest.mark.parametrize(
    ("split", "key", "option"), [("test", "task.data", "--data"), ("train", "task.train_data", "--train-data")]
)
@pytest.mark.parametrize(
    "error",
    [ConnectionError("no\nroute"), DatasetNotFoundError("gone"), DatasetGenerationError("torn"), ValueError("config")],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_does_not_serve_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, split: str, key: str, option: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        hub_rows("openai/gsm8k", ("main",), split, FIELDS)
    message = str(caught.value)
    assert message.startswith(f"data set openai/gsm8k (main, {split}) did not load ({type(error).__name__}")
    assert message.endswith(f"give a local file with the fields question, answer: {key} or {option} FILE")
    assert "\n" not in message


def test_bad_hub_rows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Dataset.from_list([{"question": "q", "answer": "1"}, {"question": "", "answer": "1"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: served)
    with pytest.raises(DataError, match="data set openai/gsm8k, main test row 2: field 'question'"):
        hub_rows("openai/gsm8k", ("main",), "test", FIELDS)

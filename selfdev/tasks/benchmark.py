"""From rows to a task: what gsm8k, hendrycks_math and jsonl share.

A `Benchmark` says what a task's rows mean; `make_task` draws dev and test from them, `make_questions` takes the first
rows as they come. Both render prompts, look for near-duplicates across splits and record what the questions are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from selfdev.config import TaskConfig
from selfdev.errors import DataError
from selfdev.grading import Grader, gold_of
from selfdev.tasks.base import Task
from selfdev.tasks.duplicates import Duplicate, describe, find_duplicates
from selfdev.tasks.rows import Fields, Row, content_hash, hub_rows, read_rows
from selfdev.tasks.shots import Layout, Shot, sampled_positions
from selfdev.tasks.splits import Drawn, draw_dev, draw_first, draw_test, first_of_each, question_key, split_hash
from selfdev.types import Question

EXAMPLES = 3  # pairs of near-duplicates that a line names


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What the rows of a task are, and how they are asked and graded under one protocol."""

    name: str
    fields: Fields
    layout: Layout
    shots: tuple[Shot, ...]  # before every question
    sampled_shots: int  # or: this many train rows, drawn for each test row by its position (lm-eval's gsm8k)
    stop: tuple[str, ...]
    max_new_tokens: int
    graders: tuple[str, ...]  # the one that decides first
    protocol: str  # for the record
    lacks: Callable[[str], str | None] = lambda reference: None  # what a reference lacks, beside what graders need
    hub_id: str | None = None
    hub_configs: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()  # rows of other subjects are left out; () keeps all
    dev_groups: tuple[str, ...] = ()  # dev takes equally many rows of each of these subjects; () for no strata
    subject: Callable[[Row], str] = lambda row: row.subject  # its key among the groups


def make_task(benchmark: Benchmark, config: TaskConfig, seed: int, grade: Grader, blocks: int = 1) -> Task:
    """Dev and test questions, disjoint; `blocks` times `dev_size` for dev.

    Raises:
        DataError: rows cannot be read or do not suffice.
    """
    config = config.model_copy(update={"dev_from": dev_split(benchmark, config, blocks)})
    test_rows = load_rows(benchmark, config, "test")
    train_rows = load_rows(benchmark, config, "train") if needs_train(benchmark, config) else []
    dev_rows = test_rows if config.dev_from == "test" else _with_gold(benchmark, train_rows)
    drawn = draw(benchmark, config, seed, dev_rows, test_rows, blocks)
    prefixes = _prefixes(benchmark, train_rows, len(test_rows))
    dev = _questions(benchmark, "dev", dev_rows, drawn.dev, prefixes)
    test = _questions(benchmark, "test", test_rows, drawn.test, prefixes)
    texts = {
        "dev": _texts(dev, dev_rows, drawn.dev),
        "test": _texts(test, test_rows, drawn.test),
        "train": _train_texts(train_rows, {dev_rows[position].question for position in drawn.dev}),
        "shots": _shot_texts(benchmark),
    }
    notes = _notes(benchmark, test_rows, texts)
    facts = _facts(benchmark, test_rows, train_rows, notes)
    facts["split"] = split_hash(texts["dev"].values(), texts["test"].values())
    references = _references(dev, dev_rows, drawn.dev) | _references(test, test_rows, drawn.test)
    return replace(_task(benchmark, dev, test, grade, references, facts, notes), blocks=blocks)


def dev_split(benchmark: Benchmark, config: TaskConfig, blocks: int) -> str:
    """The split that dev comes from where the configuration leaves it open."""
    if config.dev_from is not None:
        return config.dev_from
    has_train = config.train_data is not None or (config.data is None and benchmark.hub_id is not None)
    fits = not (benchmark.sampled_shots and benchmark.protocol.startswith("lm-eval"))  # its shots come from train
    return "train" if blocks > 1 and has_train and fits else "test"


def make_questions(benchmark: Benchmark, config: TaskConfig, limit: int, grade: Grader) -> Task:
    """The first `limit` test rows in order, all of them in `dev`: what one given model is scored on.

    Where the rows have subjects, equally many first rows of each, as lm-eval's limit per subject does.

    Raises:
        DataError: rows cannot be read.
    """
    rows = load_rows(benchmark, config, "test", None if benchmark.subjects else limit)
    groups = _groups(benchmark, benchmark.subjects, rows, range(len(rows)))
    positions = draw_first(groups or {"": range(len(rows))}, limit)
    train_rows = load_rows(benchmark, config, "train") if needs_train(benchmark, config) else []
    questions = _questions(benchmark, "test", rows, positions, _prefixes(benchmark, train_rows, len(rows)))
    texts = {
        "test": _texts(questions, rows, positions),
        "train": _train_texts(train_rows, set()),
        "shots": _shot_texts(benchmark),
    }
    notes = _notes(benchmark, [rows[position] for position in positions], texts)
    references = _references(questions, rows, positions)
    return _task(benchmark, questions, (), grade, references, _facts(benchmark, rows, train_rows, notes), notes)


def needs_train(benchmark: Benchmark, config: TaskConfig) -> bool:
    """Whether train rows are read: dev or shots come from them, or the user gave some to check against."""
    return config.dev_from == "train" or benchmark.sampled_shots > 0 or config.train_data is not None


def load_rows(benchmark: Benchmark, config: TaskConfig, split: str, limit: int | None = None) -> list[Row]:
    """Rows of a split from the configured file, else from the hub.

    Raises:
        DataError: they cannot be read, a row has an unknown subject, or a test row has no gold answer.
    """
    path = config.data if split == "test" else config.train_data
    if path is not None:
        rows = read_rows(path, benchmark.fields, limit)
    elif benchmark.hub_id is not None:
        rows = hub_rows(benchmark.hub_id, benchmark.hub_configs, split, benchmark.fields, limit)
    else:
        option = "--data" if split == "test" else "--train-data"
        raise DataError(f"task {benchmark.name!r} has no data of its own; give {split} rows with {option} FILE")
    if benchmark.subjects:
        rows = [row for row in rows if benchmark.subject(row) in benchmark.subjects]
    if split == "test":  # published train rows lack a few answers (two in MATH); they still serve as shots
        for row in rows:
            gold(benchmark, row)
    return rows


def draw(
    benchmark: Benchmark,
    config: TaskConfig,
    seed: int,
    dev_rows: Sequence[Row],
    test_rows: Sequence[Row],
    blocks: int = 1,
) -> Drawn:
    """Positions of dev and test; a question that occurs twice is drawn once at most, and never for both.

    Raises:
        DataError: the rows do not suffice.
    """
    dev_source, test_source = (_source(benchmark, config, split) for split in (config.dev_from or "test", "test"))
    positions = first_of_each(dev_rows)
    groups = _groups(benchmark, benchmark.dev_groups, dev_rows, positions)
    dev = draw_dev(groups or {"": positions}, blocks * config.dev_size, f"{benchmark.name}/dev/{seed}", dev_source)
    taken = {question_key(dev_rows[position]) for position in dev}
    left = [p for p in first_of_each(test_rows) if question_key(test_rows[p]) not in taken]
    size = None if config.test_size == "rest" else config.test_size
    return Drawn(dev, draw_test(left, size, f"{benchmark.name}/test/{seed}", test_source))


def _groups(
    benchmark: Benchmark, names: Sequence[str], rows: Sequence[Row], positions: Iterable[int]
) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {name: [] for name in names}
    for position in positions:
        if (name := benchmark.subject(rows[position])) in groups:
            groups[name].append(position)
    return groups


def _source(benchmark: Benchmark, config: TaskConfig, split: str) -> str:
    path = config.data if split == "test" else config.train_data
    return f"data set {benchmark.hub_id}, {split}" if path is None else str(path)


def gold(benchmark: Benchmark, row: Row) -> str:
    """What the deciding grader compares with.

    Raises:
        DataError: the reference holds no answer of its kind.
    """
    lacking = benchmark.lacks(row.answer)
    if lacking is not None:
        raise DataError(f"{row.place}: {lacking}, so there is nothing to compare with")
    try:
        return gold_of(benchmark.graders[0], row.answer)
    except DataError as error:
        raise DataError(f"{row.place}: {error}, so grader {benchmark.graders[0]!r} cannot compare") from None


def _with_gold(benchmark: Benchmark, rows: Sequence[Row]) -> list[Row]:
    kept = []
    for row in rows:
        with suppress(DataError):
            gold(benchmark, row)
            kept.append(row)
    return kept


def _prefixes(benchmark: Benchmark, train_rows: Sequence[Row], count: int) -> Callable[[int], str]:
    """Position of a row in its file -> worked problems before its question."""
    if not benchmark.sampled_shots:
        frozen = benchmark.layout.prefix(benchmark.shots)
        return lambda position: frozen
    shots = [Shot(row.question, row.answer) for row in train_rows]

    drawn = sampled_positions(len(shots), benchmark.sampled_shots, count)
    return lambda position: benchmark.layout.prefix([shots[i] for i in drawn[position]])


def _questions(
    benchmark: Benchmark, split: str, rows: Sequence[Row], positions: Iterable[int], prefix: Callable[[int], str]
) -> tuple[Question, ...]:
    seen: dict[str, int] = {}
    questions = []
    for position in positions:
        row = rows[position]
        id_ = f"{benchmark.name}-{split}-{hashlib.sha256(row.question.encode()).hexdigest()[:12]}"
        seen[id_] = seen.get(id_, 0) + 1
        if seen[id_] > 1:  # only where rows are taken as they come
            id_ += f"-{seen[id_]}"
        prompt = prefix(position) + benchmark.layout.ask(row.question)
        questions.append(Question(id_, prompt, gold(benchmark, row), benchmark.subject(row)))
    return tuple(questions)


def _task(
    benchmark: Benchmark,
    dev: tuple[Question, ...],
    test: tuple[Question, ...],
    grade: Grader,
    references: Mapping[str, str],
    facts: Mapping[str, str],
    notes: tuple[str, ...],
) -> Task:
    return Task(
        name=benchmark.name,
        dev=dev,
        test=test,
        stop=benchmark.stop,
        max_new_tokens=benchmark.max_new_tokens,
        grade=grade,
        graders=benchmark.graders,
        references=references,
        facts=facts,
        notes=notes,
    )


def _facts(
    benchmark: Benchmark, test_rows: Sequence[Row], train_rows: Sequence[Row], notes: Sequence[str]
) -> dict[str, str]:
    facts = {
        "name": benchmark.name,
        "protocol": benchmark.protocol,
        "grader": benchmark.graders[0],
        "duplicates": "; ".join(notes) or "none found",
        "test rows": f"{len(test_rows)} rows, sha256 {content_hash(test_rows)}",
    }
    if train_rows:
        facts["train rows"] = f"{len(train_rows)} rows, sha256 {content_hash(train_rows)}"
    return facts


def _texts(questions: Sequence[Question], rows: Sequence[Row], positions: Iterable[int]) -> dict[str, str]:
    """Question id -> its own text, without few-shot prefix."""
    return {q.id: rows[position].question for q, position in zip(questions, positions, strict=True)}


def _references(questions: Sequence[Question], rows: Sequence[Row], positions: Iterable[int]) -> dict[str, str]:
    return {q.id: rows[position].answer for q, position in zip(questions, positions, strict=True)}


def _train_texts(train_rows: Sequence[Row], taken: Container[str]) -> dict[str, str]:
    """Place in the file -> question, those left out that dev itself has taken."""
    return {row.place.rpartition(", ")[2]: row.question for row in train_rows if row.question not in taken}


def _shot_texts(benchmark: Benchmark) -> dict[str, str]:
    return {f"shot {number}": shot.question for number, shot in enumerate(benchmark.shots, start=1)}


def _notes(benchmark: Benchmark, test_rows: Sequence[Row], texts: dict[str, dict[str, str]]) -> tuple[str, ...]:
    pairs = [("dev", "test"), ("dev", "train"), ("test", "train"), ("dev", "shots"), ("test", "shots")]
    notes = []
    repeated = len(test_rows) - len(first_of_each(test_rows))
    if repeated:
        notes.append(f"{benchmark.name}: {repeated} test rows repeat an earlier question word for word")
    for left, right in pairs:
        found: tuple[Duplicate, ...] = find_duplicates(texts.get(left, {}), texts.get(right, {}))
        if found:
            notes.append(f"{benchmark.name}: {describe(found, left, right, EXAMPLES)}")
    return tuple(notes)

"""The store on a real SQLite file."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from selfdev.errors import RunError
from selfdev.migrations import MIGRATIONS
from selfdev.score import Score
from selfdev.store import Store
from selfdev.types import Completion, ExecutionStatus, Outcome, PreferencePair, Split
from tests.unit.builders import answer, question, row


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path / "store.sqlite")
    opened.add_questions(Split.DEV, [question(i) for i in range(3)], ["a", "b", "c"])
    opened.add_questions(Split.TEST, [question(9, "test")], ["t"])
    yield opened
    opened.close()


def ok(result_hash: str) -> Outcome:
    return Outcome(ExecutionStatus.OK, None, None, result_hash, 5, 100, (Completion("x", 1, False),))


def test_rows_come_back_as_they_went_in(store: Store) -> None:
    rows = [row(0), row(1)]
    store.add_candidates(rows)
    assert store.candidates(1) == rows  # a 63-bit seed included
    assert store.candidate(rows[1].id[:11] + rows[1].id[11:]) == rows[1]


def test_adding_again_changes_nothing(store: Store) -> None:
    store.add_candidates([row(0)])
    store.record_outcome(row(0).id, ok("h"), None)
    store.add_candidates([row(0)])
    assert store.candidates(1)[0].status is ExecutionStatus.OK


def test_no_score_is_none_and_a_duplicate_has_its_originals(store: Store) -> None:
    store.add_candidates([row(0), row(1), row(2)])
    store.record_outcome(row(0).id, ok("h"), None)
    store.add_answers(row(0).id, [answer(0, True), answer(1, False), answer(2, False, truncated=True)])
    store.record_outcome(row(1).id, ok("h"), row(0).id)
    store.record_outcome(row(2).id, Outcome(ExecutionStatus.TIMEOUT, "too slow", 3), None)
    first, second, third = store.scored(1)
    assert (first.correct, first.total) == (second.correct, second.total) == (1, 3)
    assert second.duplicate_of == first.id
    assert third.score is None
    assert third.status is ExecutionStatus.TIMEOUT
    assert store.counts(Split.DEV)[first.id] == Score.of(correct=1, total=3, truncated=1, unparsable=1)
    assert store.counts(Split.TEST) == {}
    assert store.known_results() == {"h": first.id}


def test_a_fingerprint_stands_for_the_original(store: Store) -> None:
    store.add_candidates([row(0), row(1), row(2)])
    marked = replace(ok("h"), fingerprint="f", tags=("linear", "order-dependent"))
    store.record_outcome(row(0).id, marked, None)
    store.record_outcome(row(1).id, Outcome(ExecutionStatus.OK, fingerprint="f"), row(0).id)
    store.record_outcome(row(2).id, replace(ok("h"), fingerprint="g"), row(0).id)  # other probes, same real bits
    assert store.known_results() == {"h": row(0).id, "f": row(0).id, "g": row(0).id}
    assert store.candidate(row(0).id).tags == ("linear", "order-dependent")
    assert store.candidate(row(1).id).tags == ()


def test_why_a_program_is_not_ranked_is_kept(store: Store) -> None:
    store.add_candidates([row(0)])
    store.record_outcome(row(0).id, ok("h"), None, "3 of 3 answers were cut")
    store.add_answers(row(0).id, [replace(answer(0, True), repetitive=True), replace(answer(1, False), timed_out=True)])
    assert store.scored(1)[0].refused == "3 of 3 answers were cut"
    assert store.scored(1)[0].score == 0.5
    counts = store.counts(Split.DEV)[row(0).id]
    assert (counts.repetitive, counts.timed_out, counts.empty) == (1, 1, 0)
    assert store.answers(row(0).id, Split.DEV)[0].repetitive


def test_dev_and_test_answers_are_kept_apart(store: Store) -> None:
    store.add_candidates([row(0)])
    store.add_answers(row(0).id, [answer(0, True), answer(9, True, "test")])
    assert [a.question_id for a in store.answers(row(0).id, Split.DEV)] == ["dev-0"]
    assert [a.question_id for a in store.answers(row(0).id, Split.TEST)] == ["test-9"]
    assert store.counts(Split.DEV)[row(0).id].total == 1
    assert store.scored(1) == []  # drawn, not run yet


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    def add_and_fail() -> None:
        with store.transaction():
            store.add_candidates([row(0)])
            raise KeyError("stop")

    with pytest.raises(KeyError):
        add_and_fail()
    assert store.candidates() == []


def test_questions_cannot_change(store: Store) -> None:
    store.add_questions(Split.DEV, [question(i) for i in range(3)], ["a", "b", "c"])
    with pytest.raises(RunError, match="have changed"):
        store.add_questions(Split.DEV, [question(i) for i in range(3)], ["a", "b", "z"])


def test_winners_are_registered_once(store: Store) -> None:
    store.add_candidates([row(0), row(1)])
    store.set_winners({"winner": row(0).id, "seed": row(1).id})
    store.set_winners({"winner": row(1).id, "seed": row(1).id})
    assert store.winners() == {"winner": row(0).id, "seed": row(1).id}


def test_pairs_and_lineage(store: Store) -> None:
    store.add_candidates([row(0, text="good"), row(1, text="bad")])
    p = PreferencePair("prompt", "good", "bad", row(0).id, row(1).id, 0.9, None)
    store.set_pairs(1, [p])
    store.set_pairs(1, [p])
    assert store.pairs(1, "prompt") == [p]
    assert store.lineage(row(0).id) == [(1, "chosen", row(1).id)]
    assert store.lineage(row(1).id) == [(1, "rejected", row(0).id)]


def test_unknown_and_ambiguous_ids(store: Store) -> None:
    store.add_candidates([row(0), row(1)])
    for given, message in (("zz", "is no id"), ("", "several"), ("g", "several")):
        with pytest.raises(RunError, match=message):
            store.candidate(given)


def test_dump_leaves_the_clock_out(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path / "other.sqlite")
    other.add_questions(Split.TEST, [question(9, "test")], ["t"])
    other.add_questions(Split.DEV, [question(i) for i in range(3)], ["a", "b", "c"])
    other.add_seconds(1, "generate", 3.0)
    other.add_opening("2026-01-01", ["x"], 1)
    assert other.dump() == store.dump()
    other.set_meta("k", "v")
    assert other.dump() != store.dump()
    other.close()


def test_seconds_add_up(store: Store) -> None:
    store.add_seconds(1, "train", 1.5)
    store.add_seconds(1, "train", 2.0)
    assert store.seconds() == {1: {"train": 3.5}}


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(RunError, match="cannot be used"):
        Store(path)


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO migration VALUES ('999_future', 'now')")
    db.close()
    with pytest.raises(RunError, match="newer selfdev"):
        Store(path)


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """Made by the first step alone, with a row in each changed table; afterwards it works like a new one."""
    path = tmp_path / "store.sqlite"
    db = sqlite3.connect(path)
    name, step = MIGRATIONS[0]
    db.row_factory = sqlite3.Row
    step(db)
    db.execute("CREATE TABLE migration (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL)")
    db.execute("INSERT INTO migration VALUES (?, 'then')", (name,))
    db.execute("INSERT INTO question VALUES ('dev-0', 'dev', 0, 'h', 'add'), ('dev-1', 'dev', 1, 'h', 'add')")
    db.execute(
        """INSERT INTO candidate VALUES ('c1', 'generated', '', 1, 0, 'base', 1.2, '5', 'text', 'source', 3, 2.0, 0,
           '7', 'ok', NULL, NULL, 4, 100, 'hash', NULL)"""
    )
    db.execute(
        "INSERT INTO answer VALUES ('c1', 'dev-0', ' #### 1', 3, 0, '1', 1), ('c1', 'dev-1', ' \n', 3, 1, NULL, 0)"
    )
    db.commit()
    db.close()
    store = Store(path)
    assert (store.candidate("c1").fingerprint, store.candidate("c1").tags) == (None, ())
    assert store.counts(Split.DEV)["c1"] == Score.of(1, 2, truncated=1, unparsable=1, empty=1)
    store.add_candidates([row(1)])
    store.record_outcome(row(1).id, replace(ok("h2"), fingerprint="f"), None)
    assert store.known_results() == {"hash": "c1", "h2": row(1).id, "f": row(1).id}
    store.close()


def test_reading_does_not_make_a_store(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        Store(tmp_path / "none.sqlite", read_only=True)
    assert list(tmp_path.iterdir()) == []

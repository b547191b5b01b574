"""The store on a real SQLite file."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from selfdev.errors import RunError
from selfdev.migrations import MIGRATIONS
from selfdev.score import Score
from selfdev.store import STOPPED, MeasuredRow, QuestionRow, Store
from selfdev.types import Answer, Completion, ExecutionStatus, Outcome, PreferencePair, RaceStanding, Split
from selfdev.verifiers.base import Judgement
from tests.unit.builders import answer, row

DEV = [QuestionRow(f"dev-{i}", Split.DEV, mark, "add", turn=i) for i, mark in enumerate("abc")]
TEST = [QuestionRow("test-9", Split.TEST, "t", "add")]


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path / "store.sqlite")
    opened.add_questions(DEV)
    opened.add_questions(TEST)
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
    store.add_questions(DEV)
    for change in ({"prompt_hash": "z"}, {"block": 1}, {"turn": 7}, {"held_out": True}):
        with pytest.raises(RunError, match=r"dev questions of .* have changed"):
            store.add_questions([*DEV[:2], replace(DEV[2], **change)])
    with pytest.raises(RunError, match="have changed"):
        store.add_questions(DEV[:2])


def test_winners_are_registered_once(store: Store) -> None:
    store.add_candidates([row(0), row(1)])
    store.register({"winner": row(0).id, "seed": row(1).id})
    store.register({"winner": row(1).id, "seed": row(1).id})
    assert store.winners() == {"winner": row(0).id, "seed": row(1).id}
    store.add_opening("2026-01-01", [row(0).id, row(1).id], 1)
    store.register({"winner": row(1).id, "named": row(1).id})
    assert store.registered_after() == {"winner": 0, "seed": 0, "named": 1}
    assert [(o.number, o.candidates, o.questions) for o in store.ledger()] == [(1, (row(0).id, row(1).id), 1)]


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
    other.add_questions(TEST)
    other.add_questions(DEV)
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


def test_a_store_from_before_the_races_keeps_its_meaning(tmp_path: Path) -> None:
    """Made by the first two steps, as a run of that version left it: all iterations asked one block, nobody raced."""
    path = tmp_path / "store.sqlite"
    db = sqlite3.connect(path)
    db.row_factory = sqlite3.Row
    db.execute("CREATE TABLE migration (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL)")
    for name, step in MIGRATIONS[:2]:
        step(db)
        db.execute("INSERT INTO migration VALUES (?, 'then')", (name,))
    assert [name for name, _ in MIGRATIONS[:2]] == ["001_first", "002_fingerprints"]
    db.executemany(
        "INSERT INTO question VALUES (?, ?, ?, 'h', 'add')",
        [("dev-0", "dev", 0), ("dev-1", "dev", 1), ("dev-2", "dev", 2), ("test-0", "test", 0), ("test-1", "test", 1)],
    )
    candidate = """INSERT INTO candidate VALUES (?, ?, ?, ?, ?, 'base', 1.2, '5', ?, 'source', 3, 2.0, 0, '7', 'ok',
        NULL, NULL, 4, 100, ?, ?, NULL, 'linear', NULL)"""
    db.execute(candidate, ("seed", "seed", "seed model", 0, 0, "zero", "h0", None))
    db.execute(candidate, ("mean", "mean", "uniform average", 0, 1, "mean", "h1", None))
    db.execute(candidate, ("good", "generated", "", 1, 0, "good", "h2", None))
    db.execute(candidate, ("poor", "generated", "", 1, 1, "poor", "h3", None))
    db.execute(candidate, ("same", "generated", "", 2, 0, "same", "h2", "good"))
    right = {"seed": "10010", "mean": "11010", "good": "11111", "poor": "00000"}  # dev 0 1 2, test 0 1
    for i, marks in right.items():
        if i == "poor":  # never on test
            marks = marks[:3]
        questions = ["dev-0", "dev-1", "dev-2", "test-0", "test-1"]
        db.executemany(
            "INSERT INTO answer VALUES (?, ?, ' #### 1', 3, 0, '1', ?, 0, 0, 0)",
            [(i, q, int(mark)) for q, mark in zip(questions, marks, strict=False)],
        )
    db.execute("INSERT INTO pair VALUES (1, 0, 'good', 'poor', 1.0, 0.0)")
    db.execute("INSERT INTO iteration VALUES (1, 1.2, '{\"steps\": 3}', '{}')")
    db.execute("INSERT INTO winner VALUES ('winner', 'good'), ('seed', 'seed'), ('baseline', 'mean')")
    db.execute('INSERT INTO opening VALUES (1, \'2026-01-01\', \'["good", "seed", "mean"]\', 2)')
    db.commit()
    db.close()

    before = path.read_bytes()
    looked_at = Store(path, read_only=True)
    shown = looked_at.scored(), looked_at.ledger(), looked_at.final_counts()
    looked_at.close()
    assert path.read_bytes() == before  # what only reads leaves the file as old as it is
    store = Store(path)
    assert (store.scored(), store.ledger(), store.final_counts()) == shown
    good, poor = store.scored(1)
    assert (good.correct, good.total, good.seed_correct, good.gain) == (3, 3, 1, pytest.approx(2 / 3))
    assert (good.final_score, good.opening_score, good.rank_gain) == (1.0, 1.0, good.gain)
    assert (poor.score, poor.final_score, poor.standing) == (0.0, 0.0, None)
    (same,) = store.scored(2)
    assert (same.correct, same.duplicate_of, same.standing) == (3, "good", None)
    assert store.verdicts(1) == store.verdicts(1, "generated", 0) == {"good": [True] * 3, "poor": [False] * 3}
    assert store.verdicts(0, "seed", 0) == {"seed": [True, False, False]}
    assert [store.question_count(Split.DEV, block) for block in (None, 0, 1)] == [3, 3, 0]
    assert store.question_count(Split.DEV, held_out=True) == 0
    assert store.final_places() == [0, 1, 2]
    assert store.final_counts() == store.counts(Split.DEV)
    assert store.question_uses() == [(0, "baselines", 0, 3, 6), (0, "generated", 1, 3, 6)]
    assert store.counts(Split.TEST)["good"] == Score.of(2, 2)
    assert store.standings() == {}
    (first,) = store.iterations()
    assert first == {"iteration": 1, "temperature": 1.2, "train": {"steps": 3}, "gap": {}, "evidence": {}}
    assert store.winners() == {"winner": "good", "seed": "seed", "baseline": "mean"}
    assert store.registered_after() == {"winner": 0, "seed": 0, "baseline": 0}
    assert [(o.number, o.candidates) for o in store.ledger()] == [(1, ("good", "seed", "mean"))]
    assert [p.chosen_id for p in store.pairs(1, "prompt")] == ["good"]
    store.add_questions([QuestionRow(f"dev-{i}", Split.DEV, "h", "add", turn=i) for i in range(3)])  # the same ones
    store.register({"named poor": "poor"})
    assert store.registered_after()["named poor"] == 1
    store.close()
    with sqlite3.connect(path) as again:
        assert [n for (n,) in again.execute("SELECT name FROM migration ORDER BY name")] == [n for n, _ in MIGRATIONS]
    again.close()


def test_a_store_from_before_the_checkpoints_keeps_its_samples(tmp_path: Path) -> None:
    """Made by the first six steps: an iteration's samples for measurement have no step and no time."""
    path = tmp_path / "store.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE migration (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL)")
    for name, step in MIGRATIONS[:6]:
        step(db)
        db.execute("INSERT INTO migration VALUES (?, 'then')", (name,))
    db.executemany(
        "INSERT INTO measured VALUES (?, ?, ?, 'base', 1.0, '9', 'text', 3, 2.5, 1)",
        [("b", 1, 1), ("a", 1, 0), ("c", 2, 0)],
    )
    db.execute("INSERT INTO measured_judgement VALUES ('a', 'likelihood', 0.25, 2.5, NULL)")
    db.commit()
    db.close()
    store = Store(path)
    old = MeasuredRow("a", 1, 0, 1.0, 0, "base", 1.0, 9, "text", 3, 2.5, True)
    assert store.measured(1) == [old, replace(old, id="b", index=1)]
    assert store.measured(2) == [replace(old, id="c", iteration=2, time=2.0)]
    assert store.measured_judgements(1) == {"likelihood": {"a": Judgement(0.25, 2.5)}}
    assert store.measured_steps(1) == {}
    inside = replace(old, id="d", step=5, time=1.5)  # the same index, another step
    store.add_measured([inside])
    store.add_measured_judgements("quality", {"d": Judgement(0.5)})
    assert (store.measured(1, 5), store.measured_steps(1)) == ([inside], {5: 1.5})
    assert store.measured_judgements(1, 5) == {"quality": {"d": Judgement(0.5)}}
    assert store.measured_judgements(1) == {"likelihood": {"a": Judgement(0.25, 2.5)}}
    assert [len(store.measured(1)), len(store.measured(1, 7))] == [2, 0]
    store.close()


# -- blocks, standings ------------------------------------------------------------------------------------------------


def race_store(path: Path) -> Store:
    """Block 0 of baselines and finals, block 1 of iteration 1; four questions each, the last two held out."""
    store = Store(path)
    store.add_questions(
        [QuestionRow(f"q{b}{t}", Split.DEV, "h", "add", b, t, t >= 2) for b in (0, 1) for t in range(4)]
    )
    store.set_meta("race block", "1")
    store.add_candidates([row(0, iteration=0, kind="seed"), *(row(i) for i in range(5))])
    for i, marks in {"s00000000000": "11001100", "g10000000000": "01101101", "g10000000001": "----10--"}.items():
        store.record_outcome(i, ok(i), None)
        names = [f"q{b}{t}" for b in (0, 1) for t in range(4)]
        given = [(name, mark == "1") for name, mark in zip(names, marks, strict=True) if mark != "-"]
        store.add_answers(i, [Answer(name, Completion("x", 1, False), "x", correct) for name, correct in given])
    return store


def test_scores_of_a_race_count_what_they_say(tmp_path: Path) -> None:
    store = race_store(tmp_path / "race.sqlite")
    best, gone = store.scored(1)
    assert (best.score, gone.score) == (None, None)  # not decided yet
    store.record_outcome(row(2).id, ok("h"), row(0).id)
    store.record_outcome(row(3).id, ok("h"), row(1).id)
    store.record_outcome(row(4).id, ok("h"), row(0, iteration=0, kind="seed").id)
    standings = {
        row(0).id: RaceStanding(0, 2, 2, 0, 0, None, True), row(1).id: RaceStanding(1, 2, 1, 0, 1, "futile", False),
    }  # fmt: skip
    store.set_standings(standings)
    assert store.standings() == store.standings_of(1, "generated") == standings
    assert store.standings_of(2, "generated") == {}
    best, gone, twin, gone_twin, seed_twin = store.scored(1)
    # held out of block 1: 01 against the seed's 00
    assert (best.correct, best.total, best.seed_correct, best.gain) == (1, 2, 0, 0.5)
    assert (best.opening_correct, best.opening_total) == (1, 1)
    assert (best.final_correct, best.final_total) == (2, 4)  # all of block 0: 0110
    assert (twin.correct, twin.final_correct, twin.standing) == (1, 2, standings[row(0).id])
    assert (gone.correct, gone.total, gone.opening_correct, gone.final_correct) == (None, 0, 1, None)
    assert (gone.measured, gone.rank_gain) == (0.5, -0.5)
    assert (gone_twin.correct, gone_twin.measured) == (None, 0.5)
    # what repeats a baseline has the score of the baselines' block
    assert (seed_twin.correct, seed_twin.total, seed_twin.gain, seed_twin.standing) == (2, 4, 0.0, None)
    assert store.counts(Split.DEV, 1, held_out=True)[row(0).id] == Score.of(1, 2)
    assert store.final_counts()[row(0).id] == Score.of(2, 4)
    store.close()


def test_verdicts_stand_at_the_place_of_their_question(tmp_path: Path) -> None:
    store = race_store(tmp_path / "race.sqlite")
    yes, no = True, False
    assert store.verdicts(1, "generated", 1) == {
        row(0).id: [yes, yes, no, yes], row(1).id: [yes, no, None, None],
    }  # fmt: skip
    assert store.verdicts(1)[row(1).id] == [None] * 4 + [yes, no, None, None]
    assert store.verdicts(1, "generated", 0) == {row(0).id: [no, yes, yes, no]}
    assert store.verdicts(0, "seed", 1) == {row(0, iteration=0, kind="seed").id: [yes, yes, no, no]}
    assert store.verdicts(1, "random") == {}
    assert store.evaluations("generated") == 10
    assert store.evaluations("generated", 2) == 0
    assert store.question_uses() == [
        (0, "baselines", 0, 4, 4), (0, "generated", 1, 4, 4), (1, "baselines", 0, 4, 4), (1, "generated", 1, 4, 6),
    ]  # fmt: skip
    store.close()


def test_known_results_of_a_control_are_its_own(tmp_path: Path) -> None:
    store = race_store(tmp_path / "race.sqlite")
    store.add_candidates([row(0, kind="random")])
    store.record_outcome(row(0, kind="random").id, ok("r"), None)
    assert store.known_results("random") == {"r": row(0, kind="random").id}
    assert list(store.known_results()) == ["s00000000000", "g10000000000", "g10000000001"]
    store.close()


def test_reading_does_not_make_a_store(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        Store(tmp_path / "none.sqlite", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_judgements_stay_as_they_were_first(store: Store) -> None:
    store.add_candidates([row(0), row(1), row(0, 2)])
    store.add_judgements("likelihood", {row(1).id: Judgement(0.5, 3.5), row(0).id: Judgement(0.25)})
    store.add_judgements("likelihood", {row(1).id: Judgement(0.9), row(0, 2).id: Judgement(1.0, 2.0, 4.0)})
    assert store.judgements(1) == {"likelihood": {row(0).id: Judgement(0.25), row(1).id: Judgement(0.5, 3.5)}}
    assert list(store.judgements(1)["likelihood"]) == [row(0).id, row(1).id]
    assert store.judgements(2) == {"likelihood": {row(0, 2).id: Judgement(1.0, 2.0, 4.0)}}


def test_a_run_may_end_early(store: Store) -> None:
    assert store.stopped_after() is None
    store.set_meta(STOPPED, "12: stop: the next gain is below the tolerance")
    assert store.stopped_after() == 12

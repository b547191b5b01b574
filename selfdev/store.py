"""The run store: one SQLite file, one writer, numbered migrations.

The unit of durability is one graded answer, (candidate, question). Everything a run knows is here or can be derived
from here; files in the run directory are views that are written again at will. Reference answers are never stored.
Rows are the same for the same configuration and seed; what depends on the clock stands apart in `phase`, `opening`
and `migration`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfdev.errors import RunError
from selfdev.migrations import MIGRATIONS
from selfdev.score import Score
from selfdev.types import (
    Answer,
    Completion,
    ExecutionStatus,
    Outcome,
    PreferencePair,
    RaceStanding,
    Sample,
    ScoredCandidate,
    Split,
)
from selfdev.verifiers.base import Judgement

FILE_NAME = "store.sqlite"
RACE_BLOCK = "race block"  # the fact that holds the questions per round of a race; absent: no races
NOISE = "seed against itself"  # the fact that holds how many verdicts of the seed differed the second time
# Kinds of programs that every run is compared with. Other kinds of iteration 0 were asked for by a command.
BASELINE_KINDS = ("seed", "source", "mean", "example", "task_arithmetic")
AFTER = -1  # the iteration of programs made from one of a run's, once it has ended: tables of the run leave them out
STOPPED = "stopped after"  # the fact that holds the last iteration of a run that ended early, and why
TRANSFER = "transfer"  # the fact that holds what a transfer to other models was begun with
SEALED = "sealed test"  # the fact that holds the digest of the sealed test questions


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One program: generated, or a baseline (kind `seed`, `source`, `mean`, `example`, `task_arithmetic`)."""

    id: str
    kind: str  # "generated" or the kind of baseline
    name: str  # for people: "task arithmetic 0.2 0.4 0.6"; empty for generated ones
    iteration: int  # 0 for baselines, `AFTER` for what studies of a program make
    index: int
    checkpoint: str  # adapter directory relative to the run, "base", or "" for baselines
    temperature: float | None
    sample_seed: int | None
    text: str  # the sample as drawn, or the baseline's source
    source: str | None  # the extracted program; None where there is none
    tokens: int
    nll: float
    truncated: bool
    execution_seed: int  # seeds the program's own random draws
    status: ExecutionStatus | None = None  # None: not run yet
    error: str | None = None
    line: int | None = None
    operations: int = 0
    peak_bytes: int = 0
    result_hash: str | None = None
    duplicate_of: str | None = None
    fingerprint: str | None = None
    tags: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One sample that the generator's uncertainty is measured on: judged, never run, paired or counted."""

    id: str
    iteration: int
    index: int
    checkpoint: str  # adapter directory relative to the run, or "base"
    temperature: float
    sample_seed: int
    text: str
    tokens: int
    nll: float
    truncated: bool


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """One question as the store knows it."""

    id: str
    split: Split
    prompt_hash: str
    skill: str
    block: int = 0  # of dev questions; 0 is the baselines'
    turn: int = 0  # place in its block
    held_out: bool = False  # no decision of a race sees it


@dataclass(frozen=True, slots=True)
class Opening:
    """One line of the ledger of the test set."""

    number: int  # 1, 2, ...
    opened_at: str  # UTC
    candidates: tuple[str, ...]
    questions: int


@dataclass(frozen=True, slots=True)
class _Tally:
    """Some answers of one candidate, counted."""

    block: int
    held_out: bool
    opening: bool
    correct: int
    seed: int  # the seed's right answers to the same questions
    total: int


CLOCK_TABLES = frozenset({"phase", "opening", "migration"})  # rows that depend on the clock


class Store:
    """All reads and writes of one run. Open it for writing in one process only (`RunDirectory` holds the lock)."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        """Open or create the store.

        Raises:
            RunError: not a store, made by a newer version, or not accessible.
        """
        self.path = path
        try:
            self._db = _connect(path, read_only)
            if not read_only:
                self._migrate()
            elif not self._has_tables():
                raise RunError(f"{path} holds no run yet; give a run directory made by `selfdev run`")
            elif self._is_older():
                self._db = _copy_in_memory(self._db)
                self._migrate()
        except sqlite3.DatabaseError as error:
            raise RunError(f"{path} cannot be used as a run store: {error}; give another --run-dir") from None

    def close(self) -> None:
        """Close the file; the store is unusable afterwards."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; nested use joins the outer one."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # -- facts about the run ------------------------------------------------------------------------------------------

    def get_meta(self, key: str) -> str | None:
        """One recorded fact, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row["value"])

    def set_meta(self, key: str, value: str) -> None:
        """Record one fact; a later value replaces an earlier one."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def add_questions(self, rows: Sequence[QuestionRow]) -> None:
        """Record which questions a split holds, in order; once recorded they cannot change.

        Raises:
            RunError: the store already holds other questions for this split.
        """
        split = rows[0].split
        new = [
            (q.id, str(split), i, q.prompt_hash, q.skill, q.block, q.turn, int(q.held_out)) for i, q in enumerate(rows)
        ]
        old = [tuple(r) for r in self._db.execute("SELECT * FROM question WHERE split = ? ORDER BY position", (split,))]
        if old and old != new:
            raise RunError(
                f"the {split} questions of {self.path.parent} have changed since it was begun; use a new run"
            )
        if not old:
            with self.transaction():
                self._db.executemany("INSERT INTO question VALUES (?, ?, ?, ?, ?, ?, ?, ?)", new)

    def append_questions(self, rows: Sequence[QuestionRow]) -> None:
        """Record further questions of one split, behind those that it holds."""
        with self.transaction():
            first = self.question_count(rows[0].split) if rows else 0
            self._db.executemany(
                "INSERT INTO question VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (q.id, str(q.split), first + i, q.prompt_hash, q.skill, q.block, q.turn, int(q.held_out))
                    for i, q in enumerate(rows)
                ],
            )

    def question_count(self, split: Split, block: int | None = None, held_out: bool | None = None) -> int:
        """How many questions a split, a block of it or the held-out part of that holds."""
        row = self._db.execute(
            """SELECT COUNT(*) FROM question WHERE split = :split AND (:block IS NULL OR block = :block)
               AND (:held IS NULL OR held_out = :held)""",
            {"split": split, "block": block, "held": held_out},
        ).fetchone()
        return int(row[0])

    def question_skills(self, split: Split) -> dict[str, str]:
        """Question id -> skill, in order."""
        rows = self._db.execute("SELECT id, skill FROM question WHERE split = ? ORDER BY position", (split,))
        return {r["id"]: r["skill"] for r in rows}

    # -- candidates ---------------------------------------------------------------------------------------------------

    def add_candidates(self, rows: Iterable[CandidateRow]) -> None:
        """Record candidates, all or none; ones already there stay as they are."""
        with self.transaction():
            for row in rows:
                values = (
                    row.id, row.kind, row.name, row.iteration, row.index, row.checkpoint, row.temperature,
                    None if row.sample_seed is None else str(row.sample_seed), row.text, row.source, row.tokens,
                    row.nll, int(row.truncated), str(row.execution_seed), row.status,
                    row.error, row.line, row.operations, row.peak_bytes,
                    row.result_hash, row.duplicate_of, row.fingerprint, " ".join(row.tags), row.refused,
                )  # fmt: skip
                self._db.execute(f"INSERT OR IGNORE INTO candidate VALUES ({','.join('?' * len(values))})", values)

    def candidates(self, iteration: int | None = None, kind: str | None = None) -> list[CandidateRow]:
        """Candidates in the order they were drawn, filtered."""
        rows = self._db.execute(
            """SELECT * FROM candidate WHERE (:i IS NULL OR iteration = :i) AND (:k IS NULL OR kind = :k)
               ORDER BY iteration, idx, kind""",
            {"i": iteration, "k": kind},
        )
        return [_candidate(r) for r in rows]

    def baselines(self) -> list[CandidateRow]:
        """The programs that every run is compared with, in their order."""
        return [row for row in self.candidates(0) if row.kind in BASELINE_KINDS]

    def candidate(self, candidate_id: str) -> CandidateRow:
        """One candidate by id or unique prefix of an id.

        Raises:
            RunError: no such id, or a prefix of several.
        """
        rows = self._db.execute(
            "SELECT * FROM candidate WHERE substr(id, 1, length(:id)) = :id LIMIT 2", {"id": candidate_id}
        ).fetchall()
        if len(rows) != 1 or not candidate_id:
            what = "is the beginning of several ids" if rows else "is no id in this run"
            raise RunError(f"{candidate_id!r} {what}; `selfdev top RUN` lists ids")
        return _candidate(rows[0])

    def lineage(self, candidate_id: str) -> list[tuple[int, str, str]]:
        """Where a candidate taught the generator: (iteration, "chosen" | "rejected", the other program's id)."""
        rows = self._db.execute(
            """SELECT iteration, 'chosen' AS side, rejected_id AS other, position FROM pair WHERE chosen_id = :id
               UNION ALL SELECT iteration, 'rejected', chosen_id, position FROM pair WHERE rejected_id = :id
               ORDER BY 1, 2, 4""",
            {"id": candidate_id},
        )
        return [(r["iteration"], r["side"], r["other"]) for r in rows]

    def known_results(self, kind: str = "generated") -> dict[str, str]:
        """Result hashes and fingerprints -> id of the candidate whose scores they stand for.

        Of the run's own programs and the baselines, or of a control's own programs: a control does not profit from what
        others have found.
        """
        kinds = (kind, *BASELINE_KINDS) if kind == "generated" else (kind,)
        rows = self._db.execute(
            f"""SELECT result_hash, fingerprint, COALESCE(duplicate_of, id) AS original FROM candidate
               WHERE status = 'ok' AND kind IN ({", ".join("?" * len(kinds))}) ORDER BY iteration, idx, kind""",
            kinds,
        )
        known: dict[str, str] = {}
        for r in rows:
            for digest in (r["result_hash"], r["fingerprint"]):
                if digest is not None:
                    known.setdefault(digest, r["original"])
        return known

    def record_outcome(
        self, candidate_id: str, outcome: Outcome, duplicate_of: str | None, refused: str | None = None
    ) -> None:
        """Record how running a candidate ended."""
        with self.transaction():
            self._db.execute(
                """UPDATE candidate SET status = ?, error = ?, line = ?, operations = ?, peak_bytes = ?,
                   result_hash = ?, duplicate_of = ?, fingerprint = ?, tags = ?, refused = ? WHERE id = ?""",
                (outcome.status, outcome.error, outcome.line, outcome.operations, outcome.peak_bytes,
                 outcome.result_hash, duplicate_of, outcome.fingerprint, " ".join(outcome.tags), refused,
                 candidate_id),
            )  # fmt: skip

    def set_refused(self, candidate_id: str, refused: str | None) -> None:
        """Record why a candidate may not be ranked; None: it may."""
        with self.transaction():
            self._db.execute("UPDATE candidate SET refused = ? WHERE id = ?", (refused, candidate_id))

    # -- answers ------------------------------------------------------------------------------------------------------

    def add_answers(self, candidate_id: str, answers: Iterable[Answer]) -> None:
        """Record graded answers; ones already there stay."""
        rows = [
            (candidate_id, a.question_id, a.completion.text, a.completion.tokens, int(a.completion.truncated),
             a.extracted, int(a.correct), int(not a.completion.text.strip()), int(a.repetitive), int(a.timed_out))
            for a in answers
        ]  # fmt: skip
        with self.transaction():
            self._db.executemany("INSERT OR IGNORE INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def answers(self, candidate_id: str, split: Split) -> list[Answer]:
        """Graded answers of one candidate, in the order of the questions."""
        rows = self._db.execute(
            """SELECT answer.* FROM answer JOIN question ON question.id = question_id
               WHERE candidate_id = ? AND split = ? ORDER BY position""",
            (candidate_id, split),
        )
        return [
            Answer(
                r["question_id"],
                Completion(r["text"], r["tokens"], bool(r["truncated"])),
                r["extracted"],
                bool(r["correct"]),
                bool(r["repetitive"]),
                bool(r["timed_out"]),
            )
            for r in rows
        ]

    def verdicts(
        self, iteration: int, kind: str | None = None, block: int | None = None
    ) -> dict[str, list[bool | None]]:
        """Candidate id -> its verdicts on the dev questions in their order, None where it was not asked.

        Candidates of one iteration (0: the baselines) with at least one such answer, in the order they were drawn.

        Args:
            iteration: whose candidates.
            kind: of these only.
            block: questions of this block only, by their place in it.
        """
        size = self.question_count(Split.DEV, block)
        table: dict[str, list[bool | None]] = {}
        rows = self._db.execute(
            """SELECT candidate_id, turn, position, answer.correct FROM answer
               JOIN question ON question.id = question_id JOIN candidate ON candidate.id = candidate_id
               WHERE split = 'dev' AND (:block IS NULL OR block = :block) AND iteration = :iteration
               AND (:kind IS NULL OR kind = :kind) ORDER BY idx, kind, position""",
            {"block": block, "iteration": iteration, "kind": kind},
        )
        for r in rows:
            place = r["position"] if block is None else r["turn"]
            table.setdefault(r["candidate_id"], [None] * size)[place] = bool(r["correct"])
        return table

    def verdicts_on(self, candidate_id: str, questions: Sequence[str]) -> list[bool | None]:
        """One candidate's verdicts on questions given by id, of any split; None where it was not asked."""
        rows = self._db.execute("SELECT question_id, correct FROM answer WHERE candidate_id = ?", (candidate_id,))
        found = {r["question_id"]: bool(r["correct"]) for r in rows}
        return [found.get(i) for i in questions]

    def seed_verdicts(self, block: int) -> list[bool]:
        """The seed's verdicts on a block of dev questions, in their order; empty before it was scored."""
        return [bool(v) for v in next(iter(self.verdicts(0, "seed", block).values()), [])]

    def evaluations(self, kind: str, iteration: int | None = None, block: int | None = None) -> int:
        """Question-evaluations spent on dev, or on one block of it, by candidates of a kind."""
        row = self._db.execute(
            """SELECT COUNT(*) FROM answer JOIN question ON question.id = question_id
               JOIN candidate ON candidate.id = candidate_id
               WHERE split = 'dev' AND kind = :kind AND (:iteration IS NULL OR iteration = :iteration)
               AND (:block IS NULL OR block = :block)""",
            {"kind": kind, "iteration": iteration, "block": block},
        ).fetchone()
        return int(row[0])

    def question_uses(self) -> list[tuple[int, str, int, int, int]]:
        """The ledger of questions: (block, kind, iteration, questions used, question-evaluations)."""
        rows = self._db.execute(
            f"""SELECT block, CASE WHEN kind IN ({", ".join("?" * len(BASELINE_KINDS))}) THEN 'baselines' ELSE kind END
               AS who, iteration, COUNT(DISTINCT question_id), COUNT(*) FROM answer
               JOIN question ON question.id = question_id JOIN candidate ON candidate.id = candidate_id
               WHERE split = 'dev' GROUP BY block, who, iteration ORDER BY block, iteration, who""",
            BASELINE_KINDS,
        )
        return [(r[0], r[1], r[2], r[3], r[4]) for r in rows]

    def study_uses(self) -> list[tuple[str, int, int]]:
        """Questions that studies of single programs asked: (kind, questions used, question-evaluations)."""
        rows = self._db.execute(
            """SELECT kind, COUNT(DISTINCT question_id), COUNT(*) FROM answer JOIN question ON question.id = question_id
               JOIN candidate ON candidate.id = candidate_id WHERE split = 'study' GROUP BY kind ORDER BY kind"""
        )
        return [(r[0], r[1], r[2]) for r in rows]

    def counts(self, split: Split, block: int | None = None, held_out: bool | None = None) -> dict[str, Score]:
        """Candidate id -> counted answers, for every candidate with answers; duplicates get their original's.

        Args:
            split: dev or test.
            block: dev questions of this block only.
            held_out: questions that are (not) held out from races only.
        """
        rows = self._db.execute(
            """SELECT candidate_id, SUM(correct) AS correct, COUNT(*) AS total, SUM(truncated) AS truncated,
               SUM(extracted IS NULL) AS unparsable, SUM(empty) AS empty, SUM(repetitive) AS repetitive,
               SUM(timed_out) AS timed_out FROM answer JOIN question ON question.id = question_id
               WHERE split = :split AND (:block IS NULL OR block = :block) AND (:held IS NULL OR held_out = :held)
               GROUP BY candidate_id""",
            {"split": split, "block": block, "held": held_out},
        )
        found = {
            r["candidate_id"]: Score.of(
                r["correct"], r["total"], r["truncated"], r["unparsable"], r["empty"], r["repetitive"], r["timed_out"]
            )
            for r in rows
        }
        for r in self._db.execute("SELECT id, duplicate_of FROM candidate WHERE duplicate_of IS NOT NULL"):
            if r["duplicate_of"] in found:
                found[r["id"]] = found[r["duplicate_of"]]
        return found

    def scored(self, iteration: int | None = None, kind: str = "generated") -> list[ScoredCandidate]:
        """Candidates of a kind that have run, with their dev score if they have one, in the order they were drawn."""
        tallies, standings = self._tallies(), self.standings()
        fixed = self._one_block
        racing = self.get_meta(RACE_BLOCK) is not None
        result = []
        for row in self.candidates(iteration, kind):
            if row.status is None:  # drawn, not run yet
                continue
            owner = row.duplicate_of or row.id
            mine = tallies.get(owner, []) if row.status is ExecutionStatus.OK else []
            own = [t for t in mine if fixed or t.block > 0] or mine  # what repeats a baseline has its block 0
            final = [] if fixed else [t for t in mine if t.block == 0]
            standing = standings.get(owner)
            counted = own
            if standing is not None:
                counted = [t for t in own if t.held_out] if standing.finalist else []
            elif racing and owner == row.id:  # the race is not decided yet
                counted = []
            before = [t for t in own if t.opening] if standing is not None else own
            score, seed, total = _summed(counted)
            first, first_seed, first_total = _summed(before)
            last, _, last_total = _summed(counted if fixed else final)
            result.append(
                ScoredCandidate(
                    id=row.id, iteration=row.iteration, index=row.index, source=row.source or "", completion=row.text,
                    status=row.status, correct=score, total=total, nll=row.nll, tokens=row.tokens,
                    duplicate_of=row.duplicate_of, refused=row.refused, seed_correct=seed or 0, standing=standing,
                    opening_correct=first, opening_total=first_total, final_correct=last, final_total=last_total,
                    opening_seed=first_seed or 0,
                )
            )  # fmt: skip
        return result

    def _tallies(self) -> dict[str, list[_Tally]]:
        """Dev answers of every candidate by block, held-out part and opening, beside the seed's on the same."""
        rows = self._db.execute(
            """SELECT answer.candidate_id, block, held_out, turn < :opening AS opening, SUM(answer.correct) AS correct,
               SUM(seed.correct) AS seed, COUNT(*) AS total
               FROM answer JOIN question ON question.id = answer.question_id
               LEFT JOIN answer AS seed ON seed.question_id = answer.question_id AND seed.candidate_id =
                   (SELECT id FROM candidate WHERE kind = 'seed')
               WHERE split = 'dev' GROUP BY answer.candidate_id, block, held_out, turn < :opening""",
            {"opening": int(self.get_meta(RACE_BLOCK) or 0)},
        )
        table: dict[str, list[_Tally]] = {}
        for r in rows:
            part = _Tally(r["block"], bool(r["held_out"]), bool(r["opening"]), r["correct"], r["seed"] or 0, r["total"])
            table.setdefault(r["candidate_id"], []).append(part)
        return table

    @property
    def _one_block(self) -> bool:
        """All iterations ask the same dev questions."""
        return self._db.execute("SELECT MAX(block) FROM question WHERE split = 'dev'").fetchone()[0] in (0, None)

    @property
    def _finals_held_out(self) -> bool | None:
        """Where all iterations ask one block and race on it, baselines and best meet on its held-out part."""
        return True if self._one_block and self.get_meta(RACE_BLOCK) is not None else None

    def final_counts(self) -> dict[str, Score]:
        """Counts on the questions on which baselines and the best candidates meet: block 0, or a part of it."""
        return self.counts(Split.DEV, 0, self._finals_held_out)

    def final_places(self) -> list[int]:
        """Places in block 0 of the questions of `final_counts`."""
        rows = self._db.execute(
            """SELECT turn FROM question WHERE split = 'dev' AND block = 0 AND (:held IS NULL OR held_out = :held)
               ORDER BY turn""",
            {"held": self._finals_held_out},
        )
        return [r["turn"] for r in rows]

    def set_standings(self, standings: Mapping[str, RaceStanding]) -> None:
        """Record where the candidates of a race ended."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (i, s.place, s.asked, s.correct, s.wins, s.losses, s.dropped, int(s.finalist))
                    for i, s in standings.items()
                ],
            )

    def standings(self) -> dict[str, RaceStanding]:
        """Candidate id -> where it ended in the race of its iteration."""
        return {
            r["candidate_id"]: RaceStanding(
                r["place"], r["asked"], r["correct"], r["wins"], r["losses"], r["dropped"], bool(r["finalist"])
            )
            for r in self._db.execute("SELECT * FROM standing")
        }

    def standings_of(self, iteration: int, kind: str) -> dict[str, RaceStanding]:
        """The standings of one race."""
        ids = {row.id for row in self.candidates(iteration, kind)}
        return {i: standing for i, standing in self.standings().items() if i in ids}

    # -- judgements ---------------------------------------------------------------------------------------------------

    def add_judgements(self, verifier: str, judgements: Mapping[str, Judgement]) -> None:
        """Record what a verifier says of candidates, all or none; judgements already there stay."""
        self._add_judgements("judgement", verifier, judgements)

    def judgements(self, iteration: int) -> dict[str, dict[str, Judgement]]:
        """Verifier -> candidate id -> judgement, of one iteration's samples in the order they were drawn."""
        return self._judgements(
            """SELECT judgement.*, candidate_id AS judged FROM judgement JOIN candidate ON candidate.id = candidate_id
               WHERE kind = 'generated' AND iteration = ? ORDER BY verifier, idx""",
            iteration,
        )

    def add_measured(self, rows: Iterable[MeasuredRow]) -> None:
        """Record samples for measurement, all or none; ones already there stay as they are."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO measured VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (r.id, r.iteration, r.index, r.checkpoint, r.temperature, str(r.sample_seed), r.text, r.tokens,
                     r.nll, int(r.truncated))
                    for r in rows
                ],
            )  # fmt: skip

    def measured(self, iteration: int) -> list[MeasuredRow]:
        """An iteration's samples for measurement, in the order they were drawn."""
        rows = self._db.execute("SELECT * FROM measured WHERE iteration = ? ORDER BY idx", (iteration,))
        return [
            MeasuredRow(r["id"], r["iteration"], r["idx"], r["checkpoint"], r["temperature"], int(r["sample_seed"]),
                        r["text"], r["tokens"], r["nll"], bool(r["truncated"]))
            for r in rows
        ]  # fmt: skip

    def add_measured_judgements(self, verifier: str, judgements: Mapping[str, Judgement]) -> None:
        """Record what a verifier says of samples for measurement, all or none; judgements already there stay."""
        self._add_judgements("measured_judgement", verifier, judgements)

    def measured_judgements(self, iteration: int) -> dict[str, dict[str, Judgement]]:
        """Verifier -> sample id -> judgement, of one iteration's samples for measurement, as they were drawn."""
        return self._judgements(
            """SELECT measured_judgement.*, measured_id AS judged FROM measured_judgement
               JOIN measured ON measured.id = measured_id WHERE iteration = ? ORDER BY verifier, idx""",
            iteration,
        )

    def _add_judgements(self, table: str, verifier: str, judgements: Mapping[str, Judgement]) -> None:
        with self.transaction():
            self._db.executemany(
                f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?, ?)",
                [(i, verifier, j.score, j.nll, j.reference_nll) for i, j in judgements.items()],
            )

    def _judgements(self, query: str, iteration: int) -> dict[str, dict[str, Judgement]]:
        table: dict[str, dict[str, Judgement]] = {}
        for r in self._db.execute(query, (iteration,)):
            found = Judgement(r["score"], r["nll"], r["reference_nll"])
            table.setdefault(r["verifier"], {})[r["judged"]] = found
        return table

    # -- pairs, iterations, winners, time ---------------------------------------------------------------------------

    def set_pairs(self, iteration: int, pairs: Sequence[PreferencePair]) -> None:
        """Record the preference pairs of an iteration, replacing earlier ones."""
        with self.transaction():
            self._db.execute("DELETE FROM pair WHERE iteration = ?", (iteration,))
            self._db.executemany(
                """INSERT INTO pair VALUES (?, ?, ?, ?, ?, ?, NULLIF(?, (SELECT text FROM candidate WHERE id = ?)))""",
                [
                    (iteration, i, p.chosen_id, p.rejected_id, p.chosen_score, p.rejected_score, p.chosen, p.chosen_id)
                    for i, p in enumerate(pairs)
                ],
            )

    def pairs(self, iteration: int, prompt: str) -> list[PreferencePair]:
        """The preference pairs of an iteration, in order; the store holds the fixed prompt only as a hash."""
        rows = self._db.execute(
            """SELECT pair.*, COALESCE(chosen_text, good.text) AS chosen, bad.text AS rejected FROM pair
               JOIN candidate AS good ON good.id = chosen_id JOIN candidate AS bad ON bad.id = rejected_id
               WHERE pair.iteration = ? ORDER BY position""",
            (iteration,),
        )
        return [
            PreferencePair(
                prompt, r["chosen"], r["rejected"], r["chosen_id"], r["rejected_id"], r["chosen_score"],
                r["rejected_score"],
            )
            for r in rows
        ]  # fmt: skip

    def pair_count(self, iteration: int) -> int:
        """Preference pairs of an iteration."""
        return int(self._db.execute("SELECT COUNT(*) FROM pair WHERE iteration = ?", (iteration,)).fetchone()[0])

    def commit_iteration(
        self,
        iteration: int,
        temperature: float,
        train: Mapping[str, Any],
        gap: Mapping[str, Any],
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        """Close an iteration: everything before it in the loop is recorded."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO iteration VALUES (?, ?, ?, ?, ?)",
                (iteration, temperature, json.dumps(train), json.dumps(gap), json.dumps(evidence or {})),
            )

    def iterations(self) -> list[dict[str, Any]]:
        """Closed iterations: {"iteration", "temperature", "train", "gap", "evidence"}."""
        rows = self._db.execute("SELECT * FROM iteration ORDER BY iteration")
        parsed = ("train", "gap", "evidence")
        return [{**dict(r), **{name: json.loads(r[name]) for name in parsed}} for r in rows]

    def stopped_after(self) -> int | None:
        """The last iteration of a run that ended early; None: it did not."""
        found = self.get_meta(STOPPED)
        return None if found is None else int(found.partition(":")[0])

    def register(self, roles: Mapping[str, str]) -> None:
        """Register who will be scored on test: role -> candidate id. A role once given is never given again."""
        opened = self.openings()
        with self.transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO winner VALUES (?, ?, ?)", [(r, i, opened) for r, i in roles.items()]
            )

    def winners(self) -> dict[str, str]:
        """Role -> candidate id, in the order of registration."""
        return {r["role"]: r["candidate_id"] for r in self._db.execute("SELECT * FROM winner ORDER BY rowid")}

    def registered_after(self) -> dict[str, int]:
        """Role -> how often the test set had been opened when it was registered; 0 is a blind registration."""
        return {r["role"]: r["openings"] for r in self._db.execute("SELECT * FROM winner ORDER BY rowid")}

    def add_opening(self, opened_at: str, candidates: Sequence[str], questions: int) -> None:
        """Note that the test answers are being opened: before they are."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO opening (opened_at, candidates, questions) VALUES (?, ?, ?)",
                (opened_at, json.dumps(list(candidates)), questions),
            )

    def ledger(self) -> list[Opening]:
        """Every opening of the test set, in order."""
        rows = self._db.execute("SELECT * FROM opening ORDER BY id")
        return [Opening(r["id"], r["opened_at"], tuple(json.loads(r["candidates"])), r["questions"]) for r in rows]

    def openings(self) -> int:
        """How often the test answers were opened."""
        return int(self._db.execute("SELECT COUNT(*) FROM opening").fetchone()[0])

    def add_seconds(self, iteration: int, name: str, seconds: float) -> None:
        """Add wall-clock time to a phase."""
        with self.transaction():
            self._db.execute(
                """INSERT INTO phase VALUES (?, ?, ?)
                   ON CONFLICT (iteration, name) DO UPDATE SET seconds = seconds + excluded.seconds""",
                (iteration, name, seconds),
            )

    def seconds(self) -> dict[int, dict[str, float]]:
        """Iteration -> phase -> wall-clock seconds; iteration 0 holds baselines and test."""
        table: dict[int, dict[str, float]] = {}
        for r in self._db.execute("SELECT * FROM phase ORDER BY iteration, rowid"):
            table.setdefault(r["iteration"], {})[r["name"]] = r["seconds"]
        return table

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table that does not depend on the clock, in a fixed order: equal runs have equal dumps."""
        names = [r["name"] for r in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        kept = sorted(n for n in names if n not in CLOCK_TABLES and not n.startswith("sqlite_"))
        return {n: sorted((tuple(r) for r in self._db.execute(f"SELECT * FROM {n}")), key=repr) for n in kept}

    def _has_tables(self) -> bool:
        return self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'candidate'").fetchone() is not None

    def _is_older(self) -> bool:
        applied = {r["name"] for r in self._db.execute("SELECT name FROM migration")}
        return any(name not in applied for name, _ in MIGRATIONS)

    def _migrate(self) -> None:
        with self.transaction():
            self._db.execute("CREATE TABLE IF NOT EXISTS migration (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL)")
            applied = {r["name"] for r in self._db.execute("SELECT name FROM migration")}
            unknown = applied - {name for name, _ in MIGRATIONS}
            if unknown:
                raise RunError(f"{self.path} was written by a newer selfdev ({max(unknown)}); update selfdev to use it")
            for name, step in MIGRATIONS:
                if name not in applied:
                    step(self._db)
                    self._db.execute("INSERT INTO migration VALUES (?, datetime('now'))", (name,))


def _summed(tallies: Sequence[_Tally]) -> tuple[int | None, int | None, int]:
    """(right answers, the seed's, questions); no right answers are None where nothing was asked."""
    if not tallies:
        return None, None, 0
    return sum(t.correct for t in tallies), sum(t.seed for t in tallies), sum(t.total for t in tallies)


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    db = sqlite3.connect(f"file:{_uri_path(path)}?mode={mode}", uri=True, isolation_level=None, timeout=5.0)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    if not read_only:
        try:  # some network file systems cannot do WAL
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA synchronous = FULL")
    return db


def _copy_in_memory(db: sqlite3.Connection) -> sqlite3.Connection:
    """What an older store holds, to be brought up to date without touching its file."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    copy.row_factory = sqlite3.Row
    db.backup(copy)
    db.close()
    return copy


def _uri_path(path: Path) -> str:
    return path.absolute().as_uri().removeprefix("file:")


def _candidate(row: sqlite3.Row) -> CandidateRow:
    return CandidateRow(
        id=row["id"], kind=row["kind"], name=row["name"], iteration=row["iteration"], index=row["idx"],
        checkpoint=row["checkpoint"], temperature=row["temperature"],
        sample_seed=None if row["sample_seed"] is None else int(row["sample_seed"]), text=row["text"],
        source=row["source"], tokens=row["tokens"], nll=row["nll"], truncated=bool(row["truncated"]),
        execution_seed=int(row["execution_seed"]),
        status=None if row["status"] is None else ExecutionStatus(row["status"]), error=row["error"], line=row["line"],
        operations=row["operations"], peak_bytes=row["peak_bytes"], result_hash=row["result_hash"],
        duplicate_of=row["duplicate_of"], fingerprint=row["fingerprint"], tags=tuple(row["tags"].split()),
        refused=row["refused"],
    )  # fmt: skip


def candidate_id(kind: str, iteration: int, index: int, text: str) -> str:
    """12 hex digits that name a program within a run."""
    return hashlib.sha256(f"{kind}|{iteration}|{index}|{text}".encode()).hexdigest()[:12]


def program_row(kind: str, name: str, iteration: int, index: int, source: str, execution_seed: int) -> CandidateRow:
    """The row of a program that no generator wrote: a baseline, a method, a control's."""
    return CandidateRow(
        id=candidate_id(kind, iteration, index, source), kind=kind, name=name, iteration=iteration, index=index,
        checkpoint="", temperature=None, sample_seed=None, text=source, source=source, tokens=0, nll=0.0,
        truncated=False, execution_seed=execution_seed,
    )  # fmt: skip


def sample_row(
    sample: Sample,
    candidate_id: str,
    iteration: int,
    checkpoint: str,
    temperature: float,
    source: str | None,
    execution_seed: int,
    kind: str = "generated",
) -> CandidateRow:
    """The row of one drawn sample; a sample without a program has its outcome already."""
    return CandidateRow(
        id=candidate_id, kind=kind, name="", iteration=iteration, index=sample.index, checkpoint=checkpoint,
        temperature=temperature, sample_seed=sample.seed, text=sample.text, source=source, tokens=sample.tokens,
        nll=sample.nll, truncated=sample.truncated, execution_seed=execution_seed,
        status=None if source else ExecutionStatus.NO_CODE,
        error=None if source else "the sample defines no merge_models function",
    )  # fmt: skip

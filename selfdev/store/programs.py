"""Questions, and the programs that answer them: generated ones and baselines, with how running them ended."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from selfdev.errors import RunError
from selfdev.store.database import Database
from selfdev.store.rows import BASELINE_KINDS, CandidateRow, QuestionRow
from selfdev.types import ExecutionStatus, Outcome, Split


class ProgramTables(Database):
    """Tables `question` and `candidate`."""

    # -- questions ----------------------------------------------------------------------------------------------------

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

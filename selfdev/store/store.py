"""The store of one run, whole: beside programs, scores and judgements its pairs, iterations, winners and times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from selfdev.store.judgements import JudgementTables
from selfdev.store.rows import STOPPED, Opening
from selfdev.store.scores import ScoreTables
from selfdev.types import PreferencePair


class Store(ScoreTables, JudgementTables):
    """All reads and writes of one run. Open it for writing in one process only (`RunDirectory` holds the lock)."""

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

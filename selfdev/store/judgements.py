"""What verifiers say of programs, and of the samples that uncertainty is measured on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from selfdev.store.database import Database
from selfdev.store.rows import MeasuredRow
from selfdev.verifiers.base import Judgement


class JudgementTables(Database):
    """Tables `judgement`, `measured` and `measured_judgement`."""

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
                f"INSERT OR IGNORE INTO measured VALUES ({','.join('?' * 12)})",
                [
                    (r.id, r.iteration, r.step, r.time, r.index, r.checkpoint, r.temperature, str(r.sample_seed),
                     r.text, r.tokens, r.nll, int(r.truncated))
                    for r in rows
                ],
            )  # fmt: skip

    def measured(self, iteration: int, step: int = 0) -> list[MeasuredRow]:
        """Samples for measurement as they were drawn: an iteration's own, or those after a step of its DPO stage."""
        rows = self._db.execute(
            "SELECT * FROM measured WHERE iteration = ? AND step = ? ORDER BY idx", (iteration, step)
        )
        return [
            MeasuredRow(r["id"], r["iteration"], r["step"], r["time"], r["idx"], r["checkpoint"], r["temperature"],
                        int(r["sample_seed"]), r["text"], r["tokens"], r["nll"], bool(r["truncated"]))
            for r in rows
        ]  # fmt: skip

    def measured_steps(self, iteration: int) -> dict[int, float]:
        """Step -> time of the samples for measurement inside an iteration's DPO stage, in order."""
        rows = self._db.execute(
            "SELECT DISTINCT step, time FROM measured WHERE iteration = ? AND step > 0 ORDER BY step", (iteration,)
        )
        return {r["step"]: r["time"] for r in rows}

    def add_measured_judgements(self, verifier: str, judgements: Mapping[str, Judgement]) -> None:
        """Record what a verifier says of samples for measurement, all or none; judgements already there stay."""
        self._add_judgements("measured_judgement", verifier, judgements)

    def measured_judgements(self, iteration: int, step: int = 0) -> dict[str, dict[str, Judgement]]:
        """Verifier -> sample id -> judgement, of the samples that `measured` gives, as they were drawn."""
        return self._judgements(
            """SELECT measured_judgement.*, measured_id AS judged FROM measured_judgement
               JOIN measured ON measured.id = measured_id WHERE iteration = ? AND step = ? ORDER BY verifier, idx""",
            iteration,
            step,
        )

    def _add_judgements(self, table: str, verifier: str, judgements: Mapping[str, Judgement]) -> None:
        with self.transaction():
            self._db.executemany(
                f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?, ?)",
                [(i, verifier, j.score, j.nll, j.reference_nll) for i, j in judgements.items()],
            )

    def _judgements(self, query: str, *given: int) -> dict[str, dict[str, Judgement]]:
        table: dict[str, dict[str, Judgement]] = {}
        for r in self._db.execute(query, given):
            found = Judgement(r["score"], r["nll"], r["reference_nll"])
            table.setdefault(r["verifier"], {})[r["judged"]] = found
        return table

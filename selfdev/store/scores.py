"""Graded answers, what they count up to, and where programs ended in their races."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from selfdev.score import Score
from selfdev.store.programs import ProgramTables
from selfdev.store.rows import BASELINE_KINDS, RACE_BLOCK
from selfdev.types import Answer, Completion, ExecutionStatus, RaceStanding, ScoredCandidate, Split


@dataclass(frozen=True, slots=True)
class _Tally:
    """Some answers of one candidate, counted."""

    block: int
    held_out: bool
    opening: bool
    correct: int
    seed: int  # the seed's right answers to the same questions
    total: int


class ScoreTables(ProgramTables):
    """Tables `answer` and `standing`."""

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


def _summed(tallies: Sequence[_Tally]) -> tuple[int | None, int | None, int]:
    """(right answers, the seed's, questions); no right answers are None where nothing was asked."""
    if not tallies:
        return None, None, 0
    return sum(t.correct for t in tallies), sum(t.seed for t in tallies), sum(t.total for t in tallies)

"""The run store: one SQLite file, one writer, numbered migrations.

The unit of durability is one graded answer, (candidate, question). Everything a run knows is here or can be derived
from here; files in the run directory are views that are written again at will. Reference answers are never stored.
Rows are the same for the same configuration and seed; what depends on the clock stands apart in `phase`, `opening`
and `migration`.

database     the file, transactions, facts about the run
programs     questions, and the programs that answer them
scores       graded answers, what they count up to, races
judgements   what verifiers say; samples that uncertainty is measured on
store        all of these with pairs, iterations, winners and times
rows         what is handed out and taken in
"""

from __future__ import annotations

from selfdev.store.database import CLOCK_TABLES, FILE_NAME
from selfdev.store.rows import (
    AFTER,
    BASELINE_KINDS,
    NOISE,
    RACE_BLOCK,
    SEALED,
    STOPPED,
    TRANSFER,
    CandidateRow,
    MeasuredRow,
    Opening,
    QuestionRow,
    candidate_id,
    program_row,
    sample_row,
)
from selfdev.store.store import Store

__all__ = [
    "AFTER", "BASELINE_KINDS", "CLOCK_TABLES", "FILE_NAME", "NOISE", "RACE_BLOCK", "SEALED", "STOPPED", "TRANSFER",
    "CandidateRow", "MeasuredRow", "Opening", "QuestionRow", "Store", "candidate_id", "program_row", "sample_row",
]  # fmt: skip

"""Small domain objects for tests."""

from __future__ import annotations

from selfdev.store import CandidateRow
from selfdev.types import Answer, Completion, ExecutionStatus, ScoredCandidate


def scored(
    index: int, correct: int | None, iteration: int = 1, total: int = 100, nll: float = 10.0, tokens: int = 10,
    status: ExecutionStatus | None = None, duplicate_of: str | None = None, completion: str | None = None,
) -> ScoredCandidate:  # fmt: skip
    """A candidate with a dev score (None: it failed)."""
    ended = status or (ExecutionStatus.OK if correct is not None else ExecutionStatus.EXCEPTION)
    text = f"program {iteration}.{index}" if completion is None else completion
    return ScoredCandidate(
        f"id{iteration}-{index}", iteration, index, text, text, ended, correct, 0 if correct is None else total, nll,
        tokens, duplicate_of,
    )  # fmt: skip


def row(
    index: int, iteration: int = 1, kind: str = "generated", text: str = "def merge_models(t): ..."
) -> CandidateRow:
    """A recorded program that has not run."""
    return CandidateRow(
        f"{kind[0]}{iteration}{index:010d}", kind, f"{kind} {index}" if iteration == 0 else "", iteration, index,
        "base", 1.2, 2**63 - 1 - index, text, text, 12, 3.5, False, 2**62 + index,
    )  # fmt: skip


def answer(index: int, correct: bool, split: str = "dev", truncated: bool = False) -> Answer:
    """A graded answer to a question whose gold answer is 1."""
    return Answer(f"{split}-{index}", Completion(" #### 1", 3, truncated), "1" if not truncated else None, correct)

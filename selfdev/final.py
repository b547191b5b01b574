"""Opening the test set: the one place where a run's winner meets the sealed questions.

What was registered before (the winner on dev, the seed, the best baseline, and whatever `selfdev register` named) is
scored on all of them. The ledger in the store gets its line before the first question is read, so an opening that was
stopped is on record and goes on as the same opening. A later opening, for what was registered since, is allowed; it is
counted, and the report says with every number after how many openings its candidate was registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from selfdev.errors import RunError, StageError
from selfdev.evaluation import Run, program_of
from selfdev.score import score
from selfdev.sealed import open_envelope
from selfdev.store import SEALED, Store
from selfdev.types import ExecutionStatus, Split


def waiting(store: Store) -> list[str]:
    """Registered candidates without test scores, in the order of registration."""
    size = store.question_count(Split.TEST)
    counts = store.counts(Split.TEST)
    ids = dict.fromkeys(store.winners().values())
    return [i for i in ids if i not in counts or counts[i].total < size]


def register(store: Store, names: Sequence[str]) -> list[str]:
    """Register further candidates by id or its beginning; returns the ids that will be tested.

    What repeats an earlier merge is registered as that one.

    Raises:
        RunError: unknown, or without a merged model.
    """
    ids = []
    for name in names:
        row = store.candidate(name)
        if row.status is not ExecutionStatus.OK:
            raise RunError(f"{row.id} ended with {row.status or 'no outcome yet'}, so there is nothing to test")
        ids.append(row.duplicate_of or row.id)
    taken = set(store.winners().values())
    store.register({f"named {i}": i for i in dict.fromkeys(ids) if i not in taken})
    return ids


def test(run: Run) -> int:
    """Score what waits on the sealed questions; returns how many candidates were scored.

    Raises:
        RunError: nothing is registered, or the sealed questions are not those of the run.
        StageError: a candidate does not give the merge it was chosen for. What was scored before stays.
    """
    store = run.store
    if not store.winners():
        raise RunError(f"{run.directory.path} has registered nothing yet; its iterations have to end first")
    pending = waiting(store)
    if not pending:
        return 0
    ledger = store.ledger()
    if not ledger or not set(pending) <= set(ledger[-1].candidates):  # else: it was stopped, and goes on
        now = datetime.now(UTC).isoformat(timespec="seconds")
        store.add_opening(now, pending, store.question_count(Split.TEST))
    questions = open_envelope(run.directory.path, store.get_meta(SEALED) or "")
    prompts = [q.prompt for q in questions]
    with run.view.phase(run.directory, 0, "test", total=len(pending)) as advance, run.parts.open_worker() as worker:
        for row in map(store.candidate, pending):
            outcome = worker.again(program_of(row), prompts, str(row.result_hash))
            if outcome.completions is None:
                raise StageError(
                    f"program {row.id} did not give its dev result on test ({outcome.status} {outcome.error or ''}); "
                    "run again"
                )
            store.add_answers(row.id, score(questions, outcome.completions, run.parts.task.grade))
            advance(1)
    return len(pending)

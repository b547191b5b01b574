"""What a run knows about one of its algorithms, read-only, and the merge that it stands for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from selfdev.apply.merge import Request
from selfdev.errors import RunError, UsageError
from selfdev.export.card import Scores
from selfdev.rundir import read_saved_config
from selfdev.score import Score
from selfdev.store import FILE_NAME, CandidateRow, Store
from selfdev.types import Split

WINNER = "winner"


@dataclass(frozen=True, slots=True)
class Exported:
    """One algorithm of a run."""

    row: CandidateRow
    source: str
    config: dict[str, Any]  # the run's, resolved
    scores: Scores
    roles: tuple[str, ...]  # "winner", "seed", "baseline"

    @property
    def name(self) -> str:
        """For people."""
        row = self.row
        kind = f"iteration {row.iteration}, sample {row.index}" if row.kind == "generated" else row.name or row.kind
        return f"{row.id} ({kind})"

    def request(self, exact: bool, shard_bytes: int) -> Request:
        """The merge that the run scored."""
        models = self.config["models"]
        scope, dtype = models["scope"], models["dtype"]
        return Request(
            algorithm=self.source,
            seed=models["seed"],
            sources=tuple(models["sources"]),
            scope=cast("Literal['all', 'mlp']", scope) if isinstance(scope, str) else tuple(scope),
            execution_seed=self.row.execution_seed,
            exact=exact,
            dtype=None if dtype == "auto" else getattr(torch, dtype),
            allow_missing=tuple(self.config["sandbox"]["allow_missing"]),
            shard_bytes=shard_bytes,
        )


def read_candidate(run: Path, given: str | None) -> Exported:
    """One algorithm by id, beginning of an id or role; None: the winner.

    Raises:
        RunError: no run, no such algorithm, or a damaged store.
        UsageError: the sample holds no program.
    """
    config = cast("dict[str, Any]", read_saved_config(run))
    with _open(run) as store:
        winners = store.winners()
        if given is None and WINNER not in winners:
            raise RunError(f"{run} has no winner yet; name an algorithm: `selfdev top {run}` lists ids")
        wanted = WINNER if given is None else given
        row = store.candidate(winners.get(wanted, wanted))
        if row.source is None:
            raise UsageError(f"{row.id} holds no program ({row.status}); `selfdev top {run}` lists algorithms")
        scores = _scores(store, config, row.id, winners.get("seed"))
        roles = tuple(role for role, id_ in winners.items() if id_ == row.id)
    return Exported(row, row.source, config, scores, roles)


def _scores(store: Store, config: dict[str, Any], candidate: str, seed: str | None) -> Scores:
    dev, test = store.counts(Split.DEV), store.counts(Split.TEST)

    def of(counts: dict[str, Score], id_: str | None) -> Score | None:
        return None if id_ is None or id_ == candidate else counts.get(id_)

    return Scores(
        task=config["task"]["name"],
        dev=dev.get(candidate),
        test=test.get(candidate),
        openings=store.openings(),
        seed_dev=of(dev, seed),
        seed_test=of(test, seed),
    )


@contextmanager
def _open(run: Path) -> Iterator[Store]:
    store = Store(run / FILE_NAME, read_only=True)
    try:
        yield store
    except sqlite3.DatabaseError as error:
        raise RunError(f"{run / FILE_NAME} is damaged: {error}") from None
    finally:
        store.close()

"""Drawing dev and test questions: seeded, stratified, disjoint. Pure.

Orders depend on the seed, the task's name and the number of rows only, not on the sizes asked for: a larger dev begins
with the smaller one's questions, and dev is the same whatever the size of test.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from selfdev.errors import DataError
from selfdev.tasks.rows import Row

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Positions of rows: of `dev` in the rows that dev comes from, of `test` in the test rows."""

    dev: tuple[int, ...]
    test: tuple[int, ...]


def shuffled(items: Sequence[T], key: str) -> list[T]:
    """The items in the order that `key` seeds; equal on every machine."""
    return random.Random(key).sample(items, len(items))


def draw_dev(groups: Mapping[str, Sequence[int]], size: int, key: str, source: str) -> tuple[int, ...]:
    """`size` positions, equally many of each group (the first groups get the remainder), groups in rotation.

    Args:
        groups: name -> positions of its rows; one group where nothing is stratified.
        size: how many to draw.
        key: seeds the order.
        source: what the rows are, for messages.

    Raises:
        DataError: a group holds fewer rows than its share.
    """
    share, remainder = divmod(size, len(groups))
    columns: list[list[int]] = []
    for place, (name, positions) in enumerate(groups.items()):
        wanted = share + (place < remainder)
        if wanted > len(positions):
            what = f"{source}, {name}" if name else source
            raise DataError(f"{what}: {len(positions)} different questions; {wanted} for dev were asked for")
        columns.append(shuffled(positions, f"{key}/{name}" if name else key)[:wanted])
    return tuple(column[i] for i in range(share + 1) for column in columns if i < len(column))


def draw_first(groups: Mapping[str, Sequence[int]], limit: int) -> tuple[int, ...]:
    """The first `limit` positions, groups in rotation as long as they last, in ascending order."""
    longest = max(map(len, groups.values()), default=0)
    rotation = (column[i] for i in range(longest) for column in groups.values() if i < len(column))
    return tuple(sorted(islice(rotation, limit)))


def draw_test(left: Sequence[int], size: int | None, key: str, source: str) -> tuple[int, ...]:
    """`size` of the positions that are left, all of them for None.

    Raises:
        DataError: fewer are left.
    """
    if (size or 1) > len(left):
        wanted = "at least 1" if size is None else size
        raise DataError(f"{source}: {len(left)} different questions are left for test; {wanted} were asked for")
    return tuple(shuffled(left, key)[:size])


def first_of_each(rows: Sequence[Row]) -> list[int]:
    """Positions of the rows whose question occurs for the first time."""
    seen: dict[str, int] = {}
    for position, row in enumerate(rows):
        seen.setdefault(question_key(row), position)
    return list(seen.values())


def question_key(row: Row) -> str:
    """The question without what a copy may change: case, white space and Unicode's forms of one character."""
    return " ".join(unicodedata.normalize("NFKC", row.question).casefold().split())


def split_hash(dev: Iterable[str], test: Iterable[str]) -> str:
    """SHA-256 over the question texts of both splits, in order."""
    return hashlib.sha256(json.dumps([list(dev), list(test)]).encode()).hexdigest()

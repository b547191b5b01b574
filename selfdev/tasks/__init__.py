"""Tasks by name. Each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from selfdev.errors import UsageError
from selfdev.tasks.base import Task

TASKS = ("arithmetic", "gsm8k")


def load_task(name: str, *, dev_size: int, test_size: int | None, seed: int, data: str | Path | None = None) -> Task:
    """Make a task with disjoint dev and test questions.

    Args:
        name: one of `TASKS`.
        dev_size: dev questions, at least 1.
        test_size: test questions, at least 1; None takes all that are left (not for "arithmetic", which has no end).
        seed: of the draw; the same seed gives the same questions in the same order.
        data: a file with the rows; the hub's data set by default. "arithmetic" makes its own and takes none.

    Raises:
        UsageError: unknown task or impossible sizes.
        DataError: the data cannot be read or does not suffice.
    """
    makers: dict[str, Callable[[], Task]] = {
        "arithmetic": lambda: _arithmetic(dev_size, test_size, seed, data),
        "gsm8k": lambda: _gsm8k(dev_size, test_size, seed, data),
    }
    if name not in makers:
        raise UsageError(f"unknown task {name!r}; allowed: {', '.join(TASKS)}")
    for what, size in (("dev", dev_size), ("test", test_size)):
        if size is not None and size < 1:
            raise UsageError(f"{what} size {size} given; at least 1 question is needed")
    return makers[name]()


def load_questions(name: str, *, limit: int, seed: int, data: str | Path | None = None) -> Task:
    """Questions to score one given model on, all of them in `dev`: the first `limit` rows of the data, in order.

    "arithmetic" draws from its dev split: its test split is for a search's winner.

    Raises:
        UsageError: unknown task or limit below 1.
        DataError: the data cannot be read.
    """
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}; allowed: {', '.join(TASKS)}")
    if limit < 1:
        raise UsageError(f"limit {limit} given; at least 1 question is needed")
    if name == "arithmetic":
        return replace(_arithmetic(limit, 1, seed, data), test=())
    from selfdev.tasks.gsm8k import gsm8k_questions

    return gsm8k_questions(limit=limit, data=data)


def _arithmetic(dev_size: int, test_size: int | None, seed: int, data: str | Path | None) -> Task:
    from selfdev.grading.gsm8k import grade_strict
    from selfdev.tasks.arithmetic import questions, to_question

    if data is not None:
        raise UsageError(f"task 'arithmetic' makes its own questions; leave out the data file {str(data)!r}")
    if test_size is None:
        raise UsageError("task 'arithmetic' needs a test size")
    return Task(
        name="arithmetic",
        dev=tuple(to_question(problem) for problem in questions("dev", dev_size, seed)),
        test=tuple(to_question(problem) for problem in questions("test", test_size, seed)),
        stop=("Question:",),
        max_new_tokens=24,
        grade=grade_strict,
    )


def _gsm8k(dev_size: int, test_size: int | None, seed: int, data: str | Path | None) -> Task:
    from selfdev.tasks.gsm8k import gsm8k_task

    return gsm8k_task(dev_size=dev_size, test_size=test_size, seed=seed, data=data)

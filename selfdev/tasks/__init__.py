"""Tasks by name. Each is imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from selfdev.config import TaskConfig
from selfdev.errors import UsageError
from selfdev.tasks.base import Task

if TYPE_CHECKING:
    from selfdev.grading import Grader
    from selfdev.tasks.benchmark import Benchmark

TASKS = ("arithmetic", "gsm8k", "hendrycks_math", "jsonl")

# Settings that mean something to one kind of task only; elsewhere they are refused instead of ignored.
_ONLY_MATH = ("subjects", "dev_subjects")
_ONLY_JSONL = ("question_fields", "answer_field")
_NOT_ARITHMETIC = ("data", "train_data", "dev_from", "protocol", "shots", "shots_file", *_ONLY_MATH, *_ONLY_JSONL)
_REFUSED = {
    "arithmetic": _NOT_ARITHMETIC,
    "gsm8k": (*_ONLY_MATH, *_ONLY_JSONL),
    "hendrycks_math": _ONLY_JSONL,
    "jsonl": _ONLY_MATH,
}


def load_task(config: TaskConfig, seed: int, blocks: int = 1) -> Task:
    """Make a task with disjoint dev and test questions.

    Args:
        config: which task, which rows, how many.
        seed: of the draw; the same seed gives the same questions in the same order.
        blocks: of dev questions, `dev_size` each, all different; see `RunConfig.blocks`.

    Raises:
        UsageError: settings that the task does not have, or that exclude one another.
        DataError: the data cannot be read or does not suffice.
    """
    _check(config)
    if config.name == "arithmetic":
        if config.test_size == "rest":
            raise UsageError("task 'arithmetic' has no end; give a test size")
        return replace(_arithmetic(config, blocks * config.dev_size, config.test_size, seed), blocks=blocks)
    from selfdev.tasks.benchmark import make_task

    benchmark = _benchmark(config)
    return make_task(benchmark, config, seed, _grader(benchmark.graders[0]), blocks)


def load_questions(config: TaskConfig, limit: int, seed: int) -> Task:
    """Questions to score one given model on, all of them in `dev`: the first `limit` rows of the test data, in order.

    hendrycks_math: the first rows of each subject, equally many, as lm-eval's limit per subject does.
    "arithmetic" draws from its dev split: its test split is for a search's winner.

    Raises:
        UsageError: settings that the task does not have, or a limit below 1.
        DataError: the data cannot be read.
    """
    _check(config)
    if limit < 1:
        raise UsageError(f"limit {limit} given; at least 1 question is needed")
    if config.name == "arithmetic":
        return replace(_arithmetic(config, limit, 1, seed), test=())
    from selfdev.tasks.benchmark import make_questions

    benchmark = _benchmark(config)
    return make_questions(benchmark, config, limit, _grader(benchmark.graders[0]))


def ask(config: TaskConfig, question: str) -> str:
    """The prompt of one more question of a task, worked problems in front included; protocol "search" only.

    Raises:
        UsageError: settings that the task does not have.
        DataError: the worked problems cannot be read.
    """
    if config.name == "arithmetic":
        from selfdev.tasks.gsm8k import LAYOUT

        return LAYOUT.ask(question)
    benchmark = _benchmark(config)
    return benchmark.layout.prefix(benchmark.shots) + benchmark.layout.ask(question)


def _check(config: TaskConfig) -> None:
    for name in _REFUSED[config.name]:
        given = getattr(config, name)
        if given != TaskConfig.model_fields[name].default:
            raise UsageError(f"task {config.name!r} has no setting {name!r} (got {given!r}); leave it out")


def _benchmark(config: TaskConfig) -> Benchmark:
    module = importlib.import_module(f"selfdev.tasks.{config.name}")
    benchmark: Benchmark = module.benchmark(config)
    return benchmark


def _grader(name: str) -> Grader:
    from selfdev.grading import load_grader

    return load_grader(name)


def _arithmetic(config: TaskConfig, dev_size: int, test_size: int, seed: int) -> Task:
    from selfdev.tasks.arithmetic import ArithmeticProblem, questions, to_question
    from selfdev.tasks.gsm8k import GRADERS
    from selfdev.tasks.splits import split_hash

    dev, test = questions("dev", dev_size, seed), questions("test", test_size, seed)
    graders = GRADERS if config.grader is None else (config.grader,)

    def texts(problems: Sequence[ArithmeticProblem]) -> list[str]:
        return [problem.question for problem in problems]

    return Task(
        name="arithmetic",
        dev=tuple(map(to_question, dev)),
        test=tuple(map(to_question, test)),
        stop=("Question:",),
        max_new_tokens=24,
        grade=_grader(graders[0]),
        graders=graders,
        references={to_question(problem).id: str(problem.answer) for problem in (*dev, *test)},
        facts={"name": "arithmetic", "grader": graders[0], "split": split_hash(texts(dev), texts(test))},
    )

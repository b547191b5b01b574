"""What a self-improvement works on: training questions, measurement questions, external answers.

Gold answers stay here and in grading: nothing that selects or trains sees them. `arithmetic` trains on its train split
and measures on its dev split; the other tasks train on the rows that their dev questions are drawn from and measure on
test rows. External answers are the data's own solutions to training questions, or rows of a file.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from selfdev.config import TaskConfig
from selfdev.errors import DataError, UsageError
from selfdev.grading.base import Grader
from selfdev.prompting import text_hash
from selfdev.selfimprove.settings import ImproveConfig
from selfdev.sft import Pair
from selfdev.tasks.rows import Fields, read_rows
from selfdev.types import Question

WORKED = ("arithmetic", "gsm8k", "hendrycks_math")  # tasks whose references are worked answers


@dataclass(frozen=True, slots=True)
class Problems:
    """Everything asked and shown; prompts are whole texts, a chat template included."""

    train: tuple[Question, ...]
    measure: tuple[Question, ...]
    external: tuple[Pair, ...]  # in the order in which they come in
    stop: tuple[str, ...]
    max_new_tokens: int
    grade: Grader
    notes: tuple[str, ...]  # to read before trusting the numbers
    plain: Mapping[str, str] = field(default_factory=dict)  # with a chat template: question id -> prompt without it

    @property
    def facts(self) -> dict[str, str]:
        """What must not change within a run."""
        return {
            "training questions": _hash([q.prompt + q.gold for q in self.train]),
            "measurement questions": _hash([q.prompt + q.gold for q in self.measure]),
            "external answers": _hash([p.prompt + p.completion for p in self.external]),
        }


def _hash(texts: Sequence[str]) -> str:
    return text_hash("\0".join(texts))


def load_problems(config: ImproveConfig) -> Problems:
    """The questions of a configuration, the same for the same seed.

    Raises:
        UsageError: settings that the task does not have, or no external answers where some are asked for.
        DataError: the data cannot be read, do not suffice, or external answers that are wrong or leak.
        ModelError: a chat template is asked for and the model has none.
    """
    found, worked = _arithmetic(config) if config.task.name == "arithmetic" else _benchmark(config)
    found = replace(found, max_new_tokens=config.max_new_tokens or found.max_new_tokens)
    if config.cross.schedule != "none":
        found = replace(found, external=_external(config, found, worked))
    return _with_chat(config, found) if config.task.chat_template else found


def _arithmetic(config: ImproveConfig) -> tuple[Problems, dict[str, str]]:
    from selfdev.tasks import load_questions
    from selfdev.tasks.arithmetic import questions, to_question

    assert isinstance(config.task.test_size, int)
    asked = load_questions(config.task, config.task.test_size, config.seed)
    drawn = questions("train", config.task.dev_size, config.seed)
    train = tuple(map(to_question, drawn))
    problems = Problems(train, asked.dev, (), asked.stop, asked.max_new_tokens, asked.grade, asked.notes)
    return problems, {q.id: problem.rationale for q, problem in zip(train, drawn, strict=True)}


def _benchmark(config: ImproveConfig) -> tuple[Problems, dict[str, str]]:
    from selfdev.tasks import load_task

    task = config.task
    has_train = task.train_data is not None or (task.data is None and task.name != "jsonl")
    loaded = load_task(task.model_copy(update={"dev_from": "train" if has_train else "test"}), config.seed)
    problems = Problems(loaded.dev, loaded.test, (), loaded.stop, loaded.max_new_tokens, loaded.grade, loaded.notes)
    return problems, {q.id: f" {loaded.references[q.id]}" for q in loaded.dev} if task.name in WORKED else {}


# -- external answers -------------------------------------------------------------------------------------------------


def _external(config: ImproveConfig, found: Problems, worked: dict[str, str]) -> tuple[Pair, ...]:
    """`share` of the number of training questions, in a random order that only the seed decides."""
    if config.cross.data is not None:
        pool = _from_file(config.cross.data, config.task, found)
    elif worked:
        pool = [Pair(q.prompt, worked[q.id]) for q in found.train]
    else:
        raise UsageError(
            f"task {config.task.name!r} has no worked answers of its own; give them with --cross-data FILE.jsonl"
        )
    wanted = max(1, round(config.cross.share * len(found.train)))
    if wanted > len(pool):
        raise DataError(
            f"{wanted} external answers asked for ({config.cross.share:g} of {len(found.train)} training questions); "
            f"there are {len(pool)}: give more rows or a smaller --cross-share"
        )
    return tuple(random.Random(f"selfimprove/external/{config.seed}").sample(pool, wanted))


def _from_file(path: str, task: TaskConfig, found: Problems) -> list[Pair]:
    from selfdev.tasks import ask

    rows = read_rows(path, Fields(task.question_fields or ("question",), task.answer_field or "answer"))
    pool: dict[str, Pair] = {}
    gold = {q.prompt: q.gold for q in found.train}
    measured = {q.prompt for q in found.measure}
    for row in rows:
        prompt, answer = ask(task, row.question), f" {row.answer}"
        if prompt in measured:
            raise DataError(f"{row.place}: a measurement question; take it out, it would be learnt by heart")
        if prompt in gold and not found.grade(answer, gold[prompt]).correct:
            raise DataError(f"{row.place}: not the reference answer to this training question; external answers are "
                            "taken for verified, so mend or drop the row")  # fmt: skip
        pool.setdefault(prompt, Pair(prompt, answer))
    return list(pool.values())


def _with_chat(config: ImproveConfig, found: Problems) -> Problems:
    from selfdev.models import load_tokenizer
    from selfdev.tasks.chat import render_chat

    tokenizer = load_tokenizer(config.model)

    def wrap(questions: Sequence[Question]) -> tuple[Question, ...]:
        return tuple(replace(q, prompt=render_chat(q.prompt, tokenizer)) for q in questions)

    external = tuple(Pair(render_chat(p.prompt, tokenizer), p.completion.lstrip(" ")) for p in found.external)
    plain = {q.id: q.prompt for q in (*found.train, *found.measure)}
    return replace(found, train=wrap(found.train), measure=wrap(found.measure), external=external, plain=plain)

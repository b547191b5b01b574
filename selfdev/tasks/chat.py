"""Prompts wrapped as chat messages, for instruct models.

A task knows no tokenizer, so this is a step of its own between loading a task and asking it: every prompt, few-shot
prefix included, becomes the content of one user message, as lm-eval does with `--apply_chat_template` and
`--fewshot_as_multiturn False`. Engines get plain text as before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from selfdev.errors import ModelError
from selfdev.tasks.base import Task
from selfdev.types import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def with_chat(task: Task, tokenizer: PreTrainedTokenizerBase) -> Task:
    """The task with every prompt as one user message, followed by the beginning of the model's turn.

    Raises:
        ModelError: the tokenizer has no chat template, or its template refuses a single user message.
    """

    def wrap(question: Question) -> Question:
        return replace(question, prompt=render_chat(question.prompt, tokenizer))

    return replace(task, dev=tuple(map(wrap, task.dev)), test=tuple(map(wrap, task.test)))


def render_chat(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """One user message as the model's template writes it.

    A beginning-of-sequence token that the tokenizer adds by itself is taken off: engines tokenise the text like any
    other and would double it (lm-eval arrives at the same tokens by telling the tokenizer to add none).

    Raises:
        ModelError: no chat template, or one that fails.
    """
    from jinja2 import TemplateError

    name = tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise ModelError(f"the tokenizer of {name} has no chat template; leave out the chat template setting")
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise ModelError(f"the chat template of {name} fails on one user message: {error}") from error
    assert isinstance(text, str)
    begin = tokenizer.bos_token
    if begin and text.startswith(begin) and _adds(tokenizer, tokenizer.bos_token_id):
        return text.removeprefix(begin)
    return text


def _adds(tokenizer: PreTrainedTokenizerBase, begin: int) -> bool:
    ids: list[int] = tokenizer("a")["input_ids"]
    return ids[:1] == [begin]

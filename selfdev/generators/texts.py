"""Prompts in and texts out, the same for every generator that runs a model: encoding, where a sample ends, its text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from selfdev.errors import UsageError
from selfdev.types import Sample, SampleRequest

_ANCHOR = 8  # prompt tokens decoded together with a completion, so that its first token keeps its leading space


class Ending:
    """Where a completion ends: with the n-th stop string, which stays in its text."""

    def __init__(self, stop: Sequence[str], occurrence: int) -> None:
        self._pattern = re.compile("|".join(re.escape(text) for text in stop)) if stop else None
        self._occurrence = occurrence
        self._window = max((len(text.encode()) for text in stop), default=0)  # a token is at least one byte

    def reached(self, tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> bool:
        """Whether the newest token completes the ending. The whole text is decoded only where the tail says so."""
        if self._pattern is None or not self._pattern.search(_decode(tokenizer, tokens[-self._window :], special=True)):
            return False
        return self._end(_decode(tokenizer, tokens)) is not None

    def cut(self, text: str) -> str:
        """The text up to and with its ending."""
        return text[: self._end(text)]

    def _end(self, text: str) -> int | None:
        matches = list(self._pattern.finditer(text)) if self._pattern is not None else []
        return matches[self._occurrence - 1].end() if len(matches) >= self._occurrence else None


def check_sizes(batch_size: int, max_new_tokens: int) -> None:
    """Refuse batches and samples of nothing."""
    if batch_size < 1 or max_new_tokens < 1:
        raise UsageError(
            f"batch_size {batch_size} and max_new_tokens {max_new_tokens}: both must be at least 1; raise them"
        )


def check_temperature(temperature: float) -> None:
    """Refuse temperatures that are no temperatures."""
    if not temperature > 0:
        raise UsageError(f"temperature {temperature}: it must be above 0; for a start 1.0 is usual")


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    ref: str,
    prompt: str,
    max_new_tokens: int,
    context: int | None,
    chat_template: bool,
) -> list[int]:
    """Token ids of the prompt, given as one user message if asked for.

    Raises:
        UsageError: the model has no chat template, or `context` has no room for prompt and sample.
    """
    if not chat_template:
        encoded = tokenizer(prompt)
    elif tokenizer.chat_template is None:
        raise UsageError(f"generator {ref!r} has no chat template; turn the chat_template setting off")
    else:
        messages = [{"role": "user", "content": prompt}]
        try:
            encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        except TemplateError as error:
            raise UsageError(f"the chat template of generator {ref!r} fails on one user message: {error}") from error
    ids: list[int] = list(encoded["input_ids"])
    if context is not None and len(ids) + max_new_tokens > context:
        raise UsageError(
            f"a prompt of {len(ids)} tokens and {max_new_tokens} new ones exceed the {context} positions of "
            f"generator {ref!r}; lower the token limit or shorten the prompt"
        )
    return ids


def make_sample(
    tokenizer: PreTrainedTokenizerBase,
    ending: Ending,
    prompt_ids: Sequence[int],
    request: SampleRequest,
    tokens: Sequence[int],
    nll: float,
    *,
    done: bool,
) -> Sample:
    """What was drawn, as a sample; `done` says that it ended by itself."""
    anchor = list(prompt_ids[-_ANCHOR:])
    before = _decode(tokenizer, anchor)
    both = _decode(tokenizer, [*anchor, *tokens])
    text = ending.cut(both[len(before) :])
    return Sample(request.index, request.seed, text, len(tokens), nll, truncated=not done)


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: list[int], *, special: bool = False) -> str:
    text = tokenizer.decode(tokens, skip_special_tokens=not special, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text

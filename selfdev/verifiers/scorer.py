"""What a causal language model thinks of texts: log-likelihoods of completions, probabilities of the next token.

What all texts of a call begin with runs once, and all rows of a batch attend to that one copy. Rows are padded on the
right: under causal attention no real token sees the padding, so no mask is needed and a score depends on its own text
alone (but for the rounding of batched products). Rows of one length go together; a batch that the device has no room
for is cut in two.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from selfdev.decoding import past_cache
from selfdev.errors import StageError, UsageError
from selfdev.generators.adapters import attach
from selfdev.generators.texts import encode_prompt
from selfdev.models import load_causal_lm
from selfdev.plan import LOGIT_BYTES

T = TypeVar("T")


class TransformersScorer:
    """Scores texts under a base model, or under it with one LoRA adapter."""

    def __init__(
        self,
        model_ref: str,
        device: torch.device | str,
        batch_size: int,
        dtype: torch.dtype | str = "auto",
        chat_template: bool = False,
    ) -> None:
        """Nothing is loaded before `load`.

        Args:
            model_ref: a reference to the base model, see `selfdev.models.resolve`.
            device: where the model runs.
            batch_size: texts scored at once.
            dtype: of the weights; "auto" keeps what the configuration says.
            chat_template: give prompts as one user message.
        """
        self._ref = model_ref
        self._device = torch.device(device)
        self._batch_size = batch_size
        self._dtype = dtype
        self._chat_template = chat_template
        self._model: Any = None
        self._adapted = False
        self._tokenizer: Any = None

    def load(self, adapter: Path | None) -> None:
        """Use the base model (None) or the base model with this PEFT adapter directory.

        Raises:
            ModelError: the base model or the adapter cannot be used.
        """
        self.close()
        self._model, self._tokenizer = load_causal_lm(self._ref, self._device, self._dtype)
        if adapter is not None:
            self._model, self._adapted = attach(self._model, self._ref, adapter), True

    def close(self) -> None:
        """Give the memory back; the next `load` starts again."""
        self._model, self._tokenizer, self._adapted = None, None, False
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def nll(self, prompt: str, texts: Sequence[str], base: bool = False) -> list[float | None]:
        """-log pi(text | prompt) at temperature 1, in nats, summed over the text's tokens; no end token is added.

        Args:
            prompt: what all texts continue.
            texts: completions, tokenised by themselves; an empty one has 0.
            base: under the base model, without the adapter.

        Returns:
            One per text; None where prompt and text exceed the model's positions, or where it is not finite.

        Raises:
            UsageError: the prompt alone exceeds the model's positions.
            StageError: the device has no room for a single text.
        """
        self.check_room(prompt)
        first = self._encode(prompt)
        rows = [list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        # the prompt's last token begins every row: what follows it predicts the text's first token
        fed = [[first[-1], *row[:-1]] for row in rows]

        def read(place: int, logits: torch.Tensor) -> float:
            row = rows[place]
            logs = torch.log_softmax(logits[: len(row)].float(), dim=-1)  # (tokens, vocabulary)
            picked = logs.gather(1, torch.tensor(row, device=self._device, dtype=torch.long)[:, None])
            return -float(picked.sum(dtype=torch.float64))

        with self._model.disable_adapter() if base and self._adapted else nullcontext():
            found = self._read(first[:-1], fed, read)
        return [None if value is None or not isfinite(value) else value for value in found]

    @torch.inference_mode()
    def next_token(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[float, ...] | None]:
        """Probabilities of the answers as what comes next, normalised over the answers.

        An answer is known by its first token, with and without a space before it. How sure the model is of giving any
        of the answers is not told.

        Returns:
            One per prompt; None where it exceeds the model's positions, or where they are not finite.

        Raises:
            UsageError: two answers begin with the same token.
            StageError: the device has no room for a single prompt.
        """
        ids = first_tokens(self._tokenizer, self._ref, answers)
        encoded = [self._encode(prompt) for prompt in prompts]
        shared = encoded[0][: min(_common(encoded), *(len(row) - 1 for row in encoded))] if encoded else []

        def read(_: int, logits: torch.Tensor) -> tuple[float, ...]:
            logs = torch.log_softmax(logits[-1].float(), dim=-1)
            each = torch.stack([torch.logsumexp(logs[torch.tensor(t, device=self._device)], 0) for t in ids])
            return tuple(torch.softmax(each.double(), 0).tolist())

        found = self._read(shared, [row[len(shared) :] for row in encoded], read, last_only=True)
        return [None if row is None or not all(map(isfinite, row)) else row for row in found]

    def check_room(self, prompt: str) -> None:
        """Refuse a prompt to which nothing can be added.

        Raises:
            UsageError: it fills the model's positions.
        """
        tokens, context = len(self._encode(prompt)), self._context()
        if tokens > context:
            raise UsageError(
                f"a prompt of {tokens} tokens exceeds the {context} positions of {self._ref!r}; shorten it"
            )  # fmt: skip

    def _context(self) -> int:
        return int(getattr(self._model.config, "max_position_embeddings", None) or 1 << 30)

    def _read(
        self,
        shared: Sequence[int],
        rows: Sequence[Sequence[int]],
        read: Callable[[int, torch.Tensor], T],
        last_only: bool = False,
    ) -> list[T | None]:
        """Give `read` each row's number and logits (tokens, vocabulary); None where a row has no room behind `shared`.

        With `last_only` the logits are those behind the last token alone, (1, vocabulary).
        """
        found: list[T | None] = [None] * len(rows)
        room = self._context() - len(shared)
        order = sorted((i for i, row in enumerate(rows) if len(row) <= room), key=lambda i: (-len(rows[i]), i))
        if not order:
            return found
        try:
            prefix = self._prefix(shared)
        except torch.OutOfMemoryError:
            raise self._too_large(len(shared)) from None
        done, most = 0, self._batch_size
        while done < len(order):
            width = len(rows[order[done]])
            batch = order[done : done + min(most, self._rows_within(1 if last_only else width))]
            values = self._values(prefix, len(shared), rows, batch, read, last_only)
            if values is None and len(batch) == 1:
                raise self._too_large(len(shared) + width)
            if values is None:
                most = len(batch) // 2
                continue
            for i, value in zip(batch, values, strict=True):
                found[i] = value
            done += len(batch)
        return found

    def _values(
        self,
        prefix: Any,
        shared: int,
        rows: Sequence[Sequence[int]],
        batch: Sequence[int],
        read: Callable[[int, torch.Tensor], T],
        last_only: bool,
    ) -> list[T] | None:
        """What `read` makes of these rows; None where the device has no room for them at once."""
        lengths = [len(rows[i]) for i in batch]
        padding = self._tokenizer.pad_token_id
        padded = [[*rows[i], *[padding] * (max(lengths) - length)] for i, length in zip(batch, lengths, strict=True)]
        places = sorted({length - 1 for length in lengths})
        try:
            tokens = torch.tensor(padded, device=self._device)
            cache = None if prefix is None else past_cache(prefix, len(batch), shared + max(lengths))
            given: dict[str, Any] = {"past_key_values": cache, "use_cache": cache is not None}
            if last_only:
                given["logits_to_keep"] = torch.tensor(places, device=self._device)
            logits = self._model(input_ids=tokens, **given).logits  # (rows, tokens or places, vocabulary)
            index = [slice(places.index(n - 1), places.index(n - 1) + 1) if last_only else slice(n) for n in lengths]
            return [read(i, row[where]) for i, row, where in zip(batch, logits, index, strict=True)]
        except torch.OutOfMemoryError:
            return None

    def _rows_within(self, tokens: int) -> int:
        """How many rows have at most `LOGIT_BYTES` of logits, each of so many tokens; at least one."""
        return max(1, int(LOGIT_BYTES // (4 * tokens * self._model.config.vocab_size)))

    def _too_large(self, tokens: int) -> StageError:
        return StageError(
            f"the device has no room for one text of {tokens} tokens under {self._ref!r}; free some of its memory, or "
            "leave the verifiers that ask it out"
        )

    def _prefix(self, shared: Sequence[int]) -> Any:
        if not shared:
            return None
        tokens = torch.tensor([list(shared)], device=self._device)
        return self._model(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values

    def _encode(self, prompt: str) -> list[int]:
        if self._model is None:
            raise RuntimeError("load() comes first")
        ids = encode_prompt(self._tokenizer, self._ref, prompt, 0, None, chat_template=self._chat_template)
        if not ids:
            raise UsageError(f"the prompt is empty to the tokenizer of {self._ref!r}; give one with text in it")
        return ids


def first_tokens(tokenizer: PreTrainedTokenizerBase, ref: str, answers: Sequence[str]) -> list[list[int]]:
    """Token ids by which each answer is known: its first one, with and without a space before it where that is unique.

    Raises:
        UsageError: two answers begin with the same token.
    """
    spellings = []
    for before in (" ", ""):
        first = [tokenizer(before + a, add_special_tokens=False)["input_ids"][:1] for a in answers]
        flat = [row[0] for row in first if row and row[0] != tokenizer.unk_token_id]
        if len(set(flat)) == len(answers):
            spellings.append(flat)
    taken = [sorted({flat[i] for flat in spellings}) for i in range(len(answers))]
    if not spellings or sum(map(len, taken)) != len({token for row in taken for token in row}):
        raise UsageError(
            f"the tokenizer of {ref!r} does not tell {', '.join(answers)} apart by their first token; give another "
            "gap.model, other gap.grades, or leave this verifier out of gap.verifiers"
        )
    return taken


def _common(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with; 0 for a single row, which shares nothing."""
    if len(rows) < 2:
        return 0
    smallest, largest = min(rows), max(rows)  # in lexicographic order, all others lie between
    return next((i for i, (a, b) in enumerate(zip(smallest, largest, strict=False)) if a != b), len(smallest))

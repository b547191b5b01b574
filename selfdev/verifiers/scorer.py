"""What a causal language model thinks of texts: log-likelihoods of completions, probabilities of the next token.

What all texts of a call begin with runs once; its key-value cache is copied to the rows of each batch. Rows are padded
on the right: under causal attention no real token sees the padding, so no mask is needed and a score depends on its
own text alone (but for the rounding of batched products).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from selfdev.decoding import roomy_cache
from selfdev.errors import ModelError, UsageError
from selfdev.generators.adapters import attach
from selfdev.generators.texts import encode_prompt
from selfdev.models import load_causal_lm


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
    def nll(self, prompt: str, texts: Sequence[str], base: bool = False) -> list[float]:
        """-log pi(text | prompt) at temperature 1, in nats, summed over the text's tokens; no end token is added.

        Args:
            prompt: what all texts continue.
            texts: completions, tokenised by themselves; an empty one has 0.
            base: under the base model, without the adapter.

        Raises:
            UsageError: prompt and text exceed the model's positions.
            ModelError: the model's output is not finite.
        """
        first = self._encode(prompt)
        rows = [list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        # the prompt's last token begins every row: what follows it predicts the text's first token
        fed = [[first[-1], *row[:-1]] for row in rows]
        found: list[float] = []
        with self._model.disable_adapter() if base and self._adapted else nullcontext():
            for start, logits in self._batches(first[:-1], fed):
                for row, scores in zip(rows[start : start + len(logits)], logits, strict=True):
                    logs = torch.log_softmax(scores[: len(row)].float(), dim=-1)  # (tokens, vocabulary)
                    picked = logs.gather(1, torch.tensor(row, device=self._device, dtype=torch.long)[:, None])
                    found.append(-float(picked.sum(dtype=torch.float64)))
        return self._finite(found)

    @torch.inference_mode()
    def next_token(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[float, ...]]:
        """Probabilities of the answers as what comes next, normalised over the answers.

        An answer is known by its first token, with and without a space before it. How sure the model is of giving any
        of the answers is not told.

        Raises:
            UsageError: two answers begin with the same token, or a prompt exceeds the model's positions.
            ModelError: the model's output is not finite.
        """
        ids = first_tokens(self._tokenizer, self._ref, answers)
        encoded = [self._encode(prompt) for prompt in prompts]
        shared = encoded[0][: min(_common(encoded), *(len(row) - 1 for row in encoded))] if encoded else []
        rows = [row[len(shared) :] for row in encoded]
        found: list[tuple[float, ...]] = []
        for start, logits in self._batches(shared, rows, last_only=True):
            for i, row in enumerate(rows[start : start + len(logits)]):
                logs = torch.log_softmax(logits[i, len(row) - 1].float(), dim=-1)
                each = torch.stack([torch.logsumexp(logs[torch.tensor(t, device=self._device)], 0) for t in ids])
                found.append(tuple(torch.softmax(each.double(), 0).tolist()))
        self._finite([share for row in found for share in row])
        return found

    def _batches(
        self, shared: Sequence[int], rows: Sequence[Sequence[int]], last_only: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """Per batch its first row and the logits behind every token of its rows (rows, tokens, vocabulary).

        With `last_only` only what stands behind the last token of each row is computed; the rest is not to be read.
        """
        context = getattr(self._model.config, "max_position_embeddings", None)
        longest = len(shared) + max((len(row) for row in rows), default=0)
        if context is not None and longest > context:
            raise UsageError(f"a text of {longest} tokens exceeds the {context} positions of {self._ref!r}; shorten it")
        prefix = self._prefix(shared)
        for start in range(0, len(rows), self._batch_size):
            batch = rows[start : start + self._batch_size]
            width = max(len(row) for row in batch)
            padded = [[*row, *[self._tokenizer.pad_token_id] * (width - len(row))] for row in batch]
            tokens = torch.tensor(padded, device=self._device)
            cache = None if prefix is None else roomy_cache(prefix, len(batch), len(shared) + width)
            given: dict[str, Any] = {"past_key_values": cache, "use_cache": cache is not None}
            if not last_only:
                yield start, self._model(input_ids=tokens, **given).logits
                continue
            places = sorted({len(row) - 1 for row in batch})
            kept = torch.tensor(places, device=self._device)
            logits = self._model(input_ids=tokens, logits_to_keep=kept, **given).logits  # (rows, places, vocabulary)
            yield start, _Placed(logits, places)

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

    def _finite(self, values: list[float]) -> list[float]:
        if not all(abs(value) < float("inf") for value in values):
            raise ModelError(f"model {self._ref!r} gives non-finite log-likelihoods; its adapter diverged")
        return values


class _Placed:
    """Logits of some places of each row, looked up by (row, place)."""

    def __init__(self, logits: torch.Tensor, places: Sequence[int]) -> None:
        self._logits = logits
        self._index = {place: i for i, place in enumerate(places)}

    def __len__(self) -> int:
        return len(self._logits)

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        row, place = key
        return self._logits[row, self._index[place]]


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

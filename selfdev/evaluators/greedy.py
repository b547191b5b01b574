"""Greedy decoding in batches, for a model whose weights change between calls.

A loop of our own in place of `model.generate`, because the dev prompts of a search call for three things that it does
not do: the few-shot prefix that all prompts share is computed once, rows that have ended leave the batch, and stop
strings are looked for only after tokens that can end one. Sampling: `selfdev.selfimprove.sampler`, by the two methods
`_branch` and `_choose`. Left out: penalties and beams.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from selfdev.decoding import can_share_prefix, prefix_cache, roomy_cache
from selfdev.errors import DataError
from selfdev.models import stop_token_ids
from selfdev.types import Completion

# Computing a prefix apart costs one more forward pass; below these it costs more than it saves.
_MIN_PREFIX_TOKENS = 32
_MIN_PREFIX_PROMPTS = 4
# Ended rows leave the batch once they are this share of it: shrinking copies the cache.
_COMPACT_SHARE = 0.125
_PROBE_TOKENS = 5


@dataclass(frozen=True, slots=True)
class Workload:
    """What a list of prompts costs."""

    prompt_tokens: int  # over all prompts, as if nothing were shared
    shared_tokens: int  # of them at the beginning of every prompt, computed once
    seconds: float  # upper bound: every completion runs to the token limit


@dataclass(slots=True)
class Row:
    """One prompt being answered."""

    index: int  # position among the caller's prompts
    prompt: list[int]  # token ids, the shared prefix taken off
    tokens: list[int] = field(default_factory=list)  # what was generated
    ended: bool = False  # by the model or a stop string


class GreedyDecoder:
    """Answers prompts with whatever weights the model holds at the time of the call.

    Completions are a function of (weights, the list of prompts, batch_size): greedy decoding does not depend on
    anything else, but the last bits of batched arithmetic depend on what shares a batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        max_new_tokens: int,
        stop: Sequence[str],
        share_prefix: bool = True,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        self._room = max_new_tokens  # tokens that a row's cache is laid out for
        self._stops = StopStrings(tokenizer, stop)
        self._end_ids = _end_ids(model, tokenizer, stop)
        self._share_prefix = share_prefix
        self._one_copy = share_prefix and can_share_prefix(model)  # of the prefix for all rows of a batch
        self._context = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        self._ticks: list[float] = []  # when each token came, of the last batch
        self._window = getattr(model.config, "sliding_window", None)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> tuple[list[Completion], list[list[int]]]:
        """Completions and their token ids, in the order of the prompts.

        Args:
            prompts: whole texts; the tokenizer adds its special tokens as it always does.
            progress: called after each batch with the number of prompts it answered.

        Raises:
            DataError: a prompt holds no token, or does not fit the model's context with the tokens to come.
        """
        if not prompts:
            return [], []
        encoded = self._encode(prompts)
        shared = self._shared_tokens(encoded)
        rows = [Row(index, ids[shared:]) for index, ids in enumerate(encoded)]
        prefix = self._prefix_cache(encoded[0][:shared]) if shared else None
        by_length = sorted(rows, key=lambda row: (-len(row.prompt), row.index))
        for start in range(0, len(rows), self._batch_size):
            batch = by_length[start : start + self._batch_size]
            self._decode(batch, prefix, shared)
            if progress is not None:
                progress(len(batch))
        return [self._completion(row) for row in rows], [row.tokens for row in rows]

    def forecast(self, prompts: Sequence[str]) -> Workload:
        """Tokens, and seconds at most, measured by generating a few tokens for the first batch in a full-size cache."""
        encoded = self._encode(prompts)
        shared = self._shared_tokens(encoded)
        probe = copy.copy(self)
        probe._max_new_tokens = min(_PROBE_TOKENS, self._max_new_tokens)
        probe._ticks = []
        begin = time.perf_counter()
        probe.generate(prompts[: self._batch_size])
        first, last, steps = probe._ticks[0] - begin, probe._ticks[-1] - probe._ticks[0], len(probe._ticks) - 1
        batches = -(-len(prompts) // self._batch_size)
        seconds = batches * (first + (self._max_new_tokens - 1) * (last / steps if steps else 0.0))
        return Workload(sum(map(len, encoded)), shared, seconds)

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        encoded: list[list[int]] = self._tokenizer(list(prompts))["input_ids"]
        for number, ids in enumerate(encoded, start=1):
            if not ids:
                raise DataError(f"prompt {number} of {len(encoded)} is empty; every question needs a text")
            if len(ids) + self._max_new_tokens > self._context:
                raise DataError(
                    f"prompt {number} has {len(ids)} tokens; with {self._max_new_tokens} to generate it exceeds the "
                    f"model's context of {self._context}; shorten the prompt or lower the token limit"
                )
        return encoded

    def _shared_tokens(self, encoded: list[list[int]]) -> int:
        """Length of the prefix to compute once; every prompt keeps at least one token of its own."""
        if not self._share_prefix or len(encoded) < _MIN_PREFIX_PROMPTS:
            return 0
        longest = max(map(len, encoded)) + self._max_new_tokens
        if self._window is not None and longest > self._window:
            return 0  # padding between prefix and question would count as distance inside the window
        # The prefix common to the smallest and the largest sequence is common to all.
        first, last = min(encoded), max(encoded)
        limit = min(map(len, encoded)) - 1
        shared = next((i for i in range(limit) if first[i] != last[i]), limit)
        return shared if shared >= _MIN_PREFIX_TOKENS else 0

    def _prefix_cache(self, tokens: list[int]) -> DynamicCache:
        cache = DynamicCache(config=self._model.config)
        ids = torch.tensor([tokens], device=self._model.device)
        self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _decode(self, rows: Sequence[Row], prefix: DynamicCache | None, shared: int) -> None:
        """Generate until every row has ended or has used up its tokens."""
        device = self._model.device
        self._ticks.clear()
        ids, mask = self._left_pad(rows)  # (rows, suffix tokens)
        positions = shared + (mask.cumsum(1) - 1).clamp(min=0)
        mask = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)  # (rows, prefix + suffix tokens)
        cache, extra = self._row_cache(prefix, len(rows), ids.shape[1])
        active = rows
        for step in range(self._max_new_tokens):
            logits = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **extra,
            ).logits[:, -1]  # (rows, vocabulary)
            if step == 0:
                logits, mask, positions, active = self._branch(cache, logits, mask, positions, rows)
            chosen = self._choose(logits, active)  # (rows,)
            for row, token in zip(active, chosen.tolist(), strict=True):
                self._append(row, token)
            self._ticks.append(time.perf_counter())
            running = [slot for slot, row in enumerate(active) if not row.ended]
            if not running or step == self._max_new_tokens - 1:
                return
            positions = positions[:, -1:] + 1
            if len(active) - len(running) >= _COMPACT_SHARE * len(active):
                keep = torch.tensor(running, device=device)
                cache.batch_select_indices(keep)
                chosen, mask, positions = chosen[keep], mask[keep], positions[keep]
                active = [active[slot] for slot in running]
            ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)

    def _branch(
        self, cache: Cache, logits: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, rows: Sequence[Row]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[Row]]:
        """Once the prompts are computed: what goes on from them. Here each row by itself."""
        return logits, mask, positions, rows

    def _choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """The next token of each row, (rows,), from logits (rows, vocabulary)."""
        return logits.argmax(dim=-1)

    def _row_cache(self, prefix: DynamicCache | None, rows: int, width: int) -> tuple[Cache, dict[str, Any]]:
        """Where the keys and values of a batch go, and what else the model must be given for it."""
        own = width + self._room - 1  # the model is not asked about the last token
        if prefix is None:
            return roomy_cache(DynamicCache(config=self._model.config), rows, own), {}
        if self._one_copy and (cache := prefix_cache(prefix, own)) is not None:
            return cache, {"shared_prefix": cache}
        return roomy_cache(prefix, rows, prefix.get_seq_length() + own), {}

    def _left_pad(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(row.prompt) for row in rows)
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row.prompt)) + row.prompt for row in rows])
        mask = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows])
        return ids.to(self._model.device), mask.to(self._model.device)

    def _append(self, row: Row, token: int) -> None:
        if row.ended:
            return
        row.tokens.append(token)
        row.ended = token in self._end_ids or (
            self._stops.may_end(token) and self._stops.cut(self._text(row)) is not None
        )

    def _text(self, row: Row) -> str:
        text = self._tokenizer.decode(row.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _completion(self, row: Row) -> Completion:
        text = self._text(row)
        cut = self._stops.cut(text)
        return Completion(text if cut is None else cut, len(row.tokens), truncated=not row.ended)


class StopStrings:
    """Finds stop strings; most tokens are ruled out by their own text alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._last = {text[-1] for text in self._stop}
        # An ASCII character is one byte and stands whole in one token; a blank may be dropped when a token is decoded
        # alone, and other characters may be spread over tokens, so then every token is looked at.
        self._exact = all(char.isascii() and char != " " for char in self._last)
        self._known: dict[int, bool] = {}

    def may_end(self, token: int) -> bool:
        """Whether a stop string can be complete once this token is there."""
        if not self._stop:
            return False
        if not self._exact:
            return True
        if token not in self._known:
            text = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
            self._known[token] = any(char in text for char in self._last)
        return self._known[token]

    def cut(self, text: str) -> str | None:
        """The text before the first stop string; None where there is none."""
        found = [position for stop in self._stop if (position := text.find(stop)) >= 0]
        return text[: min(found)] if found else None


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> frozenset[int]:
    """Tokens that end a completion: the model's, the tokenizer's, and stop strings that are special tokens.

    The last ones vanish from the decoded text, so no search in the text would find them.
    """
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = set(configured) if isinstance(configured, list) else {configured}
    ids.add(tokenizer.eos_token_id)
    ids |= stop_token_ids(tokenizer, stop)
    return frozenset(token for token in ids if token is not None)

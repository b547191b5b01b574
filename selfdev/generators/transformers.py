"""A causal language model that writes merge programs, run by transformers on CPU or one accelerator.

All rows of a batch continue the same prompt, so they stay in step: the prompt runs once, its key-value cache is copied
to every row, and no padding or attention mask is needed. Each row draws its tokens by inverse CDF from the uniforms of
its own counter-based stream, so a sample does not depend on what is drawn beside it (but for the rounding of batched
matrix products, which is the same whenever the batch is the same).

Left out: top-k and top-p (the paper samples from the whole distribution), several prompts per batch, several devices.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfdev.decoding import pick_tokens, roomy_cache
from selfdev.errors import ModelError
from selfdev.generators.adapters import attach
from selfdev.generators.texts import Ending, check_sizes, check_temperature, encode_prompt, make_sample
from selfdev.models import load_causal_lm
from selfdev.types import Sample, SampleRequest

_COMPACT_BELOW = 0.75  # share of rows still writing at which the finished ones are taken out of the batch


class TransformersGenerator:
    """Samples from a base model, or from it with one LoRA adapter; see `selfdev.generators.base.Generator`."""

    def __init__(
        self,
        model_ref: str,
        device: torch.device | str,
        batch_size: int,
        max_new_tokens: int,
        dtype: torch.dtype | str = "auto",
        stop: Sequence[str] = ("```",),
        chat_template: bool = False,
    ) -> None:
        """Nothing is loaded before `load`.

        Args:
            model_ref: a reference to the base model, see `selfdev.models.resolve`.
            device: where the model runs.
            batch_size: rows drawn at once; part of what determines a sample (rounding).
            max_new_tokens: the token limit of one sample.
            dtype: of the weights; "auto" keeps what the configuration says.
            stop: a sample ends at the first of these, which stays in its text: training must teach the end, too.
            chat_template: give the prompt as one user message. The model then opens a code block itself, so a sample
                ends at the second stop string.
        """
        check_sizes(batch_size, max_new_tokens)
        self.batch_size = batch_size
        self._ref = model_ref
        self._device = torch.device(device)
        self._max_new_tokens = max_new_tokens
        self._dtype = dtype
        self._ending = Ending(stop, occurrence=2 if chat_template else 1)
        self._chat_template = chat_template
        self._base: Any = None  # the resident model; with an adapter its linear layers are wrapped
        self._adapted: Any = None  # the PeftModel around it, None without an adapter
        self._tokenizer: Any = None

    def load(self, adapter: Path | None) -> None:
        """Use the base model (None) or the base model with this PEFT adapter directory.

        Raises:
            ModelError: the base model or the adapter cannot be used.
        """
        if self._base is None:
            self._base, self._tokenizer = load_causal_lm(self._ref, self._device, self._dtype)
        if self._adapted is not None:
            self._base, self._adapted = self._adapted.unload(), None
        if adapter is not None:
            self._attach(adapter)

    def sample(self, prompt: str, requests: Sequence[SampleRequest], temperature: float) -> Iterator[list[Sample]]:
        """Yield one list per batch, in order.

        Raises:
            UsageError: the prompt leaves no room for `max_new_tokens`, or the model has no chat template.
            ModelError: the model's output is not finite.
        """
        if self._base is None:
            raise RuntimeError("load() comes before sample()")
        check_temperature(temperature)
        prompt_ids = self._encode(prompt)
        for _, batch in groupby(requests, key=lambda request: request.index // self.batch_size):
            yield self._draw(prompt_ids, list(batch), temperature)

    def close(self) -> None:
        """Give the memory back; the next `load` starts again."""
        self._base = self._adapted = self._tokenizer = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _attach(self, adapter: Path) -> None:
        try:
            self._adapted = attach(self._base, self._ref, adapter)
        except ModelError:
            self.close()  # the base model may be half wrapped
            raise

    def _encode(self, prompt: str) -> list[int]:
        context = getattr(self._base.config, "max_position_embeddings", None)
        return encode_prompt(
            self._tokenizer, self._ref, prompt, self._max_new_tokens, context, chat_template=self._chat_template
        )

    @torch.inference_mode()
    def _draw(self, prompt_ids: list[int], requests: list[SampleRequest], temperature: float) -> list[Sample]:
        """Draw one batch, all rows in step; finished rows leave the batch when enough of them are done."""
        model = self._adapted if self._adapted is not None else self._base
        end_ids = _end_ids(model, self._tokenizer)
        rows = [_Row(request, self._max_new_tokens) for request in requests]
        output = model(input_ids=torch.tensor([prompt_ids], device=self._device), use_cache=True, logits_to_keep=1)
        cache = roomy_cache(output.past_key_values, len(rows), len(prompt_ids) + self._max_new_tokens)
        logits = output.logits[:, -1].expand(len(rows), -1)  # (rows, vocabulary)
        active = rows
        for step in range(self._max_new_tokens):
            uniforms = torch.tensor([row.uniforms[step] for row in active], dtype=torch.float64, device=self._device)
            tokens, nll = pick_tokens(logits, temperature, uniforms, f"generator {self._ref!r}")
            for row, token, cost in zip(active, tokens.tolist(), nll.tolist(), strict=True):
                if not row.done:
                    row.tokens.append(token)
                    row.nll += cost
                    row.done = token in end_ids or self._ending.reached(self._tokenizer, row.tokens)
            writing = [i for i, row in enumerate(active) if not row.done]
            if not writing or step + 1 == self._max_new_tokens:
                break
            if len(writing) <= _COMPACT_BELOW * len(active):
                kept = torch.tensor(writing, device=self._device)
                cache.batch_select_indices(kept)
                tokens, active = tokens[kept], [active[i] for i in writing]
            logits = model(input_ids=tokens[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
        return [
            make_sample(self._tokenizer, self._ending, prompt_ids, row.request, row.tokens, row.nll, done=row.done)
            for row in rows
        ]


@dataclass(eq=False)
class _Row:
    """One sample while it is being drawn."""

    request: SampleRequest
    limit: int
    tokens: list[int] = field(default_factory=list)
    nll: float = 0.0
    done: bool = False  # by the model's end token or a stop string
    uniforms: np.ndarray[Any, np.dtype[np.float64]] = field(init=False)  # (limit,) in [0, 1), one per token

    def __post_init__(self) -> None:
        self.uniforms = np.random.Generator(np.random.Philox(key=self.request.seed)).random(self.limit)


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)

"""A causal language model that writes merge programs, run by vLLM: the base model, or it with one LoRA adapter.

Each sample has a random stream of its own, seeded by its request, so that a resumed run draws the same texts. Batches
are drawn one after another as the seam asks; the engine computes the prompt once per batch.

The adapter is not merged: the engine runs it beside the base weights. An engine is made for one adapter, so another
adapter means another engine: one per iteration, and one per checkpoint that the gap is measured at.

Left out: what `selfdev.vllm_engine` leaves out, adapters that are not plain LoRA on linear layers, top-k and top-p.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch

from selfdev.config import VllmConfig
from selfdev.errors import ModelError, StageError
from selfdev.generators.adapters import adapter_rank
from selfdev.generators.texts import Ending, check_sizes, check_temperature, encode_prompt, make_sample
from selfdev.models import load_tokenizer
from selfdev.types import Sample, SampleRequest
from selfdev.vllm_engine import Draw, Reply, VllmEngine, end_token_ids, reason, require_vllm, weights_dtype


class VllmGenerator:
    """Implements `selfdev.generators.base.Generator`.

    Nothing is loaded before `load`.

    Args:
        model_ref: a reference to the base model, see `selfdev.models.resolve`.
        device: "cpu" or "cuda", as the installed vLLM has it.
        batch_size: rows drawn at once; part of what determines a sample (rounding).
        max_new_tokens: the token limit of one sample.
        dtype: of the weights; "auto" keeps what the configuration says.
        stop: a sample ends at the first of these, which stays in its text: training must teach the end, too.
        chat_template: give the prompt as one user message. The model then opens a code block itself, so a sample
            ends at the second stop string.
        settings: the engine's memory and lengths.

    Raises:
        UsageError: vLLM is not installed, or a size is below 1.
    """

    def __init__(
        self,
        model_ref: str,
        device: torch.device | str,
        batch_size: int,
        max_new_tokens: int,
        dtype: torch.dtype | str = "auto",
        stop: Sequence[str] = ("```",),
        chat_template: bool = False,
        *,
        settings: VllmConfig | None = None,
    ) -> None:
        require_vllm("generate.engine")
        check_sizes(batch_size, max_new_tokens)
        self.batch_size = batch_size
        self._ref = model_ref
        self._device = torch.device(device)
        self._max_new_tokens = max_new_tokens
        self._dtype = dtype
        self._ending = Ending(stop, occurrence=2 if chat_template else 1)
        self._chat_template = chat_template
        self._settings = settings or VllmConfig()
        self._engine: VllmEngine | None = None

    def load(self, adapter: Path | None) -> None:
        """Use the base model (None) or the base model with this PEFT adapter directory.

        Raises:
            ModelError: the base model or the adapter cannot be used.
            UsageError: vLLM is not for this device, or not for the adapter's rank.
        """
        self.close()
        lora = None if adapter is None else (str(adapter), adapter_rank(self._ref, adapter))
        dtype = weights_dtype(self._ref, self._dtype)
        self._tokenizer = load_tokenizer(self._ref)
        self._end_ids = end_token_ids(self._ref)
        self._engine = VllmEngine(self._ref, self._device, dtype, self.batch_size, self._settings, lora)

    def sample(self, prompt: str, requests: Sequence[SampleRequest], temperature: float) -> Iterator[list[Sample]]:
        """Yield one list per batch, in order.

        Raises:
            UsageError: the prompt leaves no room for `max_new_tokens`, or the model has no chat template.
            ModelError: the model's output is not finite.
            StageError: the engine failed.
        """
        prompt_ids = self._encode(prompt)
        check_temperature(temperature)
        for _, batch in groupby(requests, key=lambda request: request.index // self.batch_size):
            yield self._draw(prompt_ids, list(batch), temperature)

    def close(self) -> None:
        """Give the memory back; the next `load` starts again."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _running(self) -> VllmEngine:
        if self._engine is None:
            raise RuntimeError("load() comes before sample()")
        return self._engine

    def _encode(self, prompt: str) -> list[int]:
        context = self._running().context
        return encode_prompt(
            self._tokenizer, self._ref, prompt, self._max_new_tokens, context, chat_template=self._chat_template
        )

    def _draw(self, prompt_ids: list[int], requests: list[SampleRequest], temperature: float) -> list[Sample]:
        draws = [Draw(prompt_ids, temperature, request.seed) for request in requests]
        replies = self._answer(draws)
        if not all(math.isfinite(reply.log_prob) for reply in replies):
            raise ModelError(
                f"generator {self._ref!r} gives non-finite probabilities; its adapter diverged: train it more gently"
            )
        return [
            make_sample(
                self._tokenizer, self._ending, prompt_ids, request, reply.tokens, -reply.log_prob, done=reply.ended
            )
            for request, reply in zip(requests, replies, strict=True)
        ]

    def _answer(self, draws: list[Draw]) -> list[Reply]:
        """One batch from the engine. Any failure, an interrupt too, leaves requests in it: it is not used again."""
        engine = self._running()
        try:
            return engine.answer(draws, self._max_new_tokens, self._end_ids, self._ends, log_probs=True)
        except Exception as error:
            self.close()
            raise StageError(
                f"vLLM failed while sampling from {self._ref!r} ({reason(error)}); run again, lower "
                "generate.batch_size, or use generate.engine=transformers"
            ) from error
        except BaseException:
            self.close()
            raise

    def _ends(self, tokens: list[int]) -> bool:
        return self._ending.reached(self._tokenizer, tokens)

"""Many prompts, several samples of each, in batches of one model on CPU or one accelerator.

Prompts of a batch are padded on the left and computed once each; their key-value caches are copied to their samples. A
sample draws its tokens by inverse CDF from the uniforms of its own counter-based stream, so it does not depend on what
is drawn beside it (but for the rounding of batched matrix products; the batches are a function of the whole list, so
the same call gives the same bits). What all prompts begin with is computed once, as for greedy decoding.

Left out: top-k and top-p (the paper samples from the whole distribution), several devices.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from selfdev.decoding import pick_tokens
from selfdev.errors import StageError
from selfdev.evaluators.greedy import GreedyDecoder, Row

_ANCHOR = 8  # prompt tokens decoded together with a completion, so that its first token keeps its leading space
_PROBE_TOKENS = 5


@dataclass(frozen=True, slots=True)
class Drawn:
    """One sample."""

    prompt: int  # position of its prompt
    number: int  # among the prompt's samples
    text: str  # cut at the first stop string, special tokens removed
    tokens: int  # drawn, the end token included
    nll: float  # -sum of log pi(token) at temperature 1, in nats, over `tokens`
    truncated: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a list of prompts takes."""

    seconds: float  # at most: every sample runs to the token limit
    prompt_tokens: float  # of one prompt, mean
    tokens_per_second: float  # of a forward pass over prompts


@dataclass(slots=True)
class _Draw(Row):
    """One sample being drawn."""

    number: int = 0
    uniforms: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # (limit,), one per token
    nll: float = 0.0


@dataclass(slots=True)
class _Lead(Row):
    """One prompt with the samples that go on from it."""

    draws: list[_Draw] = field(default_factory=list)


class PromptSampler(GreedyDecoder):
    """Samples from whatever weights the model holds."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        max_new_tokens: int,
        stop: Sequence[str],
        temperature: float = 1.0,
    ) -> None:
        """`batch_size` is in samples."""
        super().__init__(model, tokenizer, batch_size=batch_size, max_new_tokens=max_new_tokens, stop=stop)
        self._temperature = temperature

    def plan(self, prompts: Sequence[str], samples: int) -> list[list[tuple[int, range]]]:
        """Batches of (prompt, its samples), the longest prompts first; no batch has more than `batch_size` samples.

        Raises:
            DataError: a prompt holds no token, or does not fit the model's context with the tokens to come.
        """
        lengths = [len(ids) for ids in self._encode(prompts)]
        at_once = min(samples, self._batch_size)
        pieces = [range(i, min(i + at_once, samples)) for i in range(0, samples, at_once)]
        order = sorted(range(len(prompts)), key=lambda i: (-lengths[i], i))
        leads = [(prompt, piece) for prompt in order for piece in pieces]
        per_batch = self._batch_size // at_once
        return [leads[i : i + per_batch] for i in range(0, len(leads), per_batch)]

    @torch.inference_mode()
    def draw(self, prompts: Sequence[str], seeds: Sequence[Sequence[int]], skip: int = 0) -> Iterator[list[Drawn]]:
        """Yield one list per batch of the plan; within it prompts in its order, samples by number.

        Args:
            prompts: whole texts; the tokenizer adds its special tokens as it always does.
            seeds: of each sample's stream, 63 bits; equally many for each prompt.
            skip: batches at the beginning that are not drawn.

        Raises:
            DataError: as `plan`.
            ModelError: the model's output is not finite.
        """
        encoded = self._encode(prompts)
        shared = self._shared_tokens(encoded)
        batches = self.plan(prompts, len(seeds[0]))[skip:]
        prefix = self._prefix_cache(encoded[0][:shared]) if shared and batches else None
        for batch in batches:
            leads = [self._lead(prompt, encoded[prompt][shared:], piece, seeds[prompt]) for prompt, piece in batch]
            self._decode(leads, prefix, shared)
            yield [self._drawn(draw, encoded[lead.index]) for lead in leads for draw in lead.draws]

    def cost(self, prompts: Sequence[str], samples: int) -> Cost:
        """Measured by drawing a few tokens of the first batch, the longest one, in a cache of its full size.

        Raises:
            StageError: the device has no room for it.
        """
        probe = copy.copy(self)
        probe._max_new_tokens = min(_PROBE_TOKENS, self._max_new_tokens)
        probe._ticks = []
        batches = self.plan(prompts, samples)
        own = [prompts[prompt] for prompt, _ in batches[0]]
        begin = time.perf_counter()
        try:
            next(probe.draw(own, [range(min(samples, self._batch_size))] * len(own)))
        except torch.OutOfMemoryError:
            raise StageError(
                f"the device has no room to draw {sum(len(piece) for _, piece in batches[0])} samples of up to "
                f"{self._max_new_tokens} tokens at once; lower --sample-batch ({self._batch_size}) or --max-new-tokens"
            ) from None
        first, last, steps = probe._ticks[0] - begin, probe._ticks[-1] - probe._ticks[0], len(probe._ticks) - 1
        seconds = len(batches) * (first + (self._max_new_tokens - 1) * (last / steps if steps else 0.0))
        tokens = [len(ids) for ids in self._encode(prompts)]
        return Cost(seconds, sum(tokens) / len(tokens), sum(tokens[prompt] for prompt, _ in batches[0]) / first)

    def _lead(self, prompt: int, ids: list[int], numbers: range, seeds: Sequence[int]) -> _Lead:
        draws = [_Draw(prompt, ids, number=n, uniforms=self._uniforms(seeds[n])) for n in numbers]
        return _Lead(prompt, ids, draws=draws)

    def _uniforms(self, seed: int) -> NDArray[np.float64]:
        return np.random.Generator(np.random.Philox(key=seed)).random(self._max_new_tokens)

    def _branch(
        self, cache: Cache, logits: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, rows: Sequence[Row]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[Row]]:
        """Every prompt's row becomes one row per sample."""
        leads: list[Any] = list(rows)
        origin = torch.tensor([i for i, lead in enumerate(leads) for _ in lead.draws], device=logits.device)
        cache.batch_select_indices(origin)
        return logits[origin], mask[origin], positions[origin], [draw for lead in leads for draw in lead.draws]

    def _choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        draws: list[Any] = list(rows)
        step = [min(len(draw.tokens), self._max_new_tokens - 1) for draw in draws]
        uniforms = torch.tensor(
            [draw.uniforms[i] for draw, i in zip(draws, step, strict=True)], dtype=torch.float64, device=logits.device
        )
        tokens, nll = pick_tokens(logits, self._temperature, uniforms, f"model {self._tokenizer.name_or_path!r}")
        for draw, cost in zip(draws, nll.tolist(), strict=True):
            if not draw.ended:
                draw.nll += cost
        return tokens

    def _drawn(self, draw: _Draw, prompt: list[int]) -> Drawn:
        anchor = prompt[-_ANCHOR:]
        text = self._decoded([*anchor, *draw.tokens])[len(self._decoded(anchor)) :]
        cut = self._stops.cut(text)
        return Drawn(draw.index, draw.number, text if cut is None else cut, len(draw.tokens), draw.nll, not draw.ended)

    def _decoded(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

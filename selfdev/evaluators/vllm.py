"""The evaluator on vLLM: one engine in this process, whose weights change from candidate to candidate.

A candidate goes tensor by tensor: seed and merged task vector are added in float32 and cast once, the sum is given to
the engine and let go, so that no second model is ever held. Only the modules that are touched, now or by the candidate
before, are written; a module that the engine keeps as one (q, k and v; gate and up) is written whole. The seed is kept
as bits and written back from them.

The engine is in one of three states: it holds the seed; it holds a candidate (`_applied` says which names differ); or
there is none. An update or an answer that fails in any way ends in the third: the engine is shut down, and the next use
builds a new one, which holds the seed. Weights that were written half are thus never answered with. A failure with a
candidate is an `EngineError`, which costs that candidate; one with the seed is answered by a second try in a new engine
and then ends the run. What kills the whole process (a segmentation fault, the kernel) kills the run, which goes on from
its store when it is started again.

Between phases nothing stays: `close` shuts the engine down, so that generator, evaluator and trainer can use one
device in turn. Tokens and texts mean what they mean in `selfdev.evaluators.greedy`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import torch

from selfdev.config import VllmConfig
from selfdev.errors import DataError, EngineError, ModelError, StageError
from selfdev.evaluators.greedy import StopStrings, Workload
from selfdev.evaluators.validation import check_finite, check_merged
from selfdev.models import load_tokenizer, parameter_groups, read_weights
from selfdev.types import Completion
from selfdev.vllm_engine import Draw, Reply, VllmEngine, end_token_ids, reason, weights_dtype

_PROBE_TOKENS = 5


class VllmEvaluator:
    """Implements `selfdev.evaluators.base.Evaluator`.

    Args:
        model_ref: the seed, see `selfdev.models.resolve`.
        device: "cpu" or "cuda", as the installed vLLM has it.
        batch_size: prompts answered together; part of what completions depend on (rounding).
        max_new_tokens: limit per completion.
        stop: strings that end a completion.
        dtype: of the weights; "auto" keeps the checkpoint's.
        settings: the engine's memory and lengths.
        host_seed: keep the seed in main memory, for a device that holds the model only once.

    Raises:
        UsageError: vLLM is not installed, or not for this device.
        ModelError: the seed cannot be used, or vLLM cannot run it.
    """

    def __init__(
        self,
        model_ref: str,
        device: torch.device | str,
        batch_size: int,
        max_new_tokens: int,
        stop: Sequence[str],
        dtype: torch.dtype | str = "auto",
        *,
        settings: VllmConfig | None = None,
        host_seed: bool = False,
    ) -> None:
        self._ref = model_ref
        self._device = torch.device(device)
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        self._dtype = weights_dtype(model_ref, dtype)
        self._settings = settings or VllmConfig()
        self._tokenizer = load_tokenizer(model_ref)
        self._stops = StopStrings(self._tokenizer, stop)
        self._end_ids = end_token_ids(model_ref, stop)
        self._seed = _read_seed(model_ref, self._dtype, torch.device("cpu") if host_seed else self._device)
        self._applied: frozenset[str] = frozenset()  # names whose weights in the engine are not the seed's
        self._closed = False
        self._engine: VllmEngine | None = self._build()

    def seed_parameters(self) -> Mapping[str, torch.Tensor]:
        """The seed's parameters by name, tied ones once. Read only."""
        return MappingProxyType(self._seed)

    @torch.no_grad()
    def apply(self, merged: Mapping[str, torch.Tensor]) -> None:
        """Use seed + merged, added in float32 and cast once; names left out keep the seed's bits.

        Raises:
            ValueError: a name, shape or value does not fit, or the sum overflows the seed's dtype. The seed is in
                place then.
            EngineError: the engine failed. The seed is in place then.
            StageError: the device ran out of memory.
        """
        try:
            check_merged(self._seed, merged)
            for name, delta in merged.items():  # before anything is written: an overflow must not cost an engine
                check_finite("seed + merged", {name: self._sum(name, delta)})
        except BaseException:
            self.restore()
            raise
        self._write(merged)

    def restore(self) -> None:
        """Put the seed back. An engine that has failed is not built again here but by the next use."""
        if self._applied:
            self._write({})

    def generate(self, prompts: Sequence[str], progress: Callable[[int], None] | None = None) -> list[Completion]:
        """Greedy completions of the current weights, in the order of the prompts.

        `progress` is called with the number of prompts just answered, whenever some are.

        Raises:
            DataError: a prompt is empty or too long.
            EngineError: the engine failed while a candidate was in it. The seed is in place then.
            StageError: it failed with the seed, twice.
        """
        if not prompts:
            return []
        replies = self._answer(self._encode(prompts), self._max_new_tokens, progress)
        return [self._completion(reply) for reply in replies]

    def forecast(self, prompts: Sequence[str]) -> Workload:
        """What answering these prompts will cost at most, from two short runs on the first batch.

        Raises:
            DataError: a prompt is empty or too long.
        """
        encoded = self._encode(prompts)
        batch = encoded[: self._batch_size]
        few = min(_PROBE_TOKENS, self._max_new_tokens)
        begin = time.perf_counter()
        self._answer(batch, 1)
        middle = time.perf_counter()
        self._answer(batch, few)
        first, both = middle - begin, time.perf_counter() - middle
        token = max(both - first, 0.0) / (few - 1) if few > 1 else 0.0
        batches = -(-len(prompts) // self._batch_size)
        seconds = batches * (first + (self._max_new_tokens - 1) * token)
        return Workload(sum(map(len, encoded)), _shared_tokens(encoded, self._ready().block), seconds)

    def self_check(self, prompts: Sequence[str], names: Collection[str] | None = None) -> None:
        """Check that changed weights reach the output and that restoring gives the seed's tokens back.

        Args:
            prompts: a few prompts.
            names: parameters to change; all of them by default.

        Raises:
            StageError: one of the two does not hold.
        """
        encoded = self._encode(prompts)
        self.restore()
        before = self._tokens(encoded)
        chosen = list(self._seed) if names is None else list(names)
        self.apply({name: -self._seed[name] for name in chosen})
        try:
            changed = self._tokens(encoded)
        finally:
            self.restore()
        if changed == before:
            raise StageError("evaluator self-check: changed weights give the same tokens; the engine ignores updates")
        if self._tokens(encoded) != before:
            raise StageError("evaluator self-check: after restoring, the seed answers differently than before")

    def close(self) -> None:
        """Give the memory back; only `close` may be called afterwards."""
        self._lose_engine()
        self._seed, self._closed = {}, True

    def _ready(self) -> VllmEngine:
        """The engine; a new one, which holds the seed, where the last one has failed."""
        if self._closed:
            raise RuntimeError("this evaluator is closed")
        if self._engine is None:
            self._engine = self._build()
        return self._engine

    def _build(self) -> VllmEngine:
        return VllmEngine(self._ref, self._device, self._dtype, self._batch_size, self._settings)

    def _lose_engine(self) -> None:
        self._applied = frozenset()
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    @torch.no_grad()
    def _write(self, merged: Mapping[str, torch.Tensor]) -> None:
        """Make the engine hold seed + merged, whatever it held before; or lose it."""
        engine = self._ready()
        names = engine.groups.complete(self._seed, self._applied | merged.keys())
        if not names:
            return
        try:
            engine.write((name, self._sum(name, merged.get(name))) for name in names)
        except torch.OutOfMemoryError as error:
            self._lose_engine()
            raise StageError(
                f"the device ran out of memory writing {len(names)} parameters; models.scope=mlp, models.merge_on=host "
                "or a smaller vllm.kv_cache_bytes need less (`selfdev plan` counts)"
            ) from error
        except Exception as error:
            self._lose_engine()
            raise EngineError(f"vLLM failed while its weights were changed ({reason(error)})") from error
        except BaseException:
            self._lose_engine()
            raise
        self._applied = frozenset(merged)

    def _sum(self, name: str, delta: torch.Tensor | None) -> torch.Tensor:
        """seed + delta in the seed's dtype, added where the delta lies; the seed itself where there is none."""
        seed = self._seed[name]
        if delta is None:
            return seed
        return (seed.to(delta.device).float() + delta.float()).to(seed.dtype)

    def _answer(
        self, encoded: list[list[int]], limit: int, progress: Callable[[int], None] | None = None
    ) -> list[Reply]:
        """Answer with the current weights; the seed's may be tried a second time, in a new engine."""
        draws = [Draw(prompt) for prompt in encoded]
        for attempt in (1, 2):
            applied = bool(self._applied)
            engine = self._ready()
            try:
                return engine.answer(draws, limit, self._end_ids, self._ends, progress=progress)
            except torch.OutOfMemoryError:
                self._lose_engine()
                raise
            except Exception as error:
                self._lose_engine()
                if applied:
                    raise EngineError(f"vLLM failed while answering with merged weights ({reason(error)})") from error
                if attempt == 2:
                    raise StageError(
                        f"vLLM failed twice while answering with the seed ({reason(error)}); run again, or use "
                        "evaluate.engine=transformers"
                    ) from error
            except BaseException:  # an interrupt leaves requests in the engine
                self._lose_engine()
                raise
        raise AssertionError("unreachable")

    def _tokens(self, encoded: list[list[int]]) -> list[list[int]]:
        return [reply.tokens for reply in self._answer(encoded, self._max_new_tokens)]

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        context = self._ready().context
        encoded: list[list[int]] = self._tokenizer(list(prompts))["input_ids"]
        for number, ids in enumerate(encoded, start=1):
            if not ids:
                raise DataError(f"prompt {number} of {len(encoded)} is empty; every question needs a text")
            if len(ids) + self._max_new_tokens > context:
                raise DataError(
                    f"prompt {number} has {len(ids)} tokens; with {self._max_new_tokens} to generate it exceeds the "
                    f"engine's context of {context}; shorten the prompt or lower the token limit"
                )
        return encoded

    def _ends(self, tokens: list[int]) -> bool:
        return self._stops.may_end(tokens[-1]) and self._stops.cut(self._text(tokens)) is not None

    def _text(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _completion(self, reply: Reply) -> Completion:
        text = self._text(reply.tokens)
        cut = self._stops.cut(text)
        return Completion(text if cut is None else cut, len(reply.tokens), truncated=not reply.ended)


def _read_seed(ref: str, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors under the model's parameter names, read one by one."""
    weights = read_weights(ref)
    seed: dict[str, torch.Tensor] = {}
    for name, (shape, aliases) in parameter_groups(ref).items():
        stored = next((alias for alias in aliases if alias in weights), None)
        if stored is None:
            raise ModelError(f"model {ref!r}: its weights lack {name}, which its configuration asks for")
        tensor = weights[stored]
        if tensor.shape != shape:
            raise ModelError(f"model {ref!r}: {name} has shape {tuple(tensor.shape)} where {tuple(shape)} belongs")
        seed[name] = tensor.to(device, dtype)
    return seed


def _shared_tokens(encoded: list[list[int]], block: int) -> int:
    """Tokens at the beginning of every prompt that the engine computes once: whole blocks."""
    first, last = min(encoded), max(encoded)  # what these two share, all share
    limit = min(map(len, encoded)) - 1
    shared = next((i for i in range(limit) if first[i] != last[i]), limit)
    return shared // block * block if len(encoded) > 1 else 0

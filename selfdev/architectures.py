"""Sizes of models from their configurations, for `selfdev.plan`: no weights are needed.

The paper's models are known without their config.json, so that their presets can be planned on any machine.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from transformers import MistralConfig, PretrainedConfig

from selfdev.errors import ModelError, UsageError
from selfdev.models import groups_of, peek_config
from selfdev.plan import Shape
from selfdev.task_vectors import Scope, in_scope

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
# Mistral-7B-v0.1 with two chat tokens, as published; those without added tokens have 32,000 rows (0.02 GB less).
_MISTRAL_7B: dict[str, Any] = {
    "vocab_size": 32_002,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
_KNOWN = {
    "openchat/openchat-3.5-1210": _MISTRAL_7B,
    "GAIR/Abel-7B-002": _MISTRAL_7B,
    "teknium/OpenHermes-2.5-Mistral-7B": _MISTRAL_7B,
    "SciPhi/SciPhi-Mistral-7B-32k": _MISTRAL_7B,
    "mistralai/Mistral-7B-v0.1": _MISTRAL_7B | {"vocab_size": 32_000},
}


def read_shape(ref: str, dtype: str = "auto", scope: Scope = "all") -> Shape:
    """The sizes of a model.

    Args:
        ref: a reference, see `selfdev.models.resolve`; of a hub id only config.json is fetched.
        dtype: that the weights will have; "auto" is what the configuration says.
        scope: of the parameters that are merged, see `selfdev.task_vectors.in_scope`.

    Raises:
        ModelError: no such model, or a hub id that is neither cached nor served nor known.
        UsageError: the scope matches no parameter.
    """
    return _shape(*_read(ref), dtype, scope)


def shape_of(config: PretrainedConfig, dtype: str = "auto", scope: Scope = "all") -> Shape:
    """As `read_shape`, for a configuration."""
    return _shape(config, _sizes(config), dtype, scope)


@lru_cache(maxsize=16)  # looking for settings that fit asks for the same models many times
def _read(ref: str) -> tuple[PretrainedConfig, dict[str, int]]:
    config = peek_config(ref)
    if config is None:
        config = _known(ref)
    return config, _sizes(config)


def _sizes(config: PretrainedConfig) -> dict[str, int]:
    return {name: math.prod(shape) for name, (shape, _) in groups_of(config).items()}


def _shape(config: PretrainedConfig, sizes: dict[str, int], dtype: str, scope: Scope) -> Shape:
    text = config.get_text_config()
    merged = [size for name, size in sizes.items() if in_scope(name, scope)]
    if not merged:
        raise UsageError(f"models.scope {scope!r} matches none of the seed's parameters (such as {next(iter(sizes))})")
    stored = str(config.dtype or "float32").removeprefix("torch.") if dtype == "auto" else dtype
    heads = text.num_attention_heads
    return Shape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        parameters=sum(sizes.values()),
        merged=sum(merged),
        largest=max(merged),
        bytes=_BYTES.get(stored, 4),
    )


def _known(ref: str) -> PretrainedConfig:
    hub_id = ref.partition("@")[0]
    if hub_id not in _KNOWN:
        raise ModelError(
            f"model {ref!r} is not in the Hugging Face cache and the hub does not serve it; its config.json is enough "
            f"to plan: hf download {hub_id} config.json"
        )
    return MistralConfig(**_KNOWN[hub_id])

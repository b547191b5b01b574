"""LoRA adapter directories: looked at before an engine gets one (engines take what fits and are silent about the rest),
and put on a model of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from selfdev.errors import ModelError
from selfdev.models import parameter_groups

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_ADAPTER_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, UserWarning)


def attach(base: Any, ref: str, adapter: Path, trainable: bool = False) -> Any:
    """The model of `ref` with this PEFT adapter directory around it, for inference or to train the adapter on.

    Raises:
        ModelError: the adapter does not fit; the base model may be half wrapped.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            # A file that lacks some of the adapter's tensors is only warned about by peft.
            warnings.filterwarnings("error", message=".*missing adapter keys", category=UserWarning)
            # peft 0.21 reads an attribute that transformers 5.23 has renamed
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted = PeftModel.from_pretrained(base, str(adapter), is_trainable=trainable, local_files_only=True)
            return adapted if trainable else adapted.eval()
    except _ADAPTER_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"adapter {adapter} does not fit {ref!r} ({reason}); give a LoRA directory trained on this model"
        ) from error


def adapter_rank(ref: str, adapter: Path) -> int:
    """The rank of a PEFT LoRA adapter that is whole and fits the model.

    Args:
        ref: the base model, see `selfdev.models.resolve`.
        adapter: the directory.

    Raises:
        ModelError: no LoRA adapter, or one that lacks tensors, has others, or is of another model.
    """
    from peft import LoraConfig

    try:
        config = LoraConfig.from_pretrained(str(adapter), local_files_only=True)
        with safe_open(str(adapter / _WEIGHTS), framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        _check(found, _expected(ref, config))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"adapter {adapter} does not fit {ref!r} ({reason}); give a LoRA directory trained on this model"
        ) from error
    ranks: list[int] = [config.r, *config.rank_pattern.values()]
    return max(ranks)


def _expected(ref: str, config: Any) -> dict[str, tuple[int, int] | None]:
    """Shapes that the adapter has to have, by name, with the configuration's rank; None where a pattern sets it."""
    from peft.tuners.tuners_utils import check_target_module_exists

    expected: dict[str, tuple[int, int] | None] = {}
    for name, shape in _linear_layers(ref).items():
        if check_target_module_exists(config, name):
            fixed = not config.rank_pattern
            expected[f"{_PREFIX}{name}.lora_A.weight"] = (config.r, shape[1]) if fixed else None
            expected[f"{_PREFIX}{name}.lora_B.weight"] = (shape[0], config.r) if fixed else None
    if not expected:
        raise ValueError("its configuration names no layer of the model")
    return expected


def _linear_layers(ref: str) -> dict[str, torch.Size]:
    """Layers by name with the shapes (outputs, inputs) of their weights; embeddings too, which no adapter names."""
    groups = parameter_groups(ref)
    names = {name: shape for shape, aliases in groups.values() for name in aliases}
    return {name.removesuffix(".weight"): s for name, s in names.items() if name.endswith(".weight") and len(s) == 2}


def _check(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, int] | None]) -> None:
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"it lacks {name}")
        if shape is not None and found[name] != shape:
            raise ValueError(f"{name} has shape {found[name]}, {shape} belongs there")
    if odd := next((name for name in found if name not in expected), None):
        raise ValueError(f"it has {odd}, which belongs to no layer that it names")

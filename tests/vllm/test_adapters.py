"""Adapters are looked at before an engine gets them; needs no vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from selfdev.errors import ModelError
from selfdev.generators.adapters import adapter_rank
from tests.tiny import save_tiny, tiny_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("base"), tiny_llama()))


def save_adapter(base: str, out: Path, **options: object) -> Path:
    config = LoraConfig(**({"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(out, save_embedding_layers=False)
    return out


@pytest.mark.parametrize(
    ("options", "rank"),
    [
        ({}, 2),
        ({"r": 5, "target_modules": ["q_proj", "down_proj"]}, 5),
        ({"target_modules": r".*layers\.1\..*(up|gate)_proj"}, 2),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, 2),
        ({"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 7}}, 7),
    ],
)
def test_whole_adapters_have_a_rank(base: str, tmp_path: Path, options: dict[str, object], rank: int) -> None:
    assert adapter_rank(base, save_adapter(base, tmp_path, **options)) == rank


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("lacks", "it lacks base_model.model.model.layers"),
        ("odd", "belongs to no layer"),
        ("shape", r"has shape \(3, 3\)"),
        ("truncated", "fit"),
        ("no weights", "adapter_model.safetensors"),
        ("missing", "fit"),
        ("other layers", "names no layer"),
        ("not lora", "fit"),
    ],
)
def test_a_bad_adapter_is_named(base: str, tmp_path: Path, damage: str, why: str) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    tensors = load_file(weights)
    first = next(iter(tensors))
    if damage == "lacks":
        save_file({name: tensor for name, tensor in tensors.items() if name != first}, weights)
    elif damage == "odd":
        save_file(tensors | {first.replace("layers.0", "layers.9"): tensors[first].clone()}, weights)
    elif damage == "shape":
        save_file(tensors | {first: torch.zeros(3, 3)}, weights)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "missing":
        adapter = tmp_path / "nowhere"
    elif damage == "other layers":
        for layer in ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"):
            config.write_text(config.read_text().replace(layer, f"h_{layer}"))
    else:
        config.write_text("{}")
    with pytest.raises(ModelError, match=why) as caught:
        adapter_rank(base, adapter)
    assert str(adapter) in str(caught.value)
    assert "\n" not in str(caught.value)

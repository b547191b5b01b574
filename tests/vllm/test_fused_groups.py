"""Which parameters are sent together; needs no vLLM."""

from __future__ import annotations

import pytest

from selfdev.vllm_engine import FusedGroups

GROUPS = FusedGroups({"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]})
LAYERS = [
    f"model.layers.{i}.{leaf}"
    for i in (1, 10)
    for leaf in (
        *(f"self_attn.{x}_proj.{kind}" for x in "qkvo" for kind in ("weight", "bias")),
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
        "mlp.experts.0.up_proj.weight",
        "mlp.experts.1.up_proj.weight",
        "input_layernorm.weight",
    )
]
NAMES = ["model.embed_tokens.weight", *LAYERS, "model.norm.weight", "lm_head.weight"]


@pytest.mark.parametrize(
    ("wanted", "endings"),
    [
        ([], []),
        (["lm_head.weight"], ["lm_head.weight"]),
        (["model.layers.1.input_layernorm.weight"], ["1.input_layernorm.weight"]),
        (["model.layers.1.mlp.up_proj.weight"], ["1.mlp.gate_proj.weight", "1.mlp.up_proj.weight"]),
        (["model.layers.1.mlp.down_proj.weight"], ["1.mlp.down_proj.weight"]),
        (
            ["model.layers.10.self_attn.v_proj.bias"],
            [f"10.self_attn.{x}_proj.{kind}" for x in "qkv" for kind in ("weight", "bias")],
        ),
        (["model.layers.1.mlp.experts.1.up_proj.weight"], [f"1.mlp.experts.{i}.up_proj.weight" for i in (0, 1)]),
    ],
)
def test_a_module_is_sent_whole(wanted: list[str], endings: list[str]) -> None:
    whole = [next(name for name in NAMES if name.endswith(ending)) for ending in endings]
    assert GROUPS.complete(NAMES, wanted) == whole


def test_the_order_is_the_models() -> None:
    assert GROUPS.complete(NAMES, reversed(NAMES)) == NAMES


def test_without_fusing_each_module_stands_alone() -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    assert FusedGroups({}).complete(NAMES, [name]) == [name, name.replace("weight", "bias")]

"""Random programs from a typed grammar give the same bits in the sandbox as in plain PyTorch, and the shapes that the
child works out by itself are PyTorch's."""

from __future__ import annotations

import random
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selfdev_sandbox import Limits, Sandbox, Status
from selfdev_sandbox.validate import same_bits

# A value is a matrix `m` (4, 6), a vector `v` (6,), a column `c` (4, 1) or a scalar `s` (). Each rule gives one kind.
RULES: dict[str, list[str]] = {
    "m": [
        "({m} + {m})",
        "({m} - {c})",
        "({m} * {v})",
        "({m} * {n})",
        "({n} - {m})",
        "({m} / ({v}.abs() + 1))",
        "torch.where({m} > {n}, {m}, {m} * 0.5)",
        "torch.where({m}.abs() >= {s}, {m}, 0.0)",
        "{m}.masked_fill({m} < {c}, 0.25)",
        "{m}.clamp(min=-1.0, max={n})",
        "{m}.flip(0)",
        "{m}.t().contiguous().t()",
        "torch.softmax({m}, dim=-1)",
        "torch.sort({m}, dim=1).values",
        "({m} @ {m}.T @ {m}) / 16",
        "torch.einsum('ij,kj->ik', {m}, {m}) @ {m} * 0.1",
        "torch.lerp({m}, {m}, 0.3)",
        "{m}.cumsum(0) * 0.3",
        "{m}.tanh()",
        "torch.maximum({m}, {m})",
        "{m}.contiguous().view(6, 4).reshape(4, 6)",
        "torch.stack([{m}, {m}], dim=1).mean(1)",
        "torch.cat([{m}[:2], {m}[2:]], dim=0)",
        "torch.outer({c}.squeeze(1), {v}) * 0.5",
        "({m} * torch.sign({m}))",
        "F.normalize({m}, dim=1)",
        "torch.nan_to_num({m} / {c})",
        "{m}[torch.tensor([3, 1, 0, 2])]",
        "{m}.bfloat16().float()",
        "({m} + torch.rand(4, 6, generator=g))",
        "({m} * torch.bernoulli(torch.full((4, 6), 0.5), generator=g))",
    ],
    "v": [
        "{m}.mean(dim=0)",
        "{m}.sum(0)",
        "{m}.max(dim=0).values",
        "{m}.median(dim=0)[0]",
        "{m}.std(dim=0)",
        "{m}[1]",
        "{m}[-1, :]",
        "({v} * {n})",
        "({v} + {s})",
        "{v}.roll(2)",
        "torch.linspace(-1, 1, 6)",
        "torch.sort({v}, descending=True)[0]",
        "{m}.T.mv({c}.flatten())",
        "{v}.abs().sqrt()",
        "torch.linalg.svd({m}, full_matrices=False).Vh[0].abs()",
    ],
    "c": [
        "{m}.mean(1, keepdim=True)",
        "{m}.norm(dim=1, keepdim=True)",
        "{m}.amax(dim=-1, keepdim=True)",
        "({c} * {n})",
        "{m}[:, :1]",
        "{m}[:, 2, None]",
        "{m}.argmax(dim=1, keepdim=True).float()",
        "{m}.var(dim=1).unsqueeze(-1)",
    ],
    "s": [
        "{m}.mean()",
        "{m}.norm()",
        "{v}.max()",
        "{v}.sum()",
        "{m}.abs().quantile(0.7)",
        "{m}.flatten().kthvalue(5).values",
        "{m}.abs().flatten().topk(3).values.min()",
        "({s} * 0.5)",
        "torch.tensor({s}.item() * 0.5)",
        "torch.dot({v}, {v})",
        "{m}[2, 3]",
    ],
}
LEAVES = {"m": ["a", "b"], "v": ["a[0]", "b[2]"], "c": ["a[:, :1]"], "s": ["a[0, 0]"]}
NUMBERS = ["0.5", "-1.25", "2", "0.1"]


def expression(dice: random.Random, kind: str = "m", depth: int = 3) -> str:
    """A random expression of a kind, in parentheses."""
    if depth == 0:
        return dice.choice(LEAVES[kind])
    rule = dice.choice(RULES[kind])
    for slot in "mvcs":
        while "{" + slot + "}" in rule:
            rule = rule.replace("{" + slot + "}", expression(dice, slot, dice.randrange(depth)), 1)
    while "{n}" in rule:
        rule = rule.replace("{n}", dice.choice(NUMBERS), 1)
    return f"({rule})"


def program(lines: list[str]) -> str:
    body = "".join(f"    kept.append({line})\n    shapes.append(list(kept[-1].shape) + [7] * 2)\n" for line in lines)
    return (
        "import torch\nimport torch.nn.functional as F\n"
        "def merge_models(task_vectors):\n"
        "    a, b = task_vectors[0]['w'], task_vectors[1]['w']\n"
        "    g = torch.Generator().manual_seed(3)\n    kept, shapes = [], []\n"
        f"{body}"
        "    total = a * 0\n"
        "    for i, x in enumerate(kept):\n"
        "        total = total + torch.nan_to_num(x, posinf=1.0, neginf=-1.0) * 1e-3\n"
        "        total = total + 1e-3 * torch.tensor(shapes[i]).sum() + 1e-4 * (x.dtype == torch.float32)\n"
        "    return {'w': total}\n"
    )


def inputs() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [{"w": torch.randn(4, 6, generator=generator)} for _ in range(2)]


def plain(source: str) -> dict[str, torch.Tensor]:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    result: dict[str, torch.Tensor] = namespace["merge_models"](inputs())
    return result


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_random_programs_agree_with_pytorch(box: Sandbox, seed: int) -> None:
    """60 programs of 8 nested expressions each."""
    dice = random.Random(seed)
    source = program([expression(dice) for _ in range(8)])
    outcome = box.run(source, inputs(), seed=0, limits=Limits(norm_ratio=1e6))
    assert outcome.status is Status.OK, f"{outcome.error} in line {outcome.line} of\n{source}"
    assert outcome.result is not None
    assert same_bits(outcome.result, plain(source)), source


def test_every_rule_of_the_grammar_agrees_with_pytorch(box: Sandbox) -> None:
    """Each rule once by itself, with its shape and dtype, so that no rule is left to chance."""
    for kind, rules in RULES.items():
        for rule in rules:
            line = rule.format(m="(a * 1.5)", v="(a[0] + b[1])", c="(b[:, :1] * 2)", s="(a[0, 0] * 3)", n="0.75")
            source = program([line if kind == "m" else f"a + {line}", line])
            outcome = box.run(source, inputs(), seed=0, limits=Limits(norm_ratio=1e6))
            assert outcome.result is not None, f"{line}: {outcome.error}"
            assert same_bits(outcome.result, plain(source)), line

"""In-place programs behave as in plain PyTorch, and the caller's tensors keep their bits.

Random programs from a small grammar run twice: through the sandbox, and by plain `exec` with the real torch.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selfdev_sandbox import Sandbox, Status

SETUP = """
import torch
def merge_models(task_vectors):
    a = task_vectors[0]["w"]
    b = task_vectors[1]["w"]
    names = [a, b]
"""
_VIEWS = [
    "{x}.t()",
    "{x}[1:]",
    "{x}[:, 0]",
    "{x}[::2]",
    "{x}.view(-1)",
    "{x}.reshape(-1)",
    "{x}.detach()",
    "{x}.data",
    "{x}.narrow(0, 0, 2)",
    "{x}.unsqueeze(0)",
    "{x}[..., None]",
    "{x}.flatten()",
    "{x}.transpose(0, -1)",
    "{x}.clone()",
    "{x}.diagonal() if {x}.dim() > 1 else {x}",
    "{x}.expand_as({x})",
    "{x}.unbind(0)[0]",
    "{x}.chunk(2, 0)[-1]",
    "{x}.to(torch.float32)",
    "{x}.squeeze()",
]
_WRITES = [
    "{x}.mul_(0.5)",
    "{x} += 1.0",
    "{x}[0] = 2.0",
    "{x}[0] += 0.5",
    "{x}.add_({x}.sum())",
    "{x}.zero_()",
    "{x}[{x} > 0] = 0.25",
    "{x}.copy_({x} * 3)",
    "{x}.clamp_(-0.5, 0.5)",
    "{x}[...] = {x} - 1",
    "{x}[-1].neg_()",
    "{x}.fill_(0.125)",
    "torch.add({x}, 1.0, out={x})",
    "{x}.data.sub_(0.5)",
    "{x}[{x} < 0] *= 2.0",
    "{x}.t().sqrt_()",
]


@st.composite
def programs(draw: st.DrawFn) -> str:
    lines = []
    count = 2
    for _ in range(draw(st.integers(2, 9))):
        x = f"names[{draw(st.integers(0, count - 1))}]"
        if draw(st.booleans()):
            lines.append(f"names.append({draw(st.sampled_from(_VIEWS)).format(x=x)})")
            count += 1
        else:
            body = draw(st.sampled_from(_WRITES)).format(x="x")
            lines.append(f"x = {x}\n    {body}")
    guarded = "".join(
        f"    try:\n        {line.replace(chr(10), chr(10) + '    ')}\n    except (RuntimeError, IndexError):\n"
        f"        {'names.append(a)' if line.startswith('names') else 'pass'}\n"
        for line in lines
    )
    tail = (
        "    total = torch.zeros(4, 4)\n    for i, n in enumerate(names):\n        total = total + (i + 1) * n.sum()\n"
    )
    return SETUP + guarded + tail + "    return {'w': torch.nan_to_num(total * 1e-3) + a + 2 * b}\n"


def inputs() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"w": torch.randn(4, 4, generator=generator)} for _ in range(2)]


def plain(source: str, vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    namespace: dict[str, object] = {}
    exec(source, namespace)
    return namespace["merge_models"](vectors)  # type: ignore[operator, no-any-return]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(source=programs())
def test_random_inplace_programs_agree_with_pytorch(box: Sandbox, source: str) -> None:
    expected = plain(source, inputs())["w"]
    given_vectors = inputs()
    outcome = box.run(source, given_vectors, seed=0)
    if outcome.status is Status.INVALID:
        assert not torch.isfinite(expected).all() or expected.norm() > 50
        return
    assert outcome.status is Status.OK, f"{outcome.error}\n{source}"
    assert outcome.result is not None
    assert torch.equal(outcome.result["w"], expected), source
    assert all(torch.equal(x["w"], y["w"]) for x, y in zip(given_vectors, inputs(), strict=True))


@pytest.mark.parametrize("shared", ["tied", "flat"])
def test_inputs_that_share_memory_are_copied_together(box: Sandbox, shared: str) -> None:
    """Two names over one buffer: a write through one shows through the other, as in PyTorch, and not outside."""
    flat = torch.arange(8.0) / 8
    views = {"a": flat[:6].view(2, 3), "b": flat[:6].view(2, 3) if shared == "tied" else flat[2:8].view(2, 3)}
    source = "def merge_models(t):\n    t[0]['a'].add_(1.0)\n    return {k: v for k, v in t[0].items()}"
    before = flat.clone()
    outcome = box.run(source, [views], seed=0)
    assert torch.equal(flat, before)
    copy = before.clone()
    copy[:6] += 1
    assert outcome.result is not None
    assert torch.equal(outcome.result["a"], copy[:6].view(2, 3))
    assert torch.equal(outcome.result["b"], copy[:6].view(2, 3) if shared == "tied" else copy[2:8].view(2, 3))
    assert outcome.result["a"].data_ptr() != outcome.result["b"].data_ptr()

"""`linear_form`: coefficients of programs that are fixed linear combinations, None for all others; what it finds is
held against the run's own result."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selfdev_sandbox import Sandbox, Trace, linear_form

from tests.sandbox.conftest import SHAPES, make_vectors

Vectors = list[dict[str, torch.Tensor]]


def per_name(body: str, start: str = "") -> str:
    """A program that computes `out[k]` for every parameter `k` from `xs`, the sources' tensors."""
    lines = "\n".join("        " + line for line in body.strip().split("\n"))
    return f"""
import torch
import re

def merge_models(task_vectors):
    out = {{}}
    {start}
    for j, k in enumerate(task_vectors[0]):
        xs = [tv[k] for tv in task_vectors]
{lines}
    return out
"""


W = "w = torch.tensor([0.5, 0.25, -2.0])"

LINEAR: dict[str, tuple[str, tuple[float, float, float]]] = {
    "sum of a list": (per_name("out[k] = sum(xs)"), (1, 1, 1)),
    "mean": (per_name("out[k] = sum(xs) / len(xs)"), (1 / 3, 1 / 3, 1 / 3)),
    "task arithmetic": (
        per_name("t = torch.zeros_like(xs[0])\nfor x in xs:\n    t += x\nout[k] = 0.5 * t"), (0.5,) * 3),
    "alpha": (per_name("out[k] = torch.add(xs[0], xs[1], alpha=0.25).sub_(xs[2], alpha=2)"), (1, 0.25, -2)),
    "in place": (
        per_name("x = xs[0].clone()\nx.mul_(3).add_(xs[1]).div_(4)\nx -= xs[2]\nout[k] = x"), (0.75, 0.25, -1)),
    "inputs written": (per_name("xs[0].add_(xs[1])\nxs[0].mul_(0.5)\nout[k] = xs[0] + xs[1]"), (0.5, 1.5, 0)),
    "stack, mean": (per_name("out[k] = torch.stack(xs).mean(dim=0)"), (1 / 3,) * 3),
    "stack, weights": (
        per_name("out[k] = (torch.stack(xs) * w.view(-1, *[1] * xs[0].dim())).sum(0)", W), (0.5, 0.25, -2)),
    "stack last": (per_name("out[k] = (torch.stack(xs, dim=-1) * w).sum(-1)", W), (0.5, 0.25, -2)),
    "cat": (
        per_name("out[k] = torch.cat([x.unsqueeze(0) for x in xs]).sum(dim=0, keepdim=True).squeeze(0)"), (1, 1, 1)),
    "weights iterated": (per_name("out[k] = sum(a * x for a, x in zip(w, xs))", W), (0.5, 0.25, -2)),
    "softmax of constants": (
        per_name("out[k] = xs[0] * w[0] + w[1] * xs[1]", "w = torch.softmax(torch.zeros(2), 0)"), (0.5, 0.5, 0)),
    "views": (per_name("f = [x.view(-1) for x in xs]\nout[k] = (f[0] - f[2]).view(xs[0].shape).neg()"), (-1, 0, 1)),
    "views written": (
        per_name("x = xs[0].clone()\nf = x.view(-1)\nf.mul_(2)\nf += xs[1].flatten()\nout[k] = x"), (2, 1, 0)),
    "lerp": (per_name("out[k] = torch.lerp(torch.lerp(xs[0], xs[1], 0.5), xs[2], 0.25)"), (0.375, 0.375, 0.25)),
    "float and back": (per_name("out[k] = (xs[0].float() + xs[1].double()).to(xs[0].dtype)"), (1, 1, 0)),
    "matmul of weights": (per_name("out[k] = (w @ torch.stack(xs).view(3, -1)).view_as(xs[0])", W), (0.5, 0.25, -2)),
    "einsum": (per_name("out[k] = torch.einsum('i,i...->...', w, torch.stack(xs))", W), (0.5, 0.25, -2)),
    "tensordot": (per_name("out[k] = torch.tensordot(w, torch.stack(xs), dims=1)", W), (0.5, 0.25, -2)),
    "stack in place": (
        per_name("s = torch.zeros(3, *xs[0].shape)\nfor i in range(3):\n    s[i] = xs[i] * (i + 1)\nout[k] = s.sum(0)"),
        (1, 2, 3)),
    "rows of a stack": (per_name("s = torch.stack(xs)\nout[k] = s[0] - s[-1] + s[1:].sum(0)"), (1, 1, 0)),
    "unbind": (per_name("a, b, c = torch.stack(xs).unbind(0)\nout[k] = a - 2 * b + c"), (1, -2, 1)),
    "transposed twice": (per_name("t = [x.t() if x.dim() == 2 else x for x in xs]\nm = t[0] + t[1]\n"
                                  "out[k] = m.t() if m.dim() == 2 else m"), (1, 1, 0)),
    "two-dimensional weights": (
        per_name("s = torch.stack([torch.stack(xs), torch.stack(xs[::-1])])\nout[k] = s.sum((0, 1)) / 2"), (1, 1, 1)),
    "one constant tensor": (per_name("out[k] = xs[0] * torch.full_like(xs[0], 0.25) + 0"), (0.25, 0, 0)),
    "one source": (per_name("out[k] = xs[1]"), (0, 1, 0)),
    "nothing": (per_name("out[k] = torch.zeros_like(xs[0])"), (0, 0, 0)),
    "differences": (per_name("m = sum(xs) / 4\nout[k] = m + 0.5 * sum(x - m for x in xs)"), (0.375,) * 3),
    "setitem of all": (per_name("o = torch.empty_like(xs[0])\no[:] = xs[2]\no.copy_(o * 2)\nout[k] = o"), (0, 0, 2)),
}  # fmt: skip

OTHER: dict[str, str] = {
    "a read": per_name("out[k] = xs[0] * xs[0].norm().item()"),
    "a read that decides": per_name("out[k] = xs[0] if xs[0].sum() > 0 else xs[1]"),
    "a mask": per_name("out[k] = xs[0] * (xs[0] > 0)"),
    "where": per_name("out[k] = torch.where(xs[0] > 0, xs[0], xs[1])"),
    "product of sources": per_name("out[k] = xs[0] * xs[1]"),
    "norm": per_name("out[k] = xs[0] / xs[0].norm()"),
    "sign": per_name("out[k] = torch.sign(xs[0]) * xs[1].abs()"),
    "clamp": per_name("out[k] = xs[0].clamp(-10, 10)"),
    "constant added": per_name("out[k] = xs[0] + 1e-6"),
    "random": per_name("out[k] = xs[0] * torch.rand_like(xs[1])"),
    "random factor": per_name("out[k] = xs[0] * torch.rand(())"),
    "a row of the content": per_name("x = xs[0].clone()\nx[0] = 0\nout[k] = x"),
    "half of the content": per_name("n = xs[0].shape[0] // 2\nout[k] = torch.cat([xs[0][:n], xs[1][n:]])"),
    "weights over content": per_name("out[k] = xs[0] * torch.linspace(0, 1, xs[0].shape[-1])"),
    "mean of content": per_name("out[k] = xs[0] - xs[0].mean()"),
    "broadcast content": per_name("out[k] = xs[0] + xs[1].sum(-1, keepdim=True)"),
    "transposed once": per_name("out[k] = xs[0] + (xs[1].t() if xs[1].shape[0] == xs[1].shape[-1] and xs[1].dim() == 2"
                                " else xs[1])"),
    "median": per_name("out[k] = torch.stack(xs).median(dim=0).values"),
    "maximum": per_name("out[k] = torch.maximum(xs[0], xs[1])"),
    "another parameter": per_name("out[k] = task_vectors[0]['model.norm.weight'] + 0 * xs[0] if k.endswith('bias')"
                                  " else xs[0]"),
    "rolled": per_name("out[k] = xs[0].roll(1, 0)"),
    "svd": per_name("out[k] = torch.linalg.svdvals(xs[0])[0] * xs[0] if xs[0].dim() == 2 else xs[0]"),
    "view of a sliced input written": per_name("xs[0].view(-1)[::2] = 0\nout[k] = xs[0]"),
    "piece written": per_name("s = torch.stack(xs)\na, b, c = s.unbind(0)\na.mul_(2)\nout[k] = s.sum(0)"),
    "written below pieces": per_name("s = torch.stack(xs)\na, b, c = s.unbind(0)\ns.mul_(2)\nout[k] = a"),
    "written to integers": per_name("o = torch.zeros(xs[0].shape, dtype=torch.int64)\no[:] = 100 * xs[0]\n"
                                    "out[k] = o.float()"),
    "summed as integers": per_name("out[k] = torch.stack(xs).sum(0, dtype=torch.int64).float()"),
    "as the type of integers": per_name("out[k] = (100 * xs[0]).type_as(torch.tensor(1)).float()"),
    "integers": per_name("out[k] = (100 * xs[0]).to(torch.int64).to(xs[0].dtype)"),
}  # fmt: skip


def form_of(box: Sandbox, source: str, vectors: Vectors) -> tuple[dict[str, tuple[float, ...]] | None, float]:
    """Coefficients, and how far the combination is from the run's result, relative to the sources."""
    outcome = box.run(source, vectors, seed=0)
    assert outcome.result is not None, f"line {outcome.line}: {outcome.error}"
    form = linear_form(Trace.of(outcome, vectors))
    if form is None:
        return None, 0.0
    worst = 0.0
    for name, coefficients in form.coefficients.items():
        parts = [c * v[name].double() for c, v in zip(coefficients, vectors, strict=True)]
        size = sum(p.abs() for p in parts) + 1e-12
        worst = max(worst, float(((sum(parts) - outcome.result[name].double()).abs() / size).max()))
    return form.coefficients, worst


@pytest.mark.parametrize("label", LINEAR)
def test_linear_program_gives_its_coefficients(box: Sandbox, label: str) -> None:
    source, expected = LINEAR[label]
    coefficients, error = form_of(box, source, make_vectors())
    assert coefficients is not None
    assert list(coefficients) == list(SHAPES)
    assert all(found == pytest.approx(expected, abs=1e-15) for found in coefficients.values())
    assert error < 1e-5


@pytest.mark.parametrize("label", OTHER)
def test_other_programs_have_no_form(box: Sandbox, label: str) -> None:
    assert form_of(box, OTHER[label], make_vectors())[0] is None


def test_layers_have_their_own_coefficients(box: Sandbox, vectors: Vectors) -> None:
    source = per_name(
        "m = re.search(r'layers[.](\\d+)', k)\nout[k] = sum(xs) * (0.5 + int(m.group(1)) if m else 2) - xs[0]"
    )
    outcome = box.run(source, vectors, seed=0)
    form = linear_form(Trace.of(outcome, vectors))
    assert form is not None
    assert form.uniform is None
    assert form.coefficients["model.layers.2.mlp.down_proj.weight"] == (1.5, 2.5, 2.5)
    assert form.coefficients["model.layers.0.self_attn.q_proj.bias"] == (-0.5, 0.5, 0.5)
    assert form.coefficients["model.norm.weight"] == (1.0, 2.0, 2.0)
    even = linear_form(Trace.of(box.run(LINEAR["lerp"][0], vectors, seed=0), vectors))
    assert even is not None
    assert even.uniform == (0.375, 0.375, 0.25)


def test_literals_stay_exact_in_bfloat16(box: Sandbox) -> None:
    """0.3 is 0.3, not its bfloat16 neighbour; a constant tensor is rounded as the program rounds it."""
    vectors = make_vectors(torch.bfloat16)
    coefficients, error = form_of(box, per_name("out[k] = 0.3 * xs[0] + xs[1] * w", "w = torch.tensor(0.3)"), vectors)
    assert coefficients is not None
    assert coefficients["model.norm.weight"] == (0.3, float(torch.tensor(0.3)), 0.0)
    assert error < 2e-2


def test_hostile_sizes_are_refused_at_once(box: Sandbox, vectors: Vectors) -> None:
    """Views cost a program nothing; the closed form must not pay for them."""
    wide = per_name("out[k] = xs[0].expand(1 << 20, 1 << 20, *xs[0].shape).select(0, 0).select(0, 0)")
    assert form_of(box, wide, vectors)[0] is None


EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b", "c"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: f"({p[0]} + {p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]} - {p[1]})"),
        st.tuples(st.sampled_from(["0.5", "3", "-1.25", "w[1]"]), inner).map(lambda p: f"({p[0]} * {p[1]})"),
        st.tuples(inner, st.sampled_from(["2", "-4.0"])).map(lambda p: f"({p[0]} / {p[1]})"),
        inner.map(lambda x: f"(-{x})"),
        inner.map(lambda x: f"({x}).flatten().view(a.shape)"),
        inner.map(lambda x: f"({x}).clone().mul_(0.5)"),
        st.tuples(inner, inner).map(lambda p: f"torch.lerp({p[0]}, {p[1]}, 0.25)"),
        st.tuples(inner, inner).map(lambda p: f"torch.stack([{p[0]}, {p[1]}]).mean(0)"),
        st.tuples(inner, inner, inner).map(lambda p: f"torch.einsum('i,i...->...', w, torch.stack([{', '.join(p)}]))"),
        st.tuples(inner, inner).map(lambda p: f"torch.zeros_like(a).add_({p[0]}).sub_({p[1]}, alpha=2)"),
    ),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EXPRESSIONS)
def test_random_linear_programs(box: Sandbox, expression: str) -> None:
    """The form exists, and its combination is the result up to float32 rounding."""
    vectors = [{k: vector[k].double() for k in ("model.norm.weight", "lm_head.weight")} for vector in make_vectors()]
    program = per_name(f"a, b, c = xs\nout[k] = {expression}", "w = torch.tensor([1.0, 0.25, -0.5]).double()")
    outcome = box.run(program, vectors, seed=0)
    assert outcome.result is not None, outcome.error
    form = linear_form(Trace.of(outcome, vectors))
    assert form is not None
    for name, coefficients in form.coefficients.items():
        combined = sum(c * v[name] for c, v in zip(coefficients, vectors, strict=True))
        torch.testing.assert_close(outcome.result[name], combined, rtol=1e-9, atol=1e-12)

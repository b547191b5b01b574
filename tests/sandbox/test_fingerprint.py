"""Fingerprints: duplicates found, different programs kept apart, tags as they are defined."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from selfdev_sandbox import Limits, Probe, Sandbox, SandboxError, Status, result_digest
from selfdev_sandbox.fingerprint import Fingerprint, fingerprint

from tests.sandbox.conftest import make_vectors

SHAPES = {
    "model.embed_tokens.weight": (300, 128),
    "model.layers.0.mlp.up_proj.weight": (256, 128),
    "model.layers.0.norm.weight": (128,),
    "model.layers.1.self_attn.q_proj.weight": (128, 128),
    "model.layers.1.conv.weight": (128, 4, 3),
    "model.norm.weight": (128,),
}


@pytest.fixture(scope="module")
def quick() -> Iterator[Sandbox]:
    with Sandbox(Limits(seconds=10)) as opened:
        yield opened


@pytest.fixture(scope="module")
def probe() -> Probe:
    return Probe.from_parameters(SHAPES, 3)


def per_name(body: str) -> str:
    lines = "\n".join("        " + line for line in body.strip().split("\n"))
    return f"""
{"import random" if "random." in body else ""}
import torch

def merge_models(task_vectors):
    out = {{}}
    for j, k in enumerate(task_vectors[0]):
        xs = [tv[k] for tv in task_vectors]
{lines}
    return out
"""


def mark(box: Sandbox, probe: Probe, body: str) -> Fingerprint:
    return fingerprint(box, per_name(body), 0, probe)


def test_sizes_become_small_and_stay_consistent(probe: Probe) -> None:
    shapes = {name: tuple(t.shape) for name, t in probe.plain[0].items()}
    assert shapes == {
        "model.embed_tokens.weight": (40, 24),
        "model.layers.0.mlp.up_proj.weight": (32, 24),
        "model.layers.0.norm.weight": (24,),
        "model.layers.1.self_attn.q_proj.weight": (24, 24),
        "model.layers.1.conv.weight": (24, 4, 3),
        "model.norm.weight": (24,),
    }
    for vectors in (probe.plain, probe.mixed, probe.other, probe.rotated, probe.summed):
        assert len(vectors) == 3
        assert all({n: tuple(t.shape) for n, t in v.items()} == shapes for v in vectors)


def test_patterns_are_there(probe: Probe) -> None:
    """Parameters in turn: near-equal, opposite, zero, outliers; two later in the other dtype."""
    names = list(SHAPES)
    a, b, c = (
        [v[names[0]] for v in probe.mixed],
        [v[names[1]] for v in probe.mixed],
        [v[names[2]] for v in probe.mixed],
    )
    assert (a[0] - a[1]).norm() < 0.01 * a[0].norm()
    assert torch.cosine_similarity(b[0].flatten(), b[1].flatten(), dim=0) < -0.9
    assert [bool(x.any()) for x in c] == [False, True, True]
    d = probe.mixed[0][names[3]].abs()
    assert d.max() > 100 * d.median()
    assert probe.other[0][names[0]].dtype == torch.bfloat16
    assert not all(v[names[0]].any() for v in probe.other)
    assert torch.equal(probe.rotated[0][names[0]], probe.plain[1][names[0]])


def test_probes_are_fixed_and_follow_the_real_values() -> None:
    real = [{k: 3e-4 * v / 0.02 for k, v in vector.items()} for vector in make_vectors(torch.bfloat16)]
    one, two = Probe.like(real), Probe.like(real)
    assert [result_digest(v) for v in one.mixed] == [result_digest(v) for v in two.mixed]
    spread = float(one.plain[0]["model.embed_tokens.weight"].float().std())
    assert 2e-4 < spread < 4e-4
    assert one.plain[0]["model.norm.weight"].dtype == torch.bfloat16
    assert one.other[0]["model.norm.weight"].dtype == torch.float32
    with pytest.raises(SandboxError, match="at least one"):
        Probe.from_parameters({}, 3)


SAME = [
    "out[k] = sum(xs) / 3",
    "total = xs[0]\nfor x in xs[1:]:\n    total = total + x\nout[k] = torch.div(total, 3)",
    "acc = torch.zeros_like(xs[0])\nfor x in xs:\n    acc += x\nacc /= 3\nout[k] = acc",
    "n = xs[0].norm().item()\nout[k] = (0 + xs[0] + xs[1] + xs[2]) / len(xs)",
]
APART = [
    "out[k] = sum(xs) / 3.01",
    "out[k] = sum(xs[::-1]) / 3",
    "out[k] = sum(xs) / (3 if 'layers.1.' in k else 4)",
    "out[k] = sum(xs) / 3 if k != 'model.norm.weight' else xs[0]",
    "out[k] = (sum(xs) / 3).clamp(-0.5, 0.5)",
    "m = sum(xs) / 3\nout[k] = m if xs[0].any() and xs[1].any() else 2 * m",
    "out[k] = sum(xs) / 3 if (xs[0] * xs[1]).sum() > -0.5 * xs[0].norm() ** 2 else xs[0]",
    "f = xs[0].flatten()\nt = f.abs().topk(int(0.20 * f.numel())).values.min()\nout[k] = xs[0] * (xs[0].abs() >= t)",
    "f = xs[0].flatten()\nt = f.abs().topk(int(0.21 * f.numel())).values.min()\nout[k] = xs[0] * (xs[0].abs() >= t)",
]


def test_duplicates_and_only_they_share_a_digest(quick: Sandbox, probe: Probe) -> None:
    same = {mark(quick, probe, body).digest for body in SAME}
    assert len(same) == 1
    assert None not in same
    assert len(same | {mark(quick, probe, body).digest for body in APART}) == 1 + len(APART)


TAGS: list[tuple[str, str, set[str]]] = [
    ("mean", "out[k] = sum(xs) / 3", {"linear"}),
    ("weights", "out[k] = 0.5 * xs[0] + 0.3 * xs[1]", {"linear", "order-dependent"}),
    ("one source", "out[k] = xs[1]", {"linear", "order-dependent", "norm-preserving"}),
    ("content mean", "out[k] = sum(xs) - sum(xs).mean()", set()),
    ("largest", "s = torch.stack(xs)\nout[k] = s.gather(0, s.abs().argmax(0, keepdim=True))[0]", {"data-dependent"}),
    ("masked", "m = sum(xs)\nout[k] = m * (m.abs() > m.abs().median())", {"data-dependent", "sparse"}),
    ("fixed mask", "m = sum(xs).clone()\nm.view(-1)[::2] = 0\nout[k] = m", {"sparse"}),
    ("rescaled", "m = sum(xs)\nout[k] = m / m.norm() * sum(x.norm() for x in xs) / 3",
     {"data-dependent", "norm-preserving"}),
    ("read", "out[k] = xs[0] * xs[1].norm().item()", {"data-dependent", "order-dependent"}),
    ("chain", "out[k] = (xs[0] * xs[1]).sign() * xs[2].abs()",
     {"data-dependent", "order-dependent", "norm-preserving"}),
    ("drop", "out[k] = sum(x * torch.bernoulli(torch.full(x.shape, 0.5)) * 2 for x in xs)", {"random", "sparse"}),
    ("fixed draws", "g = torch.Generator().manual_seed(3)\nout[k] = xs[0] * torch.rand(xs[0].shape, generator=g)",
     {"random"}),
    ("python draws", "out[k] = xs[0] * random.random()", {"linear", "order-dependent", "random"}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "tags"), [row[1:] for row in TAGS], ids=[row[0] for row in TAGS])
def test_tags(quick: Sandbox, probe: Probe, body: str, tags: set[str]) -> None:
    found = mark(quick, probe, body)
    assert found.digest is not None
    assert found.tags == tags


def test_a_known_digest_is_not_judged_again(quick: Sandbox, probe: Probe) -> None:
    source = per_name("out[k] = xs[0] * (xs[1] > 0)")
    first = fingerprint(quick, source, 0, probe)
    again = fingerprint(quick, source, 0, probe, known={first.digest or ""})
    assert again.digest == first.digest
    assert first.tags
    assert not again.tags
    assert [name for name, _ in again.outcomes] == ["plain", "mixed", "other"]


def test_python_draws_follow_the_seed(quick: Sandbox, probe: Probe) -> None:
    source = per_name("out[k] = xs[0] * random.random()")
    one, two, other = (fingerprint(quick, source, seed, probe).digest for seed in (1, 1, 2))
    assert one == two != other


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("out[k] = xs[0].view(-1, 128)", Status.EXCEPTION),
        ("out[k] = xs[0] / 0", Status.INVALID),
        ("while True:\n    pass", Status.TIMEOUT),
    ],
)
def test_what_fails_on_the_plain_probe_has_no_duplicates(probe: Probe, body: str, status: Status) -> None:
    with Sandbox(Limits(seconds=0.7 if status is Status.TIMEOUT else 10)) as box:
        found = mark(box, probe, body)
    assert found.digest is None
    assert found.tags == frozenset()
    assert found.outcomes == (("plain", status),)  # it is not run on the others


def test_limits_of_a_fingerprint_are_its_own(quick: Sandbox, probe: Probe) -> None:
    found = fingerprint(
        quick, "def merge_models(t):\n    while True:\n        pass", 0, probe, limits=Limits(seconds=0.2)
    )
    assert found.outcomes == (("plain", Status.TIMEOUT),)
    assert found.seconds < 5


def test_a_failure_on_a_special_probe_is_part_of_the_digest(quick: Sandbox, probe: Probe) -> None:
    """Dividing by the norm of a zero source gives NaN there; the program still has a digest of its own."""
    unsafe, safe = (mark(quick, probe, f"out[k] = sum(x / (x.norm() + {eps}) for x in xs)") for eps in ("0", "1e-12"))
    assert unsafe.outcomes[:3] == (("plain", Status.OK), ("mixed", Status.INVALID), ("other", Status.INVALID))
    assert unsafe.digest is not None
    assert unsafe.digest != safe.digest


def test_result_digest_is_exact() -> None:
    one = {"a": torch.zeros(2, 3), "b": torch.ones(())}
    assert result_digest(one) == result_digest({"b": torch.ones(()), "a": torch.zeros(3, 2).t()})
    for other in (
        {"a": torch.zeros(3, 2), "b": torch.ones(())},
        {"a": torch.zeros(2, 3), "b": torch.ones(()).double()},
        {"a": -torch.zeros(2, 3), "b": torch.ones(())},
        {"a": torch.zeros(2, 3), "c": torch.ones(())},
    ):
        assert result_digest(one) != result_digest(other)

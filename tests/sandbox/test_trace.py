"""`Trace`: dead code, in-place and view semantics, canonical hashes, what the program saw, cost, storage."""

from __future__ import annotations

import pytest
import torch
from selfdev_sandbox import Limits, OpRecord, RunResult, Sandbox, SandboxError, Status, Trace
from selfdev_sandbox.protocol import Gen, Ref, Slice
from selfdev_sandbox.trace import memory_roots

Vectors = list[dict[str, torch.Tensor]]
SEED_0 = {"a": torch.ones(4, 4), "b": torch.ones(4)}


def two_sources() -> Vectors:
    return [{k: v.clone() for k, v in SEED_0.items()} for _ in range(2)]


def program(body: str) -> str:
    lines = "\n".join("        " + line for line in body.strip().split("\n"))
    return f"""
import torch

def merge_models(task_vectors):
    out = {{}}
    for k in task_vectors[0]:
        x, y = task_vectors[0][k], task_vectors[1][k]
{lines}
    return out
"""


def trace_of(box: Sandbox, source: str, vectors: Vectors | None = None) -> Trace:
    vectors = vectors or two_sources()
    outcome = box.run(source, vectors, seed=0)
    assert outcome.status is Status.OK, f"line {outcome.line}: {outcome.error}"
    return Trace.of(outcome, vectors)


def hash_of(box: Sandbox, body: str) -> str:
    return trace_of(box, program(body)).canonical_hash()


# By hand: inputs are 1..4 (a, b of source 0; a, b of source 1).


def record(op: str, args: list[object], outputs: tuple[int, ...] = (), shares: tuple[int, ...] = ()) -> OpRecord:
    return OpRecord(op, args, {}, outputs, 1, shares)


def made_of(records: list[OpRecord], a: int, b: int = 2) -> Trace:
    end = OpRecord("return", (), {"b": Ref(b), "a": Ref(a)}, (), 0)
    outcome = RunResult(Status.OK, {}, operations=len(records), trace=(*records, end))
    return Trace.of(outcome, two_sources())


def test_dead_operations_are_removed_and_handles_renumbered() -> None:
    trace = made_of(
        [
            record("mul", [Ref(1), 2], (5,)),  # dead
            record("add", [Ref(1), Ref(3)], (6,)),
            record("read", [Ref(5), "item"]),
            record("neg", [Ref(6)], (9,)),
            record("zero_", [Ref(5)]),  # dead
        ],
        a=9,
    )
    assert [r.op for r in trace.records] == ["add", "neg", "return"]
    assert trace.records[1] == record("neg", [Ref(5)], (6,))
    assert trace.returned == {"a": 6, "b": 2}
    assert trace.cost.operations == 5
    assert trace.cost.live_operations == 2
    assert trace.reads == 1
    assert trace.reads_data
    assert trace.input_of(4) == (1, 1)
    assert trace.input_of(5) is None


def test_a_write_to_a_view_reaches_the_base_and_other_views() -> None:
    records = [
        record("clone", [Ref(1)], (5,)),
        record("view", [Ref(5), -1], (6,), (5,)),
        record("t", [Ref(5)], (7,), (5,)),
        record("mul_", [Ref(6), 2]),
        record("reshape", [Ref(7), 16], (8,)),  # a copy: it has its own memory
        record("zero_", [Ref(8)]),
    ]
    assert [r.op for r in made_of(records, a=5).records] == ["clone", "view", "mul_", "return"]
    assert [r.op for r in made_of(records, a=7).records] == ["clone", "view", "t", "mul_", "return"]
    assert [r.op for r in made_of(records, a=8).records] == [
        "clone", "view", "t", "mul_", "reshape", "zero_", "return"]  # fmt: skip


def test_a_write_to_an_input_is_live_where_the_input_is_used_later() -> None:
    records = [
        record("add", [Ref(1), 0], (5,)),
        record("setitem", [Ref(1), [Slice(None, None, 2)], 0]),
        record("add", [Ref(1), 0], (6,)),
    ]
    assert [r.op for r in made_of(records, a=5).records] == ["add", "return"]
    assert [r.op for r in made_of(records, a=6).records] == ["setitem", "add", "return"]
    assert made_of(records, a=5).canonical_hash() != made_of(records, a=6).canonical_hash()


def test_a_dead_draw_is_live_if_it_moves_the_generator_on() -> None:
    draw = record("randn_like", [Ref(1), None, Gen(0)], (5,))
    later = OpRecord("randn_like", [Ref(1), None, Gen(0)], {}, (6,), 2)
    other = OpRecord("randn_like", [Ref(1), None, Gen(1)], {}, (7,), 3)
    assert len(made_of([draw, later, other], a=6).records) == 3
    assert len(made_of([draw, later, other], a=7).records) == 2
    reseeded = record("seed_generator", [Gen(0), 7])
    assert [r.op for r in made_of([draw, reseeded, later], a=6).records] == ["seed_generator", "randn_like", "return"]
    assert made_of([draw, later], a=6).draws
    assert not made_of([draw], a=1).draws


def test_seeds_count_and_generator_numbers_do_not() -> None:
    def drawn(number: int, seed: int) -> str:
        draw = OpRecord("randn_like", [Ref(1)], {"generator": Gen(number)}, (5,), 1)
        return made_of([record("seed_generator", [Gen(number), seed]), draw], a=5).canonical_hash()

    assert drawn(1, 7) == drawn(2, 7) != drawn(1, 8)


def test_malformed_or_missing_traces_are_refused() -> None:
    with pytest.raises(SandboxError, match="not consistent"):
        made_of([record("neg", [Ref(1)], (5,)), record("neg", [Ref(5)], (5,))], a=5)
    with pytest.raises(SandboxError, match="not consistent"):
        made_of([record("neg", [Ref(8)], (5,))], a=5)
    with pytest.raises(SandboxError, match="ended as 'timeout'"):
        Trace.of(RunResult(Status.TIMEOUT), two_sources())


# From runs.

SAME = [
    "out[k] = x + 0.5 * y",
    "half = 0.5  # a name and a comment\nout[k] = x + half * y",
    "unused = torch.stack([x, y]).std()\nout[k] = x + y * 0.5",
    "out[k] = torch.add(x, torch.multiply(y, 0.5))",
    "out[k] = torch.add(input=x, other=torch.mul(other=0.5, input=y))",
    "z = y * 0.5\nscratch = z.clone()\nscratch.mul_(3)\nout[k] = x.float().detach() + z",
    "n = x.norm().item()\nif n > 1e9:\n    out[k] = y\nelse:\n    out[k] = x + y * 0.5",
]
DIFFERENT = [
    "out[k] = x + 0.25 * y",
    "out[k] = 0.5 * y + x",
    "out[k] = x - 0.5 * y",
    "out[k] = y + 0.5 * x",
    "out[k] = torch.add(x, y, alpha=0.5)",
    "out[k] = x + y / 2",
    "out[k] = (x + 0.5 * y).clone()",
    "x[0] = 0\nout[k] = x + 0.5 * y",
    "x.view(-1)[0] = 0\nout[k] = x + 0.5 * y",
    "out[k] = x + 0.5 * y if k == 'a' else x",
]


def test_hashes_tell_what_is_computed(box: Sandbox) -> None:
    same = {hash_of(box, body) for body in SAME}
    assert len(same) == 1
    assert len({*same, *(hash_of(box, body) for body in DIFFERENT)}) == 1 + len(DIFFERENT)


def test_order_of_independent_steps_does_not_show(box: Sandbox) -> None:
    forward = "def merge_models(t):\n    return {k: (t[0][k] + t[1][k]) * 2 for k in t[0]}"
    backward = """
def merge_models(t):
    sums = {}
    for k in reversed(list(t[0])):
        s = t[0][k].clone().detach() if False else t[0][k]
        sums[k] = s + t[1][k]
    return {k: 2 * v for k, v in sums.items()}
"""
    assert trace_of(box, forward).canonical_hash() == trace_of(box, backward).canonical_hash()


@pytest.mark.parametrize(
    ("body", "reads", "data"),
    [
        ("out[k] = x * torch.ones(3).sum().item()", 2, False),
        ("out[k] = x * x.sum().item()", 2, True),
        ("out[k] = x * (2 if x.sum() > 0 else 3)", 2, True),
        ("x[x > 0] = 0\nout[k] = x", 0, False),
        ("out[k] = x * x[x > 0].shape[0]", 0, True),
        ("out[k] = x * len(x.flatten().nonzero())", 0, True),
        ("out[k] = x * x.transpose(0, -1).shape[0]", 0, False),
        ("out[k] = x * torch.stack([x, y])[torch.argmax(x.flatten()[:2])].shape[0]", 0, False),
        ("try:\n    out[k] = x.view(3, 5)\nexcept RuntimeError:\n    out[k] = y", 0, False),
        ("try:\n    out[k] = torch.linalg.cholesky(0 * x) + x\nexcept RuntimeError:\n    out[k] = y", 0, True),
    ],
)
def test_what_the_program_saw(box: Sandbox, body: str, reads: int, data: bool) -> None:
    trace = trace_of(box, program(body))
    assert (trace.reads, trace.reads_data) == (reads, data)


def test_shared_memory_of_inputs_is_seen() -> None:
    whole = torch.zeros(12)
    tied = {"a": whole[:8].view(2, 4), "b": whole[8:], "c": whole[6:7], "d": torch.zeros(2)}
    assert memory_roots([tied, {"a": torch.zeros(8), "b": whole[11:]}]) == (1, 2, 1, 4, 5, 2)


def test_writes_to_tied_inputs_are_kept(box: Sandbox) -> None:
    whole = torch.arange(8.0)
    vectors = [{"a": whole[:4], "b": whole[:4]}]
    source = "def merge_models(t):\n    t[0]['a'].mul_(2)\n    return {'a': t[0]['b'] * 1, 'b': t[0]['b'] * 1}"
    trace = trace_of(box, source, vectors)
    assert [r.op for r in trace.records] == ["mul_", "mul", "mul", "return"]


def test_incomplete_traces_are_marked_and_refused() -> None:
    vectors = two_sources()
    long = program("for i in range(10):\n    x = x + y\nout[k] = x")
    failed = program("try:\n    x.add_(torch.ones(7))\nexcept RuntimeError:\n    out[k] = x")
    with Sandbox(Limits(trace_operations=15)) as small:
        for source in (long, failed):
            outcome = small.run(source, vectors, seed=0)
            assert outcome.status is Status.OK
            assert not outcome.trace_complete
            with pytest.raises(SandboxError, match="incomplete"):
                Trace.of(outcome, vectors)


def test_a_stored_trace_is_the_same_trace(box: Sandbox) -> None:
    body = "out[k] = torch.stack([x, y])[..., ::1].to(torch.float64).sum(0).float() * float('inf') ** 0"
    trace = trace_of(box, program(body))
    again = Trace.from_bytes(trace.to_bytes())
    assert again == trace
    assert again.canonical_hash() == trace.canonical_hash()
    data = trace.to_bytes()
    for broken in (b"", data[:-1], data[:1] + b"\x63" + data[2:], b"\x92\x01\xc0"):
        with pytest.raises(SandboxError):
            Trace.from_bytes(broken)


def test_lines_are_kept_and_not_hashed(box: Sandbox) -> None:
    one = trace_of(box, program("out[k] = x + y"))
    two = trace_of(box, "\n\n\n" + program("out[k] = x + y"))
    lines = [[r.line for r in t.records[:-1]] for t in (one, two)]
    assert [b - a for a, b in zip(*lines, strict=True)] == [3, 3]
    assert one.canonical_hash() == two.canonical_hash()

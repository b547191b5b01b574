"""`replay`: the result again without the source, bit for bit, through the allow-list; refused where it would lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from selfdev_sandbox import Limits, OpRecord, Sandbox, SandboxError, Status, Trace
from selfdev_sandbox import replay as replay_trace
from selfdev_sandbox.protocol import Ref

from tests.sandbox.conftest import make_vectors

VALID = sorted((Path(__file__).parent / "payloads" / "valid").glob("*.py"))
DIFFERENCE = """
def merge_models(task_vectors):
    out = {}
    for k, v in task_vectors[0].items():
        v.view(-1)[1:] *= 3
        out[k] = v - task_vectors[1][k].clamp(-0.01, 0.01)
    return out
"""
READS = """
def merge_models(task_vectors):
    scale = sum(v.norm().item() for v in task_vectors[0].values())
    return {k: v / scale for k, v in task_vectors[1].items()}
"""

Vectors = list[dict[str, torch.Tensor]]


def traced(box: Sandbox, source: str, vectors: Vectors, seed: int = 5) -> tuple[Trace, dict[str, torch.Tensor]]:
    outcome = box.run(source, vectors, seed)
    assert outcome.status is Status.OK, outcome.error
    assert outcome.result is not None
    return Trace.of(outcome, vectors), outcome.result


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_honest_program_is_rebuilt(box: Sandbox, path: Path, dtype: torch.dtype) -> None:
    vectors = make_vectors(dtype)
    trace, result = traced(box, path.read_text(), vectors)
    stored = Trace.from_bytes(trace.to_bytes())
    assert_same(replay_trace(stored, vectors, seed=5, same_inputs=True), result)
    for vector, original in zip(vectors, make_vectors(dtype), strict=True):
        assert_same(vector, original)


def test_a_trace_without_reads_is_a_function(box: Sandbox) -> None:
    trace, _ = traced(box, DIFFERENCE, make_vectors())
    others = [{k: 7 * v.flip(0) for k, v in vector.items()} for vector in make_vectors()]
    assert_same(replay_trace(trace, others, seed=5), traced(box, DIFFERENCE, others)[1])


def test_a_trace_that_read_data_is_not(box: Sandbox) -> None:
    vectors = make_vectors()
    trace, result = traced(box, READS, vectors)
    with pytest.raises(SandboxError, match="read its inputs' values"):
        replay_trace(trace, vectors, seed=5)
    assert_same(replay_trace(trace, vectors, seed=5, same_inputs=True), result)


def test_results_have_their_own_memory(box: Sandbox) -> None:
    vectors = make_vectors()
    trace, _ = traced(box, "def merge_models(t):\n    return dict(t[0])", vectors)
    found = replay_trace(trace, vectors, seed=0)
    found["model.norm.weight"].zero_()
    assert_same(vectors[0], make_vectors()[0])


def test_other_inputs_are_refused(box: Sandbox) -> None:
    vectors = make_vectors()
    trace, _ = traced(box, DIFFERENCE, vectors)
    with pytest.raises(SandboxError, match="2 task vectors were given; the trace is of 3"):
        replay_trace(trace, vectors[:2], seed=0)
    with pytest.raises(SandboxError, match=r"task vector 0 .*model\.embed_tokens"):
        replay_trace(trace, make_vectors(torch.bfloat16), seed=0)
    shared = [vectors[0], vectors[0], vectors[2]]
    with pytest.raises(SandboxError, match="share memory"):
        replay_trace(trace, shared, seed=0)


@pytest.mark.parametrize("op", ["load", "numpy", "return", "read"])
def test_only_operations_of_the_allow_list_run(box: Sandbox, op: str) -> None:
    vectors = make_vectors()
    with pytest.raises(SandboxError, match=f"'{op}', which is not an operation"):
        replay_trace(with_first(traced(box, DIFFERENCE, vectors)[0], op, [Ref(1)]), vectors, seed=0)


def test_arguments_are_checked(box: Sandbox) -> None:
    vectors = make_vectors()
    trace, _ = traced(box, DIFFERENCE, vectors)
    with pytest.raises(SandboxError, match="line 3: TypeError: neg"):
        replay_trace(with_first(trace, "neg", ["text"]), vectors, seed=0)
    with pytest.raises(SandboxError, match="does not exist"):
        replay_trace(with_first(trace, "neg", [Ref(10_000)]), vectors, seed=0)


def with_first(trace: Trace, op: str, args: list[object]) -> Trace:
    """The trace with one more record in front."""
    number = max(handle for record in trace.records for handle in record.outputs) + 1
    return replace(trace, records=(OpRecord(op, args, {}, (number,), 3), *trace.records))


def test_budgets_hold(box: Sandbox) -> None:
    vectors = make_vectors()
    trace, _ = traced(box, DIFFERENCE, vectors)
    with pytest.raises(SandboxError, match="more than 3 tensor operations"):
        replay_trace(trace, vectors, seed=0, limits=Limits(operations=3))


def test_memory_is_given_back_on_the_way(box: Sandbox) -> None:
    """A hundred temporaries of one parameter need the memory of a few."""
    vectors = [{"w": torch.ones(64, 1024)}]
    source = "def merge_models(t):\n    x = t[0]['w']\n    for i in range(100):\n        x = x * 1\n    return {'w': x}"
    trace, result = traced(box, source, vectors)
    few = Limits(live_bytes=4 * 64 * 1024 * 4)
    assert_same(replay_trace(trace, vectors, seed=0, limits=few), result)


STEPS = [
    "{a} = {b} + 2 * {c}",
    "{a} = {b}.clone()",
    "{a} = {b}.detach()",
    "{a} = {b}.t()",
    "{a} = {b}.reshape(-1).view(4, 4)",
    "{a} = {b}.float()",
    "{a} = {b}.contiguous()",
    "{a} = torch.stack([{b}, {c}]).unbind(0)[1]",
    "{a} = {b}.chunk(2)[0].repeat(2, 1)",
    "{a} = {b} + 0.1 * torch.rand_like({c})",
    "{a} = {b} * {c}.sum().item()",
    "{a}.add_({b})",
    "{a}.mul_(0.5)",
    "{a}[0] = {b}[1]",
    "{a}[:, 1] += {b}[:, 2]",
    "{a}.t()[1].copy_({b}[0])",
    "{a}.view(-1)[::3] -= 1",
    "{a}[{b} > 0] = 0.25",
    "{a}.unbind(0)[2].neg_()",
    "{a} += torch.randn({b}.shape)",
    "torch.manual_seed(4)",
]
NAMES = st.sampled_from(["x", "y", "p", "q"])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(STEPS), NAMES, NAMES, NAMES), min_size=1, max_size=12), NAMES)
def test_random_programs_with_views_and_writes(box: Sandbox, steps: list[tuple[str, str, str, str]], out: str) -> None:
    """Whatever was dropped as dead code, the result is the same; more dead code changes nothing."""
    vectors = [{"w": torch.arange(16.0).view(4, 4) / (7 + i) - 1} for i in range(2)]
    start = ["x, y = [t['w'] for t in task_vectors]", "p, q = x.clone(), y"]
    lines = [step.format(a=a, b=b, c=c) for step, a, b, c in steps]
    more = ["d = p @ q", "d.add_(x)"]
    bodies = ["\n    ".join([*start, *lines, *dead, f"return {{'w': {out}}}"]) for dead in ([], more)]
    programs = ["import torch\ndef merge_models(task_vectors):\n    " + body for body in bodies]
    outcome, longer = (box.run(program, vectors, seed=3) for program in programs)
    if outcome.status is Status.OK:
        assert outcome.result is not None
        trace = Trace.of(outcome, vectors)
        assert_same(replay_trace(trace, vectors, seed=3, same_inputs=True), outcome.result)
        assert Trace.of(longer, vectors).canonical_hash() == trace.canonical_hash()
    assert outcome.status in (Status.OK, Status.EXCEPTION, Status.INVALID), outcome.error

"""Limits, missing layers, messages, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selfdev_sandbox import Limits, Sandbox, SandboxError, Status, isolation, protocol
from selfdev_sandbox.contract import Budgets
from selfdev_sandbox.rows import ROWS, Ended
from selfdev_sandbox.server import TensorServer
from selfdev_sandbox.session import Session

from tests.sandbox.conftest import make_vectors

HONEST = "def merge_models(t):\n    return {k: (t[0][k] + t[1][k]) / 2 for k in t[0]}"


def run(source: str, **limits: float) -> tuple[Status, str | None, int | None]:
    with Sandbox(Limits(**limits)) as box:  # type: ignore[arg-type]
        outcome = box.run(source, make_vectors(), seed=0)
    return outcome.status, outcome.error, outcome.line


@pytest.mark.parametrize(
    ("body", "limits", "status", "says"),
    [
        ("while True: pass", {"seconds": 0.5}, Status.TIMEOUT, "0.5 seconds"),
        (
            "x = list(t[0].values())[0]\n    while True: x = x + 1",
            {"operations": 50},
            Status.TIMEOUT,
            "50 tensor operations",
        ),
        ("import torch\n    return torch.zeros(2**20)", {"live_bytes": 1 << 20}, Status.MEMORY, "limit is 1 MiB"),
        ("return [0] * 10**8", {"child_memory_bytes": 32 << 20}, Status.MEMORY, "own process"),
        ("x = list(t[0].values())[0]\n    return x + x", {"moved_bytes": 100}, Status.TIMEOUT, "moved"),
        ("x = list(t[0].values())[0]\n    return x @ x.T", {"flops": 100}, Status.TIMEOUT, "floating-point"),
        ("return '" + "a" * 3000 + "'", {"source_chars": 2000}, Status.SYNTAX, "2000 are allowed"),
        ("return " + "+".join("1" * 200), {"source_depth": 60}, Status.SYNTAX, "nested"),
        ("return [" + "1, " * 900 + "]", {"source_nodes": 500}, Status.SYNTAX, "500 syntax nodes"),
    ],
    ids=["seconds", "operations", "live", "child", "moved", "flops", "chars", "depth", "nodes"],
)
def test_every_limit_stops_a_program(body: str, limits: dict[str, float], status: Status, says: str) -> None:
    got, error, _ = run(f"def merge_models(t):\n    {body}\n", **limits)
    assert got is status, error
    assert says in (error or "")


def test_deadline_is_kept_within_a_small_margin(box: Sandbox) -> None:
    with Sandbox(Limits(seconds=0.3)) as short:
        started = time.monotonic()
        assert short.run("def merge_models(t):\n    while True: pass", make_vectors(), 0).status is Status.TIMEOUT
        assert time.monotonic() - started < 1.3


@pytest.mark.parametrize(
    ("source", "status", "line", "says"),
    [
        ("import torch\ndef merge_models(t):\n    return torch.nosuch(1)", Status.UNSUPPORTED, 3, "torch.nosuch"),
        ("import numpy as np\ndef merge_models(t):\n    return t[0]", Status.UNSUPPORTED, 1, "numpy"),
        (
            "def merge_models(t):\n    x = t[0]['model.norm.weight']\n    return x.nosuch()",
            Status.UNSUPPORTED,
            3,
            "Tensor.nosuch",
        ),
        (
            "def merge_models(t):\n    x = t[0]['model.norm.weight']\n    y = x.view(3, 3)\n    return (y + 1).item()",
            Status.EXCEPTION,
            3,
            "shape '[3, 3]' is invalid",
        ),
        ("def merge_models(t):\n    return t[0]['nope']", Status.EXCEPTION, 2, "KeyError: 'nope'"),
        ("def merge_models(t):\n    return t[0].get('x').abs()", Status.EXCEPTION, 2, "'NoneType' object"),
        ("def merge_models(t):\n    retrun t", Status.SYNTAX, 2, "invalid syntax"),
        ("def merge_models(t):\n    return undefined_name", Status.EXCEPTION, 2, "undefined_name"),
        ("def merge_models(t):\n    _x = 1\n    return _y", Status.EXCEPTION, 3, "'_y'"),
        ("class A: pass\ndef merge_models(t):\n    return t[0]", Status.UNSUPPORTED, 1, "class"),
        (
            "import torch\ndef merge_models(t):\n    return torch.sum(t[0]['model.norm.weight'], nosuch=1)",
            Status.EXCEPTION,
            3,
            "nosuch",
        ),
        ("def merge_models(t):\n    return {k: v.long() for k, v in t[0].items()}", Status.INVALID, None, "dtype"),
    ],
)
def test_messages_name_what_is_wrong_and_where(
    box: Sandbox, source: str, status: Status, line: int | None, says: str
) -> None:
    outcome = box.run(source, make_vectors(), seed=0)
    assert (outcome.status, outcome.line) == (status, line), outcome.error
    assert says in (outcome.error or "")


@pytest.mark.parametrize("layer", ["landlock", "seccomp", "rlimits", "uid"])
def test_a_missing_layer_stops_the_start_unless_it_is_named(layer: str) -> None:
    with pytest.raises(SandboxError, match=layer), Sandbox(simulate_missing=frozenset({layer})):
        pass
    with Sandbox(allow_missing=frozenset({layer}), simulate_missing=frozenset({layer})) as box:
        assert box.level == f"no-{layer}"
        assert box.run(HONEST, make_vectors(), 0).status is Status.OK


def test_without_no_new_privs_the_kernel_takes_no_filter() -> None:
    with (
        pytest.raises(SandboxError, match="seccomp"),
        Sandbox(simulate_missing=frozenset({"no_new_privs"}), allow_missing=frozenset({"no_new_privs", "landlock"})),
    ):
        pass


def test_no_layers_at_all_is_called_language_only() -> None:
    gone = frozenset(isolation.LAYERS)
    with pytest.raises(SandboxError), Sandbox(simulate_missing=gone, allow_missing=frozenset({"landlock"})):
        pass
    with Sandbox(simulate_missing=gone, allow_missing=frozenset({"os"})) as box:
        assert box.level == "language-only"
        assert box.run("import os\ndef merge_models(t): return t[0]", make_vectors(), 0).status is Status.VIOLATION


def test_unknown_architecture_fails_closed() -> None:
    with pytest.raises(isolation.LayerMissing, match="riscv64"):
        isolation.bpf_program("riscv64")
    assert isolation.bpf_program("x86_64") != isolation.bpf_program("aarch64")


def test_unknown_layer_name_is_refused() -> None:
    with pytest.raises(SandboxError, match="firewall"):
        Sandbox(allow_missing=frozenset({"firewall"}))


def test_result_is_owned_and_in_order(box: Sandbox) -> None:
    vectors = make_vectors()
    source = "def merge_models(t):\n    return {k: t[0][k] for k in reversed(list(t[0]))}"
    outcome = box.run(source, vectors, 0)
    assert outcome.result is not None
    assert list(outcome.result) == list(vectors[0])
    outcome.result["model.norm.weight"].zero_()
    assert vectors[0]["model.norm.weight"].abs().sum() > 0


def test_trace_is_data_with_lines(box: Sandbox) -> None:
    source = (
        "def merge_models(t):\n    o = {}\n    for k in t[0]:\n        o[k] = 0.5 * t[0][k] + t[1][k]\n    return o"
    )
    outcome = box.run(source, make_vectors(), 0)
    names = list(make_vectors()[0])
    first, second, last = outcome.trace[0], outcome.trace[1], outcome.trace[-1]
    assert (first.op, first.inputs, first.args[1], first.line) == ("mul", (1,), 0.5, 4)
    assert (second.op, second.inputs) == ("add", (first.outputs[0], 1 + len(names)))
    assert last.op == "return"
    assert list(last.kwargs) == names
    assert last.kwargs[names[0]].i == second.outputs[0]
    assert outcome.operations == 2 * len(names)


def test_bad_inputs_are_refused(box: Sandbox) -> None:
    one, two = make_vectors()[:2]
    with pytest.raises(SandboxError, match="no task vectors"):
        box.run(HONEST, [], 0)
    with pytest.raises(SandboxError, match="other names"):
        box.run(HONEST, [one, {"x": torch.zeros(1)}], 0)
    with pytest.raises(SandboxError, match=r"model\.norm\.weight"):
        box.run(HONEST, [one, {**two, "model.norm.weight": torch.zeros(3)}], 0)
    with pytest.raises(SandboxError, match="closed"):
        Sandbox().run(HONEST, [one, two], 0)


def _children(pid: int) -> int:
    return sum(1 for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == pid)


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def test_warnings_of_other_threads_are_kept(box: Sandbox) -> None:
    """Only the thread that serves a program drops PyTorch's warnings, and only meanwhile."""
    noisy = "def merge_models(t):\n    t[0]['lm_head.weight'][:, :1].var(1)\n    return t[0]"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = threading.Event()

        def warn() -> None:
            while not done.is_set():
                warnings.warn("elsewhere", stacklevel=1)
                time.sleep(0.001)

        thread = threading.Thread(target=warn)
        thread.start()
        outcome = box.run(noisy, make_vectors(), 0)
        done.set()
        thread.join()
        warnings.warn("afterwards", stacklevel=1)
    assert outcome.status is Status.OK
    told = {str(w.message) for w in caught}
    assert told == {"elsewhere", "afterwards"}


def test_one_operation_that_cannot_end_in_time_is_not_started() -> None:
    source = "import torch\ndef merge_models(t):\n    x = torch.ones(6000, 6000)\n    return x @ x"
    with Sandbox(Limits(seconds=1.0, live_bytes=1 << 30, flops=1e15)) as box:
        outcome = box.run(source, make_vectors(), 0)
    assert outcome.status is Status.TIMEOUT
    assert "matmul would take longer" in (outcome.error or "")
    assert outcome.line == 4


def test_no_process_and_no_descriptor_is_left(box: Sandbox) -> None:
    vectors = make_vectors()
    spin = "def merge_models(t):\n    raise ValueError(1)"
    box.run(HONEST, vectors, 0)
    assert box._zygote is not None
    zygote = box._zygote.process.pid
    before = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{zygote}/fd")), threading.active_count()
    for i in range(30):
        box.run(HONEST if i % 2 else spin, vectors, 0)
    after = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{zygote}/fd")), threading.active_count()
    assert before == after
    assert _children(zygote) == 0


def test_zygote_dies_with_the_box_and_runs_in_threads() -> None:
    with Sandbox() as box:
        assert box._zygote is not None
        process = box._zygote.process
        found: list[Status] = []
        threads = [
            threading.Thread(target=lambda: found.append(box.run(HONEST, make_vectors(), 0).status)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [Status.OK] * 4
    assert process.poll() is not None
    assert box.level == "closed"


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    body=st.one_of(
        st.binary(max_size=60),
        st.builds(
            protocol.encode,
            st.recursive(
                st.none() | st.booleans() | st.integers(-5, 400) | st.text("crfsdxte", max_size=3) | st.floats(),
                lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from("kin"), inner, max_size=2),
                max_leaves=12,
            ),
        ),
    )
)
def test_malformed_frames_end_the_run_and_never_an_operation(body: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = TensorServer(Limits(), Budgets(1 << 20, 1 << 20, 1e6, 20_000), 0, torch.device("cpu"))
        start = protocol.Start("", "f", 0, [], [], 0, "cpu", 1, 1, 1)
        theirs.sendall(protocol.HEADER.pack(len(body)) + body)
        theirs.shutdown(socket.SHUT_WR)
        end = Session(ours, server, time.monotonic() + 5, Limits()).serve(start)
    assert isinstance(end, (Ended, protocol.Done))
    assert server.trace == []


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 5),
    st.floats(),
    st.sampled_from(["sum", "ij,jk->ik", "", "..."]),
    st.builds(protocol.Ref, st.integers(1, 9)),
    st.builds(protocol.Dtype, st.sampled_from(["float32", "int64", "bool", "complex64", "x"])),
    st.builds(protocol.Gen, st.integers(0, 3)),
)
_PARTS = st.one_of(_VALUES, st.builds(protocol.Slice, *[st.none() | st.integers(-5, 5)] * 3), st.just(protocol.Dots()))
_CALLS = st.builds(
    protocol.Call,
    st.integers(0, len(ROWS) + 2),
    st.integers(0, 30),
    st.integers(0, 9),
    st.booleans(),
    st.lists(_VALUES | st.lists(_PARTS, max_size=3), max_size=4),
    st.dictionaries(st.sampled_from(["dim", "dtype", "other", "generator", "nonsense"]), _VALUES, max_size=2),
    st.lists(st.integers(1, 12), max_size=2),
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls=st.lists(_CALLS, min_size=1, max_size=6))
def test_well_formed_nonsense_is_an_error_of_the_program_and_nothing_else(calls: list[protocol.Call]) -> None:
    """Arguments of every kind in every place: an answer or the end of the run, the inputs' bits kept, budgets kept."""
    budgets = Budgets(1 << 20, 1 << 24, 1e7, 20_000)
    server = TensorServer(Limits(), budgets, 0, torch.device("cpu"))
    given_tensors = [torch.arange(6.0).reshape(2, 3), torch.tensor([0, 1]), torch.tensor(True)]
    for i, tensor in enumerate(given_tensors):
        server.memory.add(i + 1, tensor.clone(), protected=True)
    inputs = list(server.memory.tensors.values())
    with contextlib.suppress(Ended):
        for call in calls:
            server.handle(protocol.decode_request(protocol.encode(call)))
    assert server.memory.live <= budgets.live
    assert all(torch.equal(a, b) for a, b in zip(inputs, given_tensors, strict=True))


_GOOD = protocol.encode(protocol.Call(1, 5, 1, False, [protocol.Ref(1), 2.0, [1, 2]], {"dtype": protocol.Dtype("x")}))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(place=st.integers(0, len(_GOOD) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_message_ends_the_run(place: int, byte: int, cut: bool) -> None:
    """One byte changed, or cut short: the session ends with a status, whatever the message became."""
    body = _GOOD[:place] if cut else _GOOD[:place] + bytes([byte]) + _GOOD[place + 1 :]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = TensorServer(Limits(), Budgets(1 << 20, 1 << 20, 1e6, 20_000), 0, torch.device("cpu"))
        theirs.sendall(protocol.HEADER.pack(len(body)) + body)
        theirs.shutdown(socket.SHUT_WR)
        start = protocol.Start("", "f", 0, [], [], 0, "cpu", 1, 1, 1)
        end = Session(ours, server, time.monotonic() + 5, Limits()).serve(start)
    assert isinstance(end, Ended)
    assert end.status in (Status.VIOLATION, Status.CRASH)
    assert not server.memory.tensors

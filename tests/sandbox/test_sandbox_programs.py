"""The shipped corpus: hostile programs end as their header says and break no rule, honest ones are bit-equal to plain
PyTorch; with every layer in turn switched off. The files are data: hostile ones are only ever read as text."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from selfdev_sandbox import Limits, Sandbox, Status, spawn
from selfdev_sandbox.corpus import Checker, header, programs
from selfdev_sandbox.selftest import LAYERS
from selfdev_sandbox.validate import checksums, same_bits

from tests.sandbox.conftest import make_vectors

PAYLOADS = Path(__file__).parent / "payloads"
HOSTILE, VALID = programs(PAYLOADS)
LITTLE = Limits(seconds=10.0, live_bytes=64 << 20, moved_bytes=2 << 30, flops=5e9, child_memory_bytes=64 << 20)
SHORT = 0.8
STATUSES = {status.value for status in Status}


def statuses(path: Path) -> list[str]:
    """What the header's `status:` field allows."""
    return re.split(r", *", header(path.read_text())["status"])


def endless(path: Path) -> bool:
    return bool({"timeout", "memory"} & set(statuses(path)))


@pytest.fixture(scope="module")
def checkers() -> Iterator[dict[bool, Checker]]:
    """By whether programs run until they are stopped: those get a short time limit."""
    with Sandbox(LITTLE) as tight, Sandbox(replace(LITTLE, seconds=SHORT)) as short:
        yield {False: Checker(tight, margin=5.0), True: Checker(short, margin=5.0)}


def test_the_corpus_is_there() -> None:
    assert len(HOSTILE) >= 60
    assert len(VALID) >= 30
    assert all(set(statuses(path)) <= STATUSES for path in HOSTILE)


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_hostile_program(checkers: dict[bool, Checker], path: Path) -> None:
    verdict = checkers[endless(path)].hostile(path)
    assert not verdict.broken, str(verdict)
    assert re.split(r"[ ,]", verdict.told)[0] in statuses(path), verdict.told


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_honest_program_is_bit_equal_to_pytorch(checkers: dict[bool, Checker], path: Path) -> None:
    verdict = checkers[False].valid(path)
    assert not verdict.broken, str(verdict)


def test_a_broken_rule_is_noticed(tmp_path: Path) -> None:
    """The judge is no rubber stamp: an accepted program that must not be, and one that differs from PyTorch."""
    (tmp_path / "valid").mkdir()
    bad, other = tmp_path / "bad.py", tmp_path / "valid" / "other.py"
    bad.write_text("# never: accepted\ndef merge_models(t):\n    return dict(t[0])\n")
    other.write_text(
        "import torch\ndef merge_models(t):\n    n = 1e-5 * len(repr(torch))\n"
        "    return {k: v + n for k, v in t[0].items()}\n"
    )
    with Sandbox(LITTLE) as box:
        checker = Checker(box)
        assert checker.hostile(bad).broken == ("it was accepted",)
        assert "is not what plain PyTorch gives" in checker.valid(other).broken[0]


# Every layer in turn switched off.

QUICK = [path for path in HOSTILE if not endless(path)]
FEW = [p for p in QUICK if header(p.read_text())["family"] in ("input and output", "introspection", "state")]

# A test build without the language layer: plain exec, all builtins, a `torch` with what torch leaks.
_PLAIN_BOOT = """
import builtins, sys, types
sys.path.extend(sys.argv[2:])
import ctypes, io, os, pickle, shutil, socket, subprocess, threading, signal, tempfile, pathlib
from selfdev_sandbox import guards, program, zygote
program.warm_up = lambda: None
program.compile_program = lambda source, limits: compile(source, "<program>", "exec")
guards.program_builtins = lambda: dict(vars(builtins))
torch = types.ModuleType("torch")
torch.__dict__.update({k: v for k, v in program._IMPORTER.modules["torch"].table.items()})
torch.os, torch.sys, torch.ctypes, torch.builtins, torch.subprocess = os, sys, ctypes, builtins, subprocess
torch.save = lambda value, path: open(path, "wb").write(b"x")
torch.load = lambda path: open(path, "rb").read()
sys.modules["torch"] = torch
zygote.main(int(sys.argv[1]))
"""
_HEAD = "import ctypes, os, signal, socket, subprocess, sys, threading\nP = '/tmp/selfdev-payload/canary'\n"
_TAIL = "\n    return dict(t[0])\n"
ATTEMPTS = {
    "write": "open(P, 'w').write('x')",
    "write_os": "os.open(P, os.O_CREAT | os.O_WRONLY)",
    "mkdir": "os.mkdir(P)",
    "rename": "os.rename('/tmp/selfdev-payload/dev_labels.bin', P)",
    "unlink": "os.unlink('/tmp/selfdev-payload/dev_labels.bin')",
    "symlink": "os.symlink('/etc/passwd', P)",
    "mkfifo": "os.mkfifo(P)",
    "truncate": "os.truncate('/tmp/selfdev-payload/dev_labels.bin', 0)",
    "read": "raise ValueError(open('/tmp/selfdev-payload/dev_labels.bin', 'rb').read())",
    "listdir": "raise ValueError('listed' + str(os.listdir('/tmp/selfdev-payload')))",
    "fork": "os.fork() or [0 for _ in iter(int, 1)]",
    "spawn": "os.posix_spawn('/bin/touch', ['touch', P], {})",
    "system": "os.system('touch ' + P)",
    "subprocess": "subprocess.run(['/bin/touch', P])",
    "exec": "os.execv('/bin/touch', ['touch', P])",
    "thread": "threading.Thread(target=lambda: open(P, 'w')).start()",
    "tcp": "socket.create_connection(('127.0.0.1', 9), 0.2)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "unix": "socket.socket(socket.AF_UNIX).bind(P)",
    "signal_parent": "os.kill(os.getppid(), signal.SIGKILL)",
    "signal_all": "os.kill(-1, signal.SIGTERM)",
    "ptrace": "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
    "libc": "ctypes.CDLL(None).creat(P.encode(), 511)",
    "memfd": "os.memfd_create('x')",
    "executable_memory": "__import__('mmap').mmap(-1, 4096, prot=7)",
}


@pytest.fixture(scope="module")
def plain_checker() -> Iterator[Checker]:
    """All operating-system layers, no language layer."""
    with Sandbox(replace(LITTLE, seconds=3.0)) as box:
        _without_language(box)
        yield Checker(box, margin=5.0)


def _without_language(box: Sandbox) -> None:
    assert box._zygote is not None
    box._zygote.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spawn, "_BOOT", _PLAIN_BOOT)
        box._zygote, box._second = spawn.Zygote(), spawn.Zygote()


@pytest.mark.parametrize("name", ATTEMPTS)
def test_without_the_language_layer_nothing_gets_out(plain_checker: Checker, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text(f"{_HEAD}def merge_models(t):\n    {ATTEMPTS[name]}{_TAIL}")
    verdict = plain_checker.hostile(path)
    assert not verdict.broken, str(verdict)
    assert name in ("thread", "libc") or not verdict.told.startswith("ok"), verdict.told
    assert not any(word in verdict.told for word in ("1234.5", "listed", "\\x"))


def test_without_the_language_layer_the_attempts_are_real(tmp_path: Path) -> None:
    """With no layer at all the first attempts do get out: the walls stop them, not their own mistakes."""
    gone = frozenset(LAYERS)
    path = tmp_path / "write.py"
    with Sandbox(LITTLE, allow_missing=frozenset({"os"}), simulate_missing=gone) as box:
        _without_language(box)
        checker = Checker(box, margin=5.0)
        for name in ("write", "mkdir", "system", "libc"):
            path.write_text(f"{_HEAD}def merge_models(t):\n    {ATTEMPTS[name]}{_TAIL}")
            assert "the file canary appeared" in checker.hostile(path).broken, name


def test_without_the_language_layer_the_corpus_leaves_nothing(plain_checker: Checker) -> None:
    for path in FEW:
        broken = [b for b in plain_checker.hostile(path).broken if b != "it was accepted"]
        assert not broken, f"{path.stem}: {broken}"


@pytest.mark.parametrize("layer", [*LAYERS, "os"])
def test_without_one_layer_the_corpus_leaves_nothing(layer: str) -> None:
    gone = frozenset(LAYERS) if layer in ("os", "no_new_privs") else frozenset({layer})
    with Sandbox(LITTLE, allow_missing=frozenset({"os"}), simulate_missing=gone) as box:
        checker = Checker(box, margin=5.0)
        for path in QUICK if layer == "os" else FEW[::5]:
            verdict = checker.hostile(path)
            assert not verdict.broken, str(verdict)


def test_hostile_runs_do_not_change_a_later_honest_one(checkers: dict[bool, Checker]) -> None:
    """The same seed gives the same bits after other programs, another seed gives others."""
    box = checkers[False].box
    honest = (PAYLOADS / "valid" / "default_generator.py").read_text()
    vectors = make_vectors()
    before = box.run(honest, vectors, seed=2).result
    for path in QUICK[:20]:
        box.run(path.read_text(), vectors, seed=2)
    after, other = box.run(honest, vectors, seed=2).result, box.run(honest, vectors, seed=3).result
    assert before is not None
    assert after is not None
    assert other is not None
    assert same_bits(before, after)
    assert not same_bits(before, other)


def test_checksums_see_every_change() -> None:
    """One bit, two exchanged elements, two exchanged tensors, another shape or dtype; equal bits give equal sums."""
    base = {"a": torch.arange(12, dtype=torch.float32).view(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}
    assert checksums(base) == checksums({n: t.clone() for n, t in base.items()})
    bit = base["a"].clone()
    bit.view(torch.int32)[1, 1] ^= 1
    swapped = base["a"].clone()
    swapped[0, 0], swapped[2, 3] = base["a"][2, 3], base["a"][0, 0]
    for other in (bit, swapped, base["a"].view(4, 3), base["a"].double(), -base["a"], torch.zeros(3, 4)):
        assert checksums({"a": other, "b": base["b"]}) != checksums(base)
    assert checksums({"b": base["b"], "a": base["a"]}) != checksums(base)
    long = torch.zeros((1 << 20) + 3)
    moved = long.clone()
    long[2], moved[(1 << 20) + 2] = 1.0, 1.0  # the same place in another chunk
    assert checksums({"a": long}) != checksums({"a": moved})


def test_the_last_lists_of_task_vectors_are_kept_and_forgotten() -> None:
    """Ids may come again for other tensors only once the earlier ones are gone; the box holds what it has checked."""
    source = "def merge_models(t):\n    return {k: v + 1 for k, v in t[0].items()}"
    with Sandbox() as box:
        for value in range(1, 20):
            outcome = box.run(source, [{"w": torch.full((3,), float(value))}], 0)
            assert outcome.result is not None
            assert outcome.result["w"].tolist() == [value + 1.0] * 3
        kept = torch.ones(2)
        reference = weakref.ref(kept)
        assert box.run(source, [{"w": kept}], 0).status is Status.OK
        del kept
        gc.collect()
        assert reference() is not None
        box.forget()
        gc.collect()
        assert reference() is None


def test_a_program_that_depends_on_addresses_is_nondeterministic(checkers: dict[bool, Checker]) -> None:
    """Which of two sets of objects comes first is luck: the same in one zygote, other in another."""
    source = (PAYLOADS / "address_lottery.py").read_text()
    box = checkers[False].box
    assert box.run(source, make_vectors(), seed=0).status is Status.OK
    verified = {box.run(source, make_vectors(), seed=0, verify=True).status for _ in range(2)}
    assert verified == {Status.NONDETERMINISTIC}


@pytest.mark.slow
def test_two_thousand_programs_leave_nothing_behind() -> None:
    """No growth in processes, descriptors and memory; an honest program gives the same bits before and after."""
    quick = [path.read_text() for path in [*QUICK, *VALID]]
    vectors = make_vectors()
    with Sandbox(LITTLE) as box:
        checker = Checker(box)
        for source in quick:
            box.run(source, vectors, seed=0)
        before = _census(box)
        for i in range(2000):
            box.run(quick[i % len(quick)], vectors, seed=i)
        after = _census(box)
        assert same_bits(checker.next, checker._honest())
    assert after["processes"] == before["processes"]
    assert after["descriptors"] == before["descriptors"]
    assert after["zygote descriptors"] == before["zygote descriptors"]
    assert after["shared memory"] == before["shared memory"]
    assert after["zygote memory"] < before["zygote memory"] + (4 << 20)
    assert after["tensors"] <= before["tensors"] + 10


def _census(box: Sandbox) -> dict[str, int]:
    import gc

    from selfdev_sandbox.corpus import _descendants

    gc.collect()
    assert box._zygote is not None
    zygote = Path(f"/proc/{box._zygote.process.pid}")
    resident = int((zygote / "statm").read_text().split()[1]) * 4096
    return {
        "processes": len(_descendants()),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "zygote descriptors": len(list((zygote / "fd").iterdir())),
        "shared memory": len(list(Path("/dev/shm").iterdir())),
        "zygote memory": resident,
        "tensors": sum(type(o) is torch.Tensor for o in gc.get_objects()),
    }

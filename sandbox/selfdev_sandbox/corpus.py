"""Run a directory of programs against the sandbox and judge it: `python -m selfdev_sandbox check DIR`.

`DIR/*.py` are hostile: text, run in the sandbox only. Whatever they end as is fine, as long as no rule is broken: no
file appears, no process is left, the inputs keep their bits, the answer comes in time, this process is as before, the
next program gets the same bits, and nothing of the header's `never:` line holds. `DIR/valid/*.py` are honest and
trusted: each is run by plain PyTorch in this process too, and the sandbox must give the same bits, in float32 and
bfloat16. Clauses of `never:` that no program can check (prose) are left out.

Programs name the path `/tmp/selfdev-payload`; it stands for a fresh directory per program, which holds `dev_labels.bin`
(16 float32 values 1234.5) and is writable to everybody.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from selfdev_sandbox.contract import RunResult, SandboxError, Status, printable
from selfdev_sandbox.supervisor import Sandbox
from selfdev_sandbox.validate import same_bits

SHAPES = {
    "model.embed_tokens.weight": (64, 32),
    "model.layers.0.self_attn.q_proj.weight": (32, 32),
    "model.layers.0.self_attn.q_proj.bias": (32,),
    "model.layers.1.mlp.up_proj.weight": (48, 32),
    "model.layers.2.mlp.down_proj.weight": (32, 48),
    "model.norm.weight": (32,),
    "lm_head.weight": (64, 32),
}
LITERAL = "/tmp/selfdev-payload"
LABEL = 1234.5
LABELS = struct.pack("<16f", *[LABEL] * 16)
HONEST_SECONDS = 30.0
NEXT = """
import torch
def merge_models(task_vectors):
    return {k: sum(tv[k] for tv in task_vectors) / len(task_vectors) + 1e-3 * torch.randn_like(v)
            for k, v in task_vectors[0].items()}
"""

Vectors = list[dict[str, torch.Tensor]]


def make_vectors(dtype: torch.dtype, sources: int = 4) -> Vectors:
    """Task vectors of 0.02 * normal values, the same on every call."""
    generator = torch.Generator().manual_seed(7)
    return [
        {name: (0.02 * torch.randn(shape, generator=generator)).to(dtype) for name, shape in SHAPES.items()}
        for _ in range(sources)
    ]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one program; `broken` names the rules it broke."""

    name: str
    told: str
    broken: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{'FAIL' if self.broken else 'pass'}  {self.name}: {'; '.join([self.told, *self.broken])}"


def header(source: str) -> dict[str, str]:
    """The `# field: value` lines at the top of a program."""
    fields = {}
    for line in source.splitlines():
        found = re.match(r"# ([a-z ]+): (.*)", line)
        if not line.startswith("#"):
            break
        if found:
            fields[found[1]] = found[2]
    return fields


def programs(directory: Path) -> tuple[list[Path], list[Path]]:
    """The hostile and the honest programs of a corpus.

    Raises:
        SandboxError: there are none.
    """
    hostile, valid = sorted(directory.glob("*.py")), sorted((directory / "valid").glob("*.py"))
    if not hostile and not valid:
        raise SandboxError(f"{directory} holds no programs (*.py, valid/*.py); name a corpus directory")
    return hostile, valid


class Checker:
    """Runs programs in one box and judges what they left behind."""

    def __init__(self, box: Sandbox, margin: float = 1.0) -> None:
        """`margin`: seconds that an answer may come after the time limit."""
        self.box, self.margin = box, margin
        _become_subreaper()
        self.next = self._honest(verify=True)  # which also starts what verifying needs

    def _honest(self, verify: bool = False) -> dict[str, torch.Tensor]:
        limits = replace(self.box.limits, seconds=HONEST_SECONDS)
        outcome = self.box.run(NEXT, make_vectors(torch.float32), seed=11, verify=verify, limits=limits)
        if outcome.result is None:
            raise SandboxError(f"an honest program ended as {outcome.status}: {outcome.error}")
        return outcome.result

    def hostile(self, path: Path) -> Verdict:
        """Run a hostile program and look for what it must not have done."""
        source = path.read_text(encoding="utf-8")
        vectors = make_vectors(torch.float32)
        before, children = _process_state(), _descendants()
        with _payload_directory() as place:
            started = time.monotonic()
            outcome = self.box.run(source.replace(LITERAL, str(place)), vectors, seed=3, verify=True)
            took = time.monotonic() - started
            broken = [*_files_changed(place), *_never(header(source).get("never", ""), outcome)]
        runs = 2 if outcome.operations and outcome.status in (Status.OK, Status.NONDETERMINISTIC) else 1
        if took > runs * self.box.limits.seconds + self.margin:
            broken.append(f"the answer took {took:.1f} s")
        broken += [f"process {pid} is left over" for pid in sorted(_descendants() - children)][:3]
        broken += [] if _untouched(vectors, torch.float32) else ["an input changed"]
        broken += [f"this process changed: {what}" for what, same in _compare(before, _process_state()) if not same]
        broken += _planted(outcome)
        if not same_bits(self.next, self._honest()):
            broken.append("the next program got other values")
        return Verdict(path.name, _told(outcome), tuple(broken))

    def valid(self, path: Path) -> Verdict:
        """Run an honest program in the box and by plain PyTorch."""
        source = path.read_text(encoding="utf-8")
        broken: list[str] = []
        told = ""
        limits = replace(self.box.limits, seconds=HONEST_SECONDS)
        for dtype in (torch.float32, torch.bfloat16):
            expected = _plain(source, make_vectors(dtype), seed=5)
            vectors = make_vectors(dtype)
            outcome = self.box.run(source, vectors, seed=5, verify=True, limits=limits)
            told = _told(outcome)
            if outcome.result is None:
                broken.append(f"{dtype}: not accepted: {told}")
            elif not isinstance(expected, dict):
                broken.append(f"{dtype}: plain PyTorch: {expected}")
            elif not same_bits(outcome.result, {name: expected[name] for name in outcome.result}):
                worst = next(n for n, v in outcome.result.items() if not torch.equal(v, expected[n]))
                broken.append(f"{dtype}: '{worst}' is not what plain PyTorch gives")
            if not _untouched(vectors, dtype):
                broken.append(f"{dtype}: an input changed")
        return Verdict(f"valid/{path.name}", told, tuple(broken))


def check(box: Sandbox, directory: Path) -> Iterator[Verdict]:
    """Judge every program of a corpus, one by one."""
    hostile, valid = programs(directory)
    checker = Checker(box)
    for path in hostile:
        yield checker.hostile(path)
    for path in valid:
        yield checker.valid(path)


def _told(outcome: RunResult) -> str:
    place = f", line {outcome.line}" if outcome.line else ""
    return f"{outcome.status}{place}" + (f" ({printable(outcome.error, 100)})" if outcome.error else "")


def _plain(source: str, vectors: Vectors, seed: int) -> Any:
    """The result of a trusted program by itself, or what it raised."""
    namespace: dict[str, Any] = {"__name__": "program"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            exec(compile(source, "<honest program>", "exec"), namespace)
            return namespace["merge_models"](vectors)
        except Exception as error:
            return f"{type(error).__name__}: {error}"


# What a program must not have done.


@contextmanager
def _payload_directory() -> Iterator[Path]:
    """A fresh directory with the planted labels, under $SELFDEV_PAYLOAD_DIR if that is set."""
    base = os.environ.get("SELFDEV_PAYLOAD_DIR")
    place = Path(tempfile.mkdtemp(prefix="selfdev-payload-", dir=base))
    try:
        place.chmod(0o777)  # only the sandbox is to keep the program out
        (place / "dev_labels.bin").write_bytes(LABELS)
        yield place
    finally:
        shutil.rmtree(place)


def _files_changed(place: Path) -> list[str]:
    found = sorted(p.name for p in place.iterdir())
    broken = [f"the file {name} appeared" for name in found if name != "dev_labels.bin"]
    if "dev_labels.bin" not in found or (place / "dev_labels.bin").read_bytes() != LABELS:
        broken.append("dev_labels.bin changed")
    return broken


def _never(text: str, outcome: RunResult) -> list[str]:
    """The clauses of a `never:` line that can be checked here; files are covered by the fresh directory."""
    broken = []
    for clause in (part.strip() for part in text.split(";")):
        if clause.startswith("accepted") and outcome.status is Status.OK:
            broken.append("it was accepted")
        if clause.startswith("the reported error contains"):
            words = [w for w in re.findall(r"'([^']*)'", clause) if w in (outcome.error or "")]
            broken += [f"the error contains '{word}'" for word in words]
    return broken


def _planted(outcome: RunResult) -> list[str]:
    values = (outcome.result or {}).values()
    return ["the result holds the planted labels"] if any(bool((v == LABEL).any()) for v in values) else []


def _untouched(vectors: Vectors, dtype: torch.dtype) -> bool:
    fresh = make_vectors(dtype)
    return len(vectors) == len(fresh) and all(same_bits(a, b) for a, b in zip(vectors, fresh, strict=True))


def _process_state() -> dict[str, Any]:
    """What a program could reach for in this process."""
    functional = torch.nn.functional
    return {
        "torch's functions": {n: id(v) for place in (torch, functional, torch.Tensor) for n, v in vars(place).items()},
        "torch's settings": (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()),
        "random numbers": torch.random.get_rng_state().numpy().tobytes(),
        "environment": dict(os.environ),
        "working directory": Path.cwd(),
        "open descriptors": len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0,
    }


def _compare(before: dict[str, Any], after: dict[str, Any]) -> Sequence[tuple[str, bool]]:
    return [(what, before[what] == after[what]) for what in before]


def _become_subreaper() -> None:
    """Have orphans of the zygote's children come to this process, where `_descendants` sees them (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def _descendants() -> set[int]:
    """Live processes below this one."""
    if sys.platform != "linux":
        return set()
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found: set[int] = set()
    level = {os.getpid()}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        found |= level
    return found

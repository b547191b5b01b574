"""What a program does, before it is evaluated: run on small probe task vectors, a digest of the results and tags.

    probe = Probe.like(task_vectors)
    with Sandbox() as box:
        mark = fingerprint(box, source, seed=0, probe=probe, limits=Limits(seconds=2))

Programs with the same digest gave the same bits on every probe. They can still differ on the real task vectors: where
a program asks for a shape or a size (`numel() > 10_000`), where it compares values with a constant that neither the
probe nor its outliers reach, or where a rule needs more elements than a probe has (the 2001st largest). The names are
the real ones, so rules by name show. Who cannot accept that remainder takes the digest as a filter and compares
`result_digest` of the real results, which is exact, before scores are reused.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selfdev_sandbox.contract import Limits, RunResult, SandboxError, Status
from selfdev_sandbox.trace import Trace
from selfdev_sandbox.trace_linear import linear_form

if TYPE_CHECKING:
    from selfdev_sandbox.supervisor import Sandbox

Vectors = list[dict[str, Tensor]]

LINEAR = "linear"
ORDER_DEPENDENT = "order-dependent"
SPARSE = "sparse"
NORM_PRESERVING = "norm-preserving"
DATA_DEPENDENT = "data-dependent"
RANDOM = "random"

_KEPT = 16  # sizes up to this stay as they are
_STEP = 8  # larger ones become 24, 32, 40, ... in their order
_SEED = 20_240_501
_ZEROS = 0.1  # share of zero elements from which a result is sparse
_PATTERNS = ("near-equal", "opposite", "zero", "outliers")
_CHANGING = frozenset([Status.TIMEOUT, Status.MEMORY, Status.CRASH])  # may end otherwise the next time


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What the probes showed."""

    digest: str | None
    """32 hexadecimal digits: the bits of all results; None if the plain probe did not end well, which says nothing
    about the real task vectors, or a run met a time or memory limit. Programs without a digest have no duplicates."""
    tags: frozenset[str]
    """Empty if the plain probe did not end well, or the digest was known; see `fingerprint` for their meaning."""
    outcomes: tuple[tuple[str, Status], ...]  # probe -> how the program ended on it
    seconds: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Small task vectors with the real parameters' names and numbers of dimensions, the same on every call."""

    plain: Vectors  # normal values, all sources independent
    mixed: Vectors  # parameter by parameter in turn: near-equal, opposite, one source zero, outliers up to 1000 times
    other: Vectors  # the same patterns, shifted by two parameters, in another dtype (bfloat16, or float32)
    rotated: Vectors  # plain with each source in the place of the next
    summed: Vectors  # plain + mixed

    @classmethod
    def from_parameters(
        cls,
        parameters: Mapping[str, Sequence[int]],
        count: int,
        dtype: torch.dtype = torch.float32,
        scales: Mapping[str, float] | None = None,
        device: str | torch.device = "cpu",
    ) -> Probe:
        """Build the probes.

        Args:
            parameters: name -> real shape. Sizes up to 16 are kept, larger ones become 24, 32, 40, ... in their order:
                equal stays equal, larger stays larger.
            count: number of sources.
            dtype: of the real task vectors.
            scales: name -> root mean square of the real values; 0.02 where not given.
        """
        if count < 1 or not parameters:
            raise SandboxError(f"a probe of {len(parameters)} parameters and {count} sources; at least one is needed")
        large = sorted({size for shape in parameters.values() for size in shape if size > _KEPT})
        small = {size: _KEPT + _STEP * (i + 1) for i, size in enumerate(large)}
        shapes = {name: tuple(small.get(size, size) for size in shape) for name, shape in parameters.items()}
        maker = _Maker(shapes, count, {name: (scales or {}).get(name, 0.02) for name in shapes})
        another = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
        plain = _cast(maker.plain(), dtype, device)
        mixed, other = _cast(maker.mixed(0), dtype, device), _cast(maker.mixed(2), another, device)
        summed = [{name: a[name] + b[name] for name in a} for a, b in zip(plain, mixed, strict=True)]
        return cls(plain, mixed, other, [*plain[1:], plain[0]], summed)

    @classmethod
    def like(cls, task_vectors: Sequence[Mapping[str, Tensor]]) -> Probe:
        """Probes for these task vectors, with their names, dtype, device and the size of their values."""
        first = next(iter(task_vectors[0].values()))
        scales = {}
        for name in task_vectors[0]:
            squares = [v[name].float().square().mean() for v in task_vectors if v[name].numel()]
            scales[name] = float(torch.stack(squares).mean().sqrt()) if squares else 0.0
        scales = {name: scale if 0 < scale < 1e30 else 0.02 for name, scale in scales.items()}
        shapes = {name: tuple(t.shape) for name, t in task_vectors[0].items()}
        return cls.from_parameters(shapes, len(task_vectors), first.dtype, scales, first.device)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Draws probe values, always in float32 on the CPU."""

    shapes: Mapping[str, tuple[int, ...]]
    count: int
    scales: Mapping[str, float]

    def plain(self) -> Vectors:
        generator = torch.Generator().manual_seed(_SEED)
        return [{n: self._normal(n, generator) for n in self.shapes} for _ in range(self.count)]

    def mixed(self, shift: int) -> Vectors:
        generator = torch.Generator().manual_seed(_SEED + 1 + shift)
        vectors: Vectors = [{} for _ in range(self.count)]
        for j, name in enumerate(self.shapes):
            made = self._pattern(name, _PATTERNS[(j + shift) % len(_PATTERNS)], j, generator)
            for vector, tensor in zip(vectors, made, strict=True):
                vector[name] = tensor
        return vectors

    def _normal(self, name: str, generator: torch.Generator) -> Tensor:
        return self.scales[name] * torch.randn(self.shapes[name], generator=generator)

    def _pattern(self, name: str, pattern: str, j: int, generator: torch.Generator) -> list[Tensor]:
        own = [self._normal(name, generator) for _ in range(self.count)]
        if pattern == "near-equal":
            return [own[0] + 1e-3 * x for x in own]
        if pattern == "opposite":
            return [(-1) ** i * (own[0] + 0.05 * x) for i, x in enumerate(own)]
        if pattern == "zero":
            return [torch.zeros_like(x) if i == j // len(_PATTERNS) % self.count else x for i, x in enumerate(own)]
        return [x * 10 ** torch.empty(x.shape).uniform_(-3, 3, generator=generator) for x in own]


def _cast(vectors: Vectors, dtype: torch.dtype, device: str | torch.device) -> Vectors:
    return [{name: t.to(device=device, dtype=dtype) for name, t in vector.items()} for vector in vectors]


def fingerprint(
    box: Sandbox,
    source: str,
    seed: int,
    probe: Probe,
    known: Container[str] = frozenset(),
    limits: Limits | None = None,
) -> Fingerprint:
    """Run a program on the probes: three times for the digest, up to three times more for the tags.

    A program that does not end well on the plain probe is not run on the others. `limits` are those of each run, in
    place of the box's. Digests are comparable for one probe, one seed and one machine: kernels round differently
    elsewhere. For a digest among `known` ones no tags are judged: they are those of the earlier program.

    Tags, all judged on the probes:
        linear: `linear_form` finds fixed coefficients of the sources.
        random: random numbers flow into the result (also from fixed seeds), or another seed gives other bits.
        data-dependent: how the sources are combined depends on their values: the program read one, or did not end
            well on the mixed probe, or its result for the sum of both probes is not the sum of its results beyond
            rounding (masks, norms, sorting, clamping; also an added constant). Not judged for a closed form.
        order-dependent: the sources in another order give another result, beyond rounding. Not judged for random
            programs, which give each place its own numbers.
        sparse: at least a tenth of the result's elements are zero, where no source has a zero.
        norm-preserving: the norm of each result is between the least and the largest norm of the parameter's sources,
            give or take 2 %, for independent, near-equal and opposite sources alike.
    """
    started = time.perf_counter()
    run = _Runner(box, source, limits)
    runs = {"plain": run(probe.plain, seed)}
    if runs["plain"].status is Status.OK:
        runs |= {"mixed": run(probe.mixed, seed), "other": run(probe.other, seed)}
    digest, tags = _digest(runs), frozenset[str]()
    if runs["plain"].status is Status.OK and (digest is None or digest not in known):
        tags = _tags(run, seed, probe, runs)
    outcomes = tuple((name, run.status) for name, run in runs.items())
    return Fingerprint(digest, tags, outcomes, time.perf_counter() - started)


def result_digest(result: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits of names, shapes, dtypes and bits; equal results, equal digests."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(result):
        tensor = result[name].detach().cpu().contiguous()
        digest.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs one program on one probe after another."""

    box: Sandbox
    source: str
    limits: Limits | None

    def __call__(self, vectors: Vectors, seed: int) -> RunResult:
        return self.box.run(self.source, vectors, seed, limits=self.limits)


def _digest(runs: Mapping[str, RunResult]) -> str | None:
    if runs["plain"].status is not Status.OK:
        return None
    judged = [runs[name] for name in ("plain", "mixed", "other")]
    if any(run.status in _CHANGING for run in judged):
        return None
    parts = [run.status.value if run.result is None else result_digest(run.result) for run in judged]
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()


def _tags(run: _Runner, seed: int, probe: Probe, runs: dict[str, RunResult]) -> frozenset[str]:
    plain = runs["plain"].result
    assert plain is not None
    trace = Trace.of(runs["plain"], probe.plain) if runs["plain"].trace_complete else None
    form = linear_form(trace) if trace is not None else None
    tags = set()
    if form is not None:
        tags.add(LINEAR)
        if any(len(set(c)) > 1 for c in form.coefficients.values()):
            tags.add(ORDER_DEPENDENT)
    if (trace is not None and trace.draws) or _seed_matters(run, seed, probe, runs):
        tags.add(RANDOM)
    if form is None:
        tags |= _behaviour(run, seed, probe, runs, trace, RANDOM in tags)
    if _zeros(plain) >= _ZEROS:
        tags.add(SPARSE)
    if _keeps_norms(probe, runs):
        tags.add(NORM_PRESERVING)
    return frozenset(tags)


def _seed_matters(run: _Runner, seed: int, probe: Probe, runs: dict[str, RunResult]) -> bool:
    """Python's `random` is seeded by the run too and leaves no trace; only programs that name it are run again."""
    if not re.search(r"\brandom\b", run.source):
        return False
    runs["reseeded"] = run(probe.plain, seed + 1)
    return not _same(runs["reseeded"].result, runs["plain"].result, exactly=True)


def _behaviour(
    run: _Runner,
    seed: int,
    probe: Probe,
    runs: dict[str, RunResult],
    trace: Trace | None,
    draws: bool,
) -> set[str]:
    """Tags of programs without a closed form."""
    plain, mixed = runs["plain"].result, runs["mixed"].result
    tags = set()
    if not draws:
        runs["rotated"] = run(probe.rotated, seed)
        if not _same(runs["rotated"].result, plain):
            tags.add(ORDER_DEPENDENT)
    if mixed is None or plain is None or (trace is not None and trace.reads_data):
        return tags | {DATA_DEPENDENT}
    runs["summed"] = run(probe.summed, seed)
    if not _same(runs["summed"].result, {name: plain[name] + mixed[name] for name in plain}):
        tags.add(DATA_DEPENDENT)
    return tags


def _same(a: Mapping[str, Tensor] | None, b: Mapping[str, Tensor] | None, exactly: bool = False) -> bool:
    """Equal up to rounding, parameter by parameter; a missing result equals nothing."""
    if a is None or b is None:
        return False
    return all(torch.equal(a[n], b[n]) if exactly else _close(a[n], b[n]) for n in a)


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 3e-2 if a.element_size() < 4 else 1e-4
    x, y = a.double(), b.double()
    return float((x - y).norm()) <= tolerance * float(torch.maximum(x.norm(), y.norm()))


def _zeros(result: Mapping[str, Tensor]) -> float:
    total = sum(t.numel() for t in result.values())
    return sum(int((t == 0).sum()) for t in result.values()) / max(1, total)


def _keeps_norms(probe: Probe, runs: Mapping[str, RunResult]) -> bool:
    plain, mixed = runs["plain"].result, runs["mixed"].result
    if plain is None or mixed is None:
        return False
    names = list(plain)
    judged = [n for j, n in enumerate(names) if _PATTERNS[j % len(_PATTERNS)] in ("near-equal", "opposite")]
    return all(_keeps_norm(plain[n], [v[n] for v in probe.plain]) for n in names) and all(
        _keeps_norm(mixed[n], [v[n] for v in probe.mixed]) for n in judged
    )


def _keeps_norm(result: Tensor, sources: Sequence[Tensor]) -> bool:
    norms = [float(s.double().norm()) for s in sources]
    return 0.98 * min(norms) <= float(result.double().norm()) <= 1.02 * max(norms)

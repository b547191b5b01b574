"""Apply one algorithm to one set of models: which way, how much memory, the merged weights.

    closed form       the rule is linear: one pass, a part of a tensor at a time, sums in float32
    tensor by tensor  the program runs once per group of parameters
    whole model       the program runs once on everything: all task vectors in memory

The last two give the bits that a search gives for the same models, seed and machine. The closed form rounds once, where
the program rounds each step; with `exact` it is not used. The program runs in the sandbox in any case.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from selfdev_sandbox import Limits, RunResult, Sandbox, SandboxError, Status
from selfdev_sandbox.validate import global_norm

from selfdev import preflight
from selfdev.apply.checkpoint import (
    DTYPE_NAMES,
    DTYPES,
    Checkpoint,
    MemorySink,
    MemoryTensors,
    Renamed,
    ShardWriter,
    Sink,
    Tensors,
    check_target,
)
from selfdev.apply.linear import LinearMerger
from selfdev.apply.memory import allocate, elements, resident_bytes
from selfdev.apply.study import Parameter, Study, closed_form, foreign, generous, stand_ins, stands_alone, study
from selfdev.config import GenerateConfig, ModelsConfig, RunConfig
from selfdev.errors import ModelError, StageError, UsageError
from selfdev.models import parameter_groups
from selfdev.task_vectors import in_scope

Path_ = Literal["closed form", "tensor by tensor", "whole model"]
Vectors = list[dict[str, torch.Tensor]]
Progress = Callable[[int, int], object]  # elements done, elements in all

GROUP = 1 << 26  # elements of the parameters that are run together, unless one alone has more
SECONDS = 24 * 3600.0  # of one run of the program
NORM_RATIO = Limits().norm_ratio
_PART = 1 << 18  # elements that are read or written at once beside the closed form
_COPY = 1 << 24  # bytes
_FORMS_KEPT = 16


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be merged."""

    algorithm: str  # Python text that defines merge_models(task_vectors)
    seed: str  # models: references, see `selfdev.models.resolve`
    sources: tuple[str, ...]
    scope: Literal["all", "mlp"] | tuple[str, ...] = "all"
    execution_seed: int = 0  # seeds the program's own random draws
    exact: bool = False  # run the program's own operations even where there is a closed form
    dtype: torch.dtype | None = None  # of task vectors and result; None: as the seed is stored
    allow_missing: tuple[str, ...] = ()  # layers of the sandbox that may be absent
    shard_bytes: int = 5 * 10**9


@dataclass(frozen=True, slots=True)
class Plan:
    """How it will be done."""

    way: Path_
    reason: str  # for people: why this way
    parameters: int  # that are merged
    elements: int  # of them, per model
    peak_bytes: int  # estimated memory of the process, the interpreter and its libraries included
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What was done."""

    way: Path_
    note: str | None  # where it was not done as planned
    result_hash: str | None  # of the merged task vector, as a search records it; None for the closed form
    files: tuple[str, ...]
    weight_bytes: int
    isolation: str
    coefficients: Mapping[str, tuple[float, ...]] | None = field(default=None, repr=False)


class Merge:
    """One merge: opened models, a sandbox, a plan. Use as a context manager.

    Raises:
        UsageError, ModelError: the algorithm or the models cannot be used.
        StageError: the sandbox cannot start.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self._stack = ExitStack()

    def __enter__(self) -> Merge:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        request = self.request
        check_algorithm(request.algorithm)
        warnings = _check_models(request)
        self._seed = self._stack.enter_context(Checkpoint(request.seed))
        self._sources = [self._stack.enter_context(Checkpoint(ref)) for ref in request.sources]
        groups = {n: g for n, g in parameter_groups(request.seed).items() if in_scope(n, request.scope)}
        if not groups:
            raise UsageError(f"scope {request.scope!r} matches none of the seed's parameters")
        self._aliases = {
            name: tuple(a for a in aliases if a in self._seed.entries) for name, (_, aliases) in groups.items()
        }
        self._tensors = [_renamed(opened, groups) for opened in (self._seed, *self._sources)]
        self.parameters = {
            name: Parameter(tuple(shape), request.dtype or DTYPES[self._seed.entries[self._aliases[name][0]].dtype])
            for name, (shape, _) in groups.items()
        }
        self._box = self._stack.enter_context(open_sandbox(request.allow_missing))
        self.study = study(self._box, request.algorithm, request.execution_seed, self.parameters, len(request.sources))
        self.plan = self._plan(warnings)

    def _plan(self, warnings: tuple[str, ...]) -> Plan:
        total = sum(elements(p.shape) for p in self.parameters.values())
        count, here = len(self._sources), resident_bytes()
        form = self.study.coefficients
        if form is not None and not self.request.exact:
            way: Path_ = "closed form"
            distinct = len(set(form.values()))
            reason = f"linear in the task vectors, {distinct} set{'s' * (distinct > 1)} of coefficients"
            peak = here + (len(self._sources) + 8) * 4 * _PART
        elif form is not None or self.study.obstacle is None:
            way, reason = "tensor by tensor", "each result depends on the task vectors of its own name only"
            costs = self._costs()
            peak = here + max(held_bytes(costs, self.parameters, names, count) for names in groups_of(self.parameters))
        else:
            way, reason = "whole model", self.study.obstacle
            peak = here + held_bytes(self.study, self.parameters, list(self.parameters), count)
        if way != "closed form":
            peak += (count + 6) * 4 * _PART
        return Plan(way, reason, len(self.parameters), total, peak, warnings)

    def _costs(self) -> Study:
        """Of a closed form whose program is run all the same nothing was measured: a copy and a few of the largest."""
        if self.study.coefficients is None:
            return self.study
        return Study(None, None, False, 0.0, 16.0, 8.0 * (2 + len(self._sources)))

    def alone(self) -> bool:
        """Whether the program can be given one parameter without the others."""
        if self.study.coefficients is None:
            return self.study.alone
        given = self.request.algorithm, self.request.execution_seed, self.parameters, len(self._sources)
        return stands_alone(self._box, *given)

    # Merging.

    def write(self, directory: Path, progress: Progress | None = None) -> Report:
        """Write the merged weights into an empty directory.

        Raises:
            StageError: the program failed, its result is not usable, or the disk is full.
        """
        writer = ShardWriter(directory, self._layout(), self.request.shard_bytes)
        try:
            self._copy_others(writer)
            way, note, digest = self._merge(writer, progress or (lambda done, total: None))
            writer.close()
        finally:
            writer.abandon()
        form = self.study.coefficients
        return Report(way, note, digest, tuple(writer.files), writer.total, self._box.level, form)

    def _merge(self, sink: Sink, progress: Progress) -> tuple[Path_, str | None, str | None]:
        if self.plan.way == "closed form":
            self._closed_form(sink, progress)
            return "closed form", None, None
        if self.plan.way == "tensor by tensor":
            try:
                return "tensor by tensor", None, self._run_groups(list(groups_of(self.parameters)), sink, progress)
            except _Entangled as found:
                note = f"begun tensor by tensor, but on these models {found}: the whole model at once"
                return "whole model", note, self._run_groups([list(self.parameters)], sink, progress)
        return "whole model", None, self._run_groups([list(self.parameters)], sink, progress)

    def _closed_form(self, sink: Sink, progress: Progress) -> None:
        assert self.study.coefficients is not None
        merger, done = LinearMerger(), 0
        seed, *sources = self._tensors
        for name, parameter in self.parameters.items():
            size = elements(parameter.shape)
            aliases = self._aliases[name]
            if not merger.merge(name, size, seed, sources, self.study.coefficients[name], sink, aliases):
                raise StageError(f"the merged {name} has NaN or infinite values; the merge is not usable")
            done += size
            progress(done, self.plan.elements)

    def _run_groups(self, groups: Sequence[Sequence[str]], sink: Sink, progress: Progress) -> str:
        """Run the program on each group; the digest of the whole merged task vector."""
        digest, done = hashlib.sha256(), 0
        norms: list[list[float]] = [[] for _ in range(len(self._sources) + 1)]
        for names in groups:
            vectors = self._task_vectors(names)
            for i, vector in enumerate(vectors):
                norms[i].append(global_norm(list(vector.values())))
            result = self._run(names, vectors, len(groups) > 1)
            del vectors
            norms[-1].append(global_norm(list(result.values())))
            for name in names:
                _hash_into(digest, name, result[name])
                self._add(name, result.pop(name), sink)
                done += elements(self.parameters[name].shape)
                progress(done, self.plan.elements)
        *given, made = [math.hypot(*parts) for parts in norms]
        if not math.isfinite(made) or made > NORM_RATIO * max(given):
            raise StageError(
                f"the norm of the merged task vector is {made:.4g}; at most {NORM_RATIO:g} times that of the longest "
                f"source ({max(given):.4g}) is allowed, as in a search"
            )
        return digest.hexdigest()

    def _run(self, names: Sequence[str], vectors: Vectors, in_parts: bool) -> dict[str, torch.Tensor]:
        given = self._among_stand_ins(names, vectors) if in_parts and not self.study.alone else vectors
        total = sum(elements(p.shape) for p in self.parameters.values())
        live = Limits().for_inputs(0, len(vectors) * total, 0).live  # what the program may use in a search
        outcome = self._box.run(
            self.request.algorithm, given, self.request.execution_seed, limits=generous(SECONDS, live)
        )
        self._box.forget()
        if outcome.result is None:
            raise StageError(failure(outcome))
        if in_parts:
            entangled = foreign(outcome, given, names)
            if entangled is not None:
                raise _Entangled(entangled)
        result = dict(outcome.result)
        return {name: result[name] for name in names}

    def _among_stand_ins(self, names: Sequence[str], vectors: Vectors) -> Vectors:
        """All parameters in their order: the real ones of the group, small ones for the rest."""
        others = stand_ins(self.parameters, len(vectors))
        wanted = set(names)
        return [
            {name: (real if name in wanted else small)[name] for name in self.parameters}
            for real, small in zip(vectors, others, strict=True)
        ]

    def _task_vectors(self, names: Sequence[str]) -> Vectors:
        seed, *sources = self._tensors
        return _differences({name: self.parameters[name] for name in names}, seed, sources, finite=True)

    def _add(self, name: str, merged: torch.Tensor, sink: Sink) -> None:
        """seed + merged, added in float32 and cast once, as evaluators do."""
        parameter, flat = self.parameters[name], merged.reshape(-1)
        for start, stop in _parts(flat.numel()):
            ours = self._tensors[0].part(name, start, stop).to(parameter.dtype).float()
            total = (ours + flat[start:stop].float()).to(parameter.dtype)
            if not bool(torch.isfinite(total).all()):
                raise StageError(f"the merged {name} has NaN or infinite values; the merge is not usable")
            for alias in self._aliases[name]:
                sink.put(alias, start, total)

    # What is not merged.

    def _layout(self) -> dict[str, tuple[str, tuple[int, ...], int]]:
        """Every tensor of the seed, the merged ones with their dtype."""
        layout = {}
        for name, entry in self._seed.entries.items():
            dtype, nbytes = entry.dtype, entry.nbytes
            if self.request.dtype is not None and entry.dtype in DTYPES:
                dtype = DTYPE_NAMES[self.request.dtype]
                nbytes = elements(entry.shape) * self.request.dtype.itemsize
            layout[name] = dtype, entry.shape, nbytes
        return layout

    def _copy_others(self, writer: ShardWriter) -> None:
        merged = {alias for aliases in self._aliases.values() for alias in aliases}
        for name, entry in self._seed.entries.items():
            if name in merged:
                continue
            if self.request.dtype is not None and entry.dtype in DTYPES:
                for start, stop in _parts(elements(entry.shape)):
                    writer.put(name, start, self._seed.part(name, start, stop))
                continue
            for start in range(0, entry.nbytes, _COPY):
                stop = min(entry.nbytes, start + _COPY)
                writer.put_bytes(name, start, self._seed.read(entry, start, stop))


class _Entangled(Exception):
    """On the real task vectors a result depends on another parameter."""


def groups_of(parameters: Mapping[str, Parameter]) -> Iterator[list[str]]:
    """Parameters that are run together: in order, cut where a group would become too large."""
    limit = max(GROUP, max(elements(p.shape) for p in parameters.values()))
    group: list[str] = []
    room = limit
    for name, parameter in parameters.items():
        size = elements(parameter.shape)
        if group and size > room:
            yield group
            group, room = [], limit
        group.append(name)
        room -= size
    yield group


def held_bytes(costs: Study, parameters: Mapping[str, Parameter], names: Sequence[str], count: int) -> int:
    """Memory of the task vectors of some parameters and of the program that is run on them."""
    sizes = {name: elements(parameters[name].shape) for name in names}
    width = max(parameters[name].dtype.itemsize for name in names)
    vectors = count * sum(size * parameters[name].dtype.itemsize for name, size in sizes.items())
    return vectors + costs.peak_bytes(sum(sizes.values()), max(sizes.values()), width)


def merge_in_memory(
    algorithm: str,
    seed: Mapping[str, torch.Tensor],
    sources: Sequence[Mapping[str, torch.Tensor]],
    *,
    execution_seed: int = 0,
    exact: bool = False,
    box: Sandbox | None = None,
    out: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Merge weights that are in memory, on the CPU: names, shapes and dtypes as the seed's.

    What is found out about an algorithm is kept, so the next merge of the same shapes with it is faster.

    Args:
        algorithm: Python text that defines `merge_models(task_vectors)`.
        seed: parameters by name.
        sources: the same parameters of models fine-tuned from it.
        execution_seed: of the program's own random draws.
        exact: do not use the closed form of a linear rule.
        box: an open sandbox, for several merges.
        out: tensors to write the result into: contiguous, like the seed's, sharing no memory with the inputs.

    Raises:
        UsageError: the algorithm defines no `merge_models`, or the models have different parameters.
        ValueError: `out` does not fit.
        StageError: the program failed, or its result is not usable.
    """
    check_algorithm(algorithm)
    if not sources or any(list(source) != list(seed) for source in sources):
        raise UsageError("sources must have the seed's parameters, in its order; at least one source is needed")
    for name, tensor in seed.items():
        if any(source[name].shape != tensor.shape for source in sources):
            shapes = ", ".join(str(list(source[name].shape)) for source in sources)
            raise UsageError(f"{name} is {list(tensor.shape)} in the seed and {shapes} in the sources; all must agree")
    if out is not None:
        check_target(out, seed)
    with ExitStack() as stack:
        opened = box or stack.enter_context(open_sandbox(()))
        parameters = {name: Parameter(tuple(t.shape), t.dtype) for name, t in seed.items()}
        form = None if exact else _known_form(opened, algorithm, execution_seed, parameters, len(sources))
        if form is not None:
            sink = MemorySink(seed, out)
            _linear_in_memory(form, seed, sources, sink)
            return sink.tensors
        vectors = _differences(parameters, MemoryTensors(seed), [MemoryTensors(source) for source in sources])
        outcome = opened.run(algorithm, vectors, execution_seed, limits=generous(SECONDS))
        opened.forget()
        if outcome.result is None:
            raise StageError(failure(outcome))
        result = outcome.result  # tensors of their own memory; where no other is given the seed is added in place
        sink = MemorySink(seed, {name: result[name] for name in seed} if out is None else out)
        for name, tensor in seed.items():
            flat, step = tensor.reshape(-1), result[name].reshape(-1)
            for start, stop in _parts(tensor.numel()):
                sink.put(name, start, flat[start:stop].float() + step[start:stop].float())
        return sink.tensors


def _differences(
    parameters: Mapping[str, Parameter], seed: Tensors, sources: Sequence[Tensors], finite: bool = False
) -> Vectors:
    """source - seed, subtracted in float32 and cast once, as `selfdev.task_vectors` does.

    Raises:
        ModelError: `finite` is asked for, and a difference is not.
    """
    vectors: Vectors = [allocate({name: (p.shape, p.dtype) for name, p in parameters.items()}) for _ in sources]
    for name, parameter in parameters.items():
        flats = [vector[name].view(-1) for vector in vectors]
        for start, stop in _parts(elements(parameter.shape)):
            ours = seed.part(name, start, stop).float()
            for flat, source in zip(flats, sources, strict=True):
                delta = source.part(name, start, stop).float() - ours
                if finite and not bool(torch.isfinite(delta).all()):
                    raise ModelError(f"a source minus the seed is not finite in {name}; one of them is damaged")
                flat[start:stop].copy_(delta)
    return vectors


_Form = Mapping[str, tuple[float, ...]] | None
_FORMS: dict[tuple[object, ...], _Form] = {}  # the last few that were looked for


def _known_form(
    box: Sandbox, algorithm: str, seed: int, parameters: Mapping[str, Parameter], count: int
) -> Mapping[str, tuple[float, ...]] | None:
    key = (algorithm, seed, tuple(parameters.items()), count)
    form = _FORMS.pop(key) if key in _FORMS else closed_form(box, algorithm, seed, parameters, count)
    _FORMS[key] = form
    while len(_FORMS) > _FORMS_KEPT:
        del _FORMS[next(iter(_FORMS))]
    return form


def _linear_in_memory(
    form: Mapping[str, tuple[float, ...]],
    seed: Mapping[str, torch.Tensor],
    sources: Sequence[Mapping[str, torch.Tensor]],
    sink: MemorySink,
) -> None:
    merger = LinearMerger()
    ours, theirs = MemoryTensors(seed), [MemoryTensors(source) for source in sources]
    for name, tensor in seed.items():
        if not merger.merge(name, tensor.numel(), ours, theirs, form[name], sink):
            raise StageError(f"the merged {name} has NaN or infinite values; the merge is not usable")


def check_algorithm(text: str) -> None:
    """Check that a text is Python that defines `merge_models`.

    Raises:
        UsageError: it is not.
    """
    try:
        code = compile(text, "<algorithm>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UsageError(f"the algorithm is not Python{where}: {error.args[0]}") from None
    if "merge_models" not in code.co_names:
        raise UsageError("the algorithm defines no function merge_models(task_vectors)")


def failure(outcome: RunResult) -> str:
    """What a program did wrong, in a line."""
    if outcome.status is Status.MEMORY:
        return f"the algorithm needs more memory than a search gives it: {outcome.error}"
    line = f", line {outcome.line}" if outcome.line else ""
    return f"the algorithm ended as '{outcome.status}'{line}: {outcome.error}"


@contextmanager
def open_sandbox(allow_missing: Sequence[str]) -> Iterator[Sandbox]:
    """The sandbox that algorithms run in.

    Raises:
        StageError: one of its layers is missing.
    """
    try:
        with Sandbox(generous(SECONDS), "cpu", frozenset(allow_missing)) as box:
            yield box
    except SandboxError as error:
        raise StageError(f"sandbox: {error}") from error


def set_dtype(directory: Path, dtype: torch.dtype) -> None:
    """Write the dtype of the weights into a copied config.json."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _check_models(request: Request) -> tuple[str, ...]:
    """Every finding about the models, before anything is read for long."""
    if len(set(request.sources)) != len(request.sources):
        raise UsageError("--sources names one model twice; each source counts once")
    models = ModelsConfig(seed=request.seed, sources=request.sources, scope=request.scope)
    config = RunConfig(models=models, generate=GenerateConfig(model=request.seed))
    return tuple(map(str, preflight.check(config)))


def _renamed(opened: Checkpoint, groups: Mapping[str, tuple[torch.Size, tuple[str, ...]]]) -> Tensors:
    stored = {}
    for name, (shape, aliases) in groups.items():
        alias = next((a for a in aliases if a in opened.entries), None)
        if alias is None:
            raise ModelError(f"model {opened.ref!r}: its weights lack {name}, which its configuration asks for")
        if opened.entries[alias].shape != tuple(shape) or opened.entries[alias].dtype not in DTYPES:
            raise ModelError(f"model {opened.ref!r}: {name} has another shape or is quantised; leave the model out")
        stored[name] = alias
    return Renamed(opened, stored)


def _parts(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _PART):
        yield start, min(count, start + _PART)


def _hash_into(digest: hashlib._Hash, name: str, tensor: torch.Tensor) -> None:
    """As `selfdev.compute.local.result_hash`, one parameter at a time."""
    digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    flat = tensor.contiguous().reshape(-1)
    for start, stop in _parts(flat.numel()):
        digest.update((flat[start:stop] + 0.0).view(torch.uint8).numpy().data)

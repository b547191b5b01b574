"""What an algorithm is like, found out on small stand-ins for the task vectors: can it run tensor by tensor?

A program runs tensor by tensor when each result depends only on the task vectors' tensors of the same name. It is then
run once per group of parameters. All of this must hold, else it sees the whole model at once:

1. The trace: what a result is made of holds no operation on another parameter's tensors. Checked on the stand-ins, and
   again in every run of a group, with the real values.
2. Constants and random draws: a result keeps its operations and its bits when all other parameters are gone, names too.
   The values of the stand-ins are drastic and differ from
   parameter to parameter (nearly equal sources, opposite ones, one zero, outliers), so that whatever a program learns
   from all of them is not what it learns from one. Programs that read no values (`.item()`, `if x > 0`) are tried on
   both halves of the parameters, those that do on single ones.
3. Programs that look at names ("layer 3 of 32") do not pass that. For them other values and other shapes take the place
   of other parameters, in several ways, and a result must keep its expression (constants, and states of random
   generators, included) and its bits; a group is then run among stand-ins for all others.

What remains: a program that reads another parameter's values or sizes and turns at a threshold that no stand-in
crosses. The closed form, which needs no program any more, is used only for programs that read no value and never decide
by a size.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from selfdev_sandbox import Limits, RunResult, Sandbox, linear_form
from selfdev_sandbox.trace import Trace, memory_roots
from selfdev_sandbox.trace_flow import Flow

from selfdev.apply.memory import elements

Vectors = list[dict[str, torch.Tensor]]

_SEED = 71_413
_SCALE = 0.02  # of values; task vectors are about as large
_KEPT = 16  # sizes up to this stay as they are
_LARGE = 1 << 18  # elements of the one large stand-in that shows what an element costs
_SECONDS = 300.0  # of one run on stand-ins
_RANDOM_HALVES = 3
_SINGLES = 64  # parameters tried alone, at most
_MEASURED = 8  # parameters whose growth shows what an element costs
_MIXED = ("plain", "near-equal", "opposite", "outliers", "zero")
_PATTERNS = (*_MIXED, "tiny", "huge")
_USUAL_BYTES = 96.0  # per element: three sources, eight float32 copies of each
_SLACK = 1.25  # temporary memory inside operations (sorting copies) is not counted by the sandbox
_SIZES = frozenset({"shape", "size", "numel", "nelement", "nbytes", "element_size", "itemsize", "stride"})
_READ_SIZES = frozenset({"len", "sum", "max", "min", "sorted", "int", "float", "list", "tuple", "map", "zip", "prod"})
UNLIMITED = 10**15


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter that is merged."""

    shape: tuple[int, ...]
    dtype: torch.dtype  # of its task vectors


Parameters = Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Study:
    """What the stand-ins showed."""

    coefficients: Mapping[str, tuple[float, ...]] | None  # by parameter, one per source: the rule is linear
    obstacle: str | None  # why the program must see the whole model; None: tensor by tensor
    alone: bool  # parameters can be given alone; False: among stand-ins for all others
    fixed: float  # bytes beyond the inputs that a run takes however small the tensors are
    spread: float  # bytes beyond the inputs per element of one source, all parameters growing alike
    single: float  # bytes beyond the inputs per element of one parameter that outgrows all others

    def peak_bytes(self, total: int, largest: int, itemsize: int) -> int:
        """What a run needs beyond its inputs.

        Args:
            total: elements of one source.
            largest: elements of its largest parameter.
            itemsize: bytes of an element of the result.
        """
        grown = max(self.spread * total, self.single * largest + itemsize * (total - largest))
        return math.ceil(_SLACK * (self.fixed + grown))


def study(box: Sandbox, source: str, seed: int, parameters: Parameters, count: int) -> Study:
    """Find out how a program can be applied: it runs on stand-ins for these parameters and `count` sources."""
    run = _Runner(box, source, seed, parameters, count)
    base = run(stand_ins(parameters, count, patterns=_MIXED))
    if base.result is None:
        base = run(stand_ins(parameters, count))
    if base.result is None:
        return Study(None, f"on small tensors it ends as {base.ended}", False, 0.0, _USUAL_BYTES, _USUAL_BYTES)
    if not base.outcome.trace_complete:
        return Study(None, "it has too many operations to follow", False, *_costs(run, list(parameters)))
    trace = Trace.of(base.outcome, base.vectors)
    coefficients = _closed_form(run, trace, source)
    if coefficients is not None:
        return Study(coefficients, None, False, 0.0, 0.0, 0.0)
    obstacle = foreign(base.outcome, base.vectors, list(parameters))
    if obstacle is not None:
        return Study(None, obstacle, False, *_costs(run, list(parameters)))
    if _alone(run, base, trace.reads > 0):
        names = sorted(parameters, key=lambda name: -elements(parameters[name].shape))[:_MEASURED]
        return Study(None, None, True, *_costs(run, names))
    return Study(None, _perturbed(run, base, trace.reads > 0), False, *_costs(run, list(parameters)))


def closed_form(
    box: Sandbox, source: str, seed: int, parameters: Parameters, count: int
) -> Mapping[str, tuple[float, ...]] | None:
    """The coefficients of a program that is linear, see `Study.coefficients`; None for all others."""
    first = dict(list(parameters.items())[:2])
    for some in (first, parameters):  # most programs that are not linear show it on two parameters
        run = _Runner(box, source, seed, some, count)
        base = run(stand_ins(some, count))
        if base.result is not None and base.outcome.trace_complete:
            found = _closed_form(run, Trace.of(base.outcome, base.vectors), source)
            if found is None or some is parameters:
                return found
    return None


def stands_alone(box: Sandbox, source: str, seed: int, parameters: Parameters, count: int) -> bool:
    """Whether a program with a closed form can be given parameters without the others."""
    run = _Runner(box, source, seed, parameters, count)
    base = run(stand_ins(parameters, count))
    return base.result is not None and base.outcome.trace_complete and _alone(run, base, False)


def small_shapes(parameters: Parameters, first: int = 24, step: int = 8) -> dict[str, tuple[int, ...]]:
    """Shapes of stand-ins: sizes above 16 become 24, 32, 40, ... in their order; equal stays equal."""
    sizes = sorted({size for p in parameters.values() for size in p.shape if size > _KEPT})
    short = {size: first + step * i for i, size in enumerate(sizes)}
    return {name: tuple(short.get(size, size) for size in p.shape) for name, p in parameters.items()}


def stand_ins(
    parameters: Parameters,
    count: int,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    patterns: Sequence[str] = ("plain",),
) -> Vectors:
    """Small task vectors of every parameter, the same on every call; parameters take the patterns in turn."""
    shapes = shapes or small_shapes(parameters)
    vectors: Vectors = [{} for _ in range(count)]
    for place, (name, parameter) in enumerate(parameters.items()):
        made = _values(shapes[name], count, patterns[place % len(patterns)], place)
        for vector, values in zip(vectors, made, strict=True):
            vector[name] = values.to(parameter.dtype)
    return vectors


def foreign(outcome: RunResult, vectors: Sequence[Mapping[str, torch.Tensor]], names: Collection[str]) -> str | None:
    """The first of these parameters whose result is made of other parameters' tensors, in words; None: there is none.

    Args:
        outcome: of a run on `vectors`.
        vectors: with no memory shared between parameters.
        names: parameters to look at.
    """
    if not outcome.trace_complete:
        return "it has too many operations to follow"
    flow, records = _flow(outcome, vectors), outcome.trace[:-1]
    order = list(vectors[0])
    owner = {1 + i * len(order) + j: name for i in range(len(vectors)) for j, name in enumerate(order)}
    for name in names:
        handle = outcome.trace[-1].kwargs[name].i
        touched = {handle, flow.root[handle]}
        for position in flow.live([handle]):
            touched.update(records[position].inputs)
            touched.update(flow.root[h] for h in records[position].inputs)
        other = next((owner[h] for h in sorted(touched) if h in owner and owner[h] != name), None)
        if other is not None:
            return f"its result for {name} depends on {other}"
    return None


def generous(seconds: float, live_bytes: int = UNLIMITED) -> Limits:
    """Limits for programs that a person chose to run: their traces are kept whole."""
    return Limits(
        seconds=seconds,
        live_bytes=live_bytes,
        moved_bytes=UNLIMITED,
        operations=2_000_000,
        flops=1e18,
        trace_operations=2_000_000,
        norm_ratio=1e30,
    )


def ignores_sizes(source: str) -> bool:
    """Whether a program surely does not decide by sizes: it may pass whole shapes on (`zeros(x.shape)`), no more."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in _SIZES:
            return False
        if isinstance(node, ast.Attribute) and node.attr in _SIZES and not _passed_on(node, parents):
            return False
    return True


def _passed_on(node: ast.Attribute, parents: Mapping[ast.AST, ast.AST]) -> bool:
    if node.attr not in ("shape", "size"):
        return False
    whole: ast.AST = node
    above = parents.get(node)
    if node.attr == "size":
        if not (isinstance(above, ast.Call) and above.func is node and not above.args and not above.keywords):
            return False
        whole, above = above, parents.get(above)
    if isinstance(above, (ast.Starred, ast.keyword)):
        above = parents.get(above)
    if not isinstance(above, ast.Call) or above.func is whole:
        return False
    called = above.func
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "len")) not in _READ_SIZES


@dataclass(frozen=True, slots=True)
class _Run:
    """One run on stand-ins."""

    vectors: Vectors
    outcome: RunResult

    @property
    def result(self) -> Mapping[str, torch.Tensor] | None:
        """None if it did not end well."""
        return self.outcome.result

    @property
    def ended(self) -> str:
        """How it ended, for people."""
        line = f", line {self.outcome.line}" if self.outcome.line else ""
        return f"{self.outcome.status}{line}: {self.outcome.error}"

    def expressions(self) -> dict[str, bytes]:
        """What each result is: a digest of operations, constants, inputs and states of random generators."""
        flow = _flow(self.outcome, self.vectors)
        return {name: flow.value(ref.i) for name, ref in self.outcome.trace[-1].kwargs.items()}


@dataclass(frozen=True, slots=True)
class _Runner:
    box: Sandbox
    source: str
    seed: int
    parameters: Parameters
    count: int

    def __call__(self, vectors: Vectors) -> _Run:
        outcome = self.box.run(self.source, vectors, self.seed, limits=generous(_SECONDS))
        self.box.forget()
        return _Run(vectors, outcome)

    def with_others(self, base: _Run, kept: Collection[str], patterns: Sequence[str]) -> Vectors:
        """The base's tensors for `kept`, other values and shapes for all others; one of those is large."""
        shapes = small_shapes(self.parameters, first=40, step=16) | _grown(self.parameters)
        vectors: Vectors = [{} for _ in range(self.count)]
        for place, (name, parameter) in enumerate(self.parameters.items()):
            if name in kept:
                made = [vector[name] for vector in base.vectors]
            else:
                made = _values(shapes[name], self.count, patterns[place % len(patterns)], 1_000_003 + place)
            for vector, values in zip(vectors, made, strict=True):
                vector[name] = values.to(parameter.dtype)
        return vectors


def _flow(outcome: RunResult, vectors: Sequence[Mapping[str, torch.Tensor]]) -> Flow:
    flow = Flow(memory_roots(vectors))
    for record in outcome.trace[:-1]:
        flow.add(record)
    return flow


def _grown(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    """The largest parameter with a shape of many elements."""
    name = max(parameters, key=lambda n: elements(parameters[n].shape))
    dims = len(parameters[name].shape)
    return {name: (round(_LARGE ** (1 / max(1, dims))),) * dims}


def _closed_form(run: _Runner, trace: Trace, source: str) -> Mapping[str, tuple[float, ...]] | None:
    """Coefficients that hold for every size: the same on two sets of shapes, of a program that asks for none."""
    form = linear_form(trace)
    if form is None or not ignores_sizes(source):
        return None
    again = run(stand_ins(run.parameters, run.count, small_shapes(run.parameters, first=40, step=16)))
    if again.result is None:
        return None
    other = linear_form(Trace.of(again.outcome, again.vectors))
    return form.coefficients if other is not None and other.coefficients == form.coefficients else None


def _alone(run: _Runner, base: _Run, reads: bool) -> bool:
    """Whether parameters that are given without the others have the results that they have among them."""
    wanted = _flow(base.outcome, base.vectors)
    assert base.result is not None
    names = list(run.parameters)
    for kept in [[name] for name in _of_each_kind(names)] if reads else [names[::2], names[1::2]]:
        if not kept or len(kept) == len(names):
            continue
        alone = run([{name: vector[name] for name in kept} for vector in base.vectors])
        if alone.result is None or any(not torch.equal(alone.result[n], base.result[n]) for n in kept):
            return False
        if not _same_operations(alone, base, kept, wanted):
            return False
    return True


def _same_operations(alone: _Run, base: _Run, kept: Sequence[str], wanted: Flow) -> bool:
    """Whether results are made by the same operations; inputs have other numbers there, so digests do not compare."""
    flow = _flow(alone.outcome, alone.vectors)
    for name in kept:
        mine = flow.live([alone.outcome.trace[-1].kwargs[name].i])
        theirs = wanted.live([base.outcome.trace[-1].kwargs[name].i])
        if [alone.outcome.trace[i].op for i in mine] != [base.outcome.trace[i].op for i in theirs]:
            return False
    return True


def _of_each_kind(names: Sequence[str]) -> list[str]:
    """Parameters that differ in more than their numbers, of the first two, the middle and the last layer."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    picked = {k[place] for k in kinds.values() for place in {0, min(1, len(k) - 1), len(k) // 2, len(k) - 1}}
    return [name for name in names if name in picked][:_SINGLES]


def _perturbed(run: _Runner, base: _Run, thorough: bool) -> str | None:
    """Put something else in place of half of the parameters, in several ways; None if all others' results stay."""
    expressions = base.expressions()
    for turn, kept in enumerate(_halves(list(run.parameters), thorough)):
        patterns = _PATTERNS[turn % len(_PATTERNS) :] + _PATTERNS[: turn % len(_PATTERNS)]
        for tried in (patterns, ("near-equal", "plain"), ("plain",)):  # degenerate values may make a program fail
            changed = run(run.with_others(base, kept, tried))
            if changed.result is not None:
                break
        else:
            return f"with other values elsewhere it ends as {changed.ended}"
        obstacle = _changed(base, changed, kept, expressions)
        if obstacle is not None:
            return obstacle
    return None


def _halves(names: Sequence[str], thorough: bool) -> Iterator[frozenset[str]]:
    """Every second parameter and the rest; thorough: random halves too, each with its complement."""
    generator = torch.Generator().manual_seed(_SEED)
    sides = [torch.arange(len(names)) % 2]
    if thorough:
        sides += [torch.randperm(len(names), generator=generator) % 2 for _ in range(_RANDOM_HALVES)]
    for side in sides:
        for wanted in (0, 1):
            kept = frozenset(name for name, place in zip(names, side.tolist(), strict=True) if place == wanted)
            if kept:
                yield kept


def _changed(base: _Run, other: _Run, kept: Collection[str], expressions: Mapping[str, bytes]) -> str | None:
    """The first kept parameter whose result is not what it was, in words."""
    after = other.expressions()
    assert base.result is not None
    assert other.result is not None
    for name in (n for n in base.vectors[0] if n in kept):
        if expressions[name] != after[name] or not torch.equal(base.result[name], other.result[name]):
            return f"its result for {name} changes when other parameters do"
    return None


def _costs(run: _Runner, names: Sequence[str]) -> tuple[float, float, float]:
    """`Study.fixed`, `spread` and `single`, from runs on stand-ins of three sizes; where those fail, usual ones."""
    some = {name: run.parameters[name] for name in names}
    base = run(stand_ins(some, run.count))
    count, peak, slopes = _size(base.vectors), base.outcome.peak_bytes, []
    for shapes in (small_shapes(some, first=64, step=24), small_shapes(some) | _grown(some)):
        grown = run(stand_ins(some, run.count, shapes))
        more = _size(grown.vectors) - count
        known = base.result is not None and grown.result is not None and more > 0
        slopes.append(max(0.0, (grown.outcome.peak_bytes - peak) / more) if known else _USUAL_BYTES)
    return float(peak), slopes[0], slopes[1]


def _size(vectors: Vectors) -> int:
    return sum(tensor.numel() for tensor in vectors[0].values())


def _values(shape: Sequence[int], count: int, pattern: str, stream: int) -> list[torch.Tensor]:
    """Values of one parameter in every source, in float32."""
    generator = torch.Generator().manual_seed(_SEED + stream)
    own = [_SCALE * torch.randn(tuple(shape), generator=generator) for _ in range(count)]
    if pattern == "near-equal":
        return [own[0] + 1e-3 * x for x in own]
    if pattern == "opposite":
        return [(-1) ** i * (own[0] + 0.05 * x) for i, x in enumerate(own)]
    if pattern == "outliers":
        return [x * 10 ** torch.empty(x.shape).uniform_(-3, 3, generator=generator) for x in own]
    if pattern == "zero":
        return [torch.zeros_like(x) if i == stream % count and count > 1 else x for i, x in enumerate(own)]
    factor = {"plain": 1.0, "tiny": 1e-4, "huge": 1e3}[pattern]
    return [factor * x for x in own]

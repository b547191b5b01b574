"""How values flow through a trace: who made a tensor, who wrote to its memory, what depends on the inputs' values.

One pass forward. Handles that look into one storage share a root; its state changes with each write, and a handle's
value is its path of views applied to that state. Values are digests of the expression that computes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from selfdev_sandbox.allowlist import OPS, Op
from selfdev_sandbox.contract import OpRecord, SandboxError
from selfdev_sandbox.protocol import Gen, Ref

ROW_NUMBER: dict[str, int] = {op.name: n for n, op in reversed(list(enumerate(OPS)))}
"""Row of the allow-list by name. Of the two forms of `reshape` and `ravel` the method, which takes what both take."""

SYNONYMS = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctanh": "atanh",
    "arctan2": "atan2",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "true_divide": "div",
    "fix": "trunc",
    "ger": "outer",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "subtract": "sub",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "linalg.matmul": "matmul",
    "nn.functional.relu": "relu",
    "nn.functional.sigmoid": "sigmoid",
    "nn.functional.softmax": "softmax",
    "nn.functional.tanh": "tanh",
}
"""Names that PyTorch gives to one operation."""

UNCHANGED = frozenset(["to", "detach", "contiguous", "positive", "conj_physical", "type_as"])
"""Give their input itself wherever they share its memory."""

_SHAPE_ONLY = frozenset(
    [
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "new_zeros",
        "new_ones",
        "new_empty",
        "new_full",
        "new_tensor",
        "rand_like",
        "randn_like",
        "randint_like",
    ]
)
_VALUES_DECIDE_SHAPE = frozenset(
    [
        "nonzero",
        "argwhere",
        "unique",
        "unique_consecutive",
        "masked_select",
        "bincount",
        "repeat_interleave",
        "nn.functional.one_hot",
        "linalg.lstsq",
    ]
)
_SHAPES_DECIDE_ERROR = frozenset(
    ["reshape", "view", "stack", "cat", "add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_"]
)
_INTEGER = frozenset(
    ["argmax", "argmin", "argsort", "arange", "randperm", "nonzero", "argwhere", "searchsorted", "bucketize", "tensor"]
)
_INTEGER_SECOND = frozenset(
    ["topk", "sort", "max", "min", "kthvalue", "median", "nanmedian", "mode", "cummax", "cummin"]
)


def digest(*parts: Any) -> bytes:
    """16 bytes that stand for nested lists of plain values; 1, 1.0 and True differ."""
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=16).digest()


def canonical_name(name: str) -> str:
    """One name for all synonyms, in place or not."""
    stem = name.removesuffix("_")
    return SYNONYMS.get(stem, stem) + name[len(stem) :]


def bound(op: Op, record: OpRecord) -> dict[str, Any]:
    """Arguments by parameter name, however they were given; the rest (`view(2, 3)`) as one list."""
    named: dict[str, Any] = {}
    for i, value in enumerate(record.args):
        param = op.parameter(i)
        if param is None:
            raise SandboxError(f"the trace gives {len(record.args)} arguments to {op.name}; it takes fewer")
        if param.rest and not isinstance(value, list):
            named.setdefault(param.name, []).append(value)
        else:
            named[param.name] = value
    return named | dict(record.kwargs)


class Flow:
    """State of the pass. Records are added in order; positions below count them from 0.

    Args:
        roots: per input handle, the input whose memory it overlaps.
    """

    def __init__(self, roots: Sequence[int]) -> None:
        handles = range(1, len(roots) + 1)
        self.root = dict(zip(handles, roots, strict=True))
        self.path: dict[int, bytes] = {h: b"" if r == h else digest("tied", h) for h, r in self.root.items()}
        self.state: dict[int, bytes] = {h: digest("input", h) for h in set(roots)}  # by root
        self.tainted = set(roots)  # roots that depend on the inputs' values
        self.shaped: set[int] = set()  # roots whose shape depends on the inputs' values
        self.integers: set[int] = set()  # roots that hold integers for sure
        self.maker: dict[int, int] = {}  # handle -> position
        self.writer: dict[int, int] = {}  # root -> position
        self.generator: dict[int, bytes] = {}  # generator -> state
        self.drawer: dict[int, int] = {}  # generator -> position of what last changed it
        self.needs: list[set[int]] = []  # per position, positions it depends on
        self.draws: set[int] = set()  # positions that draw random numbers
        self.reads = 0
        self.reads_data = False

    def value(self, handle: int) -> bytes:
        """What a handle holds now."""
        state, path = self.state[self.root[handle]], self.path[handle]
        return digest(path, state) if path else state

    def add(self, record: OpRecord) -> None:
        """Follow one record."""
        if any(handle in self.root for handle in record.outputs) or not all(h in self.root for h in record.inputs):
            raise SandboxError(f"the trace is not consistent: {record.op} uses handles that it cannot have")
        self.needs.append(set(self._needed(record)))
        if record.op in ("read", "raised"):
            self._show(record)
            return
        op = OPS[ROW_NUMBER[record.op]]
        if op.name == "seed_generator":
            self._seed(record)
            return
        tainted = self._depends(record) and op.name not in _SHAPE_ONLY
        shaped = (tainted and self._values_decide_shape(record)) or self._depends(record, self.shaped)
        self.reads_data |= shaped and op.outputs == 0  # the program waits for the shapes of several results
        generator = _generator(record) if op.random else None
        if generator is not None:
            self._draw(record, generator)
        if op.writes:
            self._write(op, record, tainted, generator)
        else:
            self._make(op, record, tainted, generator)
            if shaped:
                self.shaped.update(self.root[handle] for handle in record.outputs)

    def live(self, handles: Sequence[int]) -> list[int]:
        """Positions that these handles depend on, in order."""
        todo = [i for handle in handles for i in self._sources(handle)]
        seen: set[int] = set()
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                todo.extend(self.needs[i])
        return sorted(seen)

    def _sources(self, handle: int) -> Iterator[int]:
        if handle in self.maker:
            yield self.maker[handle]
        if self.root[handle] in self.writer:
            yield self.writer[self.root[handle]]

    def _needed(self, record: OpRecord) -> Iterator[int]:
        for handle in record.inputs:
            yield from self._sources(handle)
        if record.op in ROW_NUMBER and OPS[ROW_NUMBER[record.op]].random:
            changed = self.drawer.get(_generator(record))
            if changed is not None:
                yield changed

    def _depends(self, record: OpRecord, roots: set[int] | None = None) -> bool:
        among = self.tainted if roots is None else roots
        return any(self.root[handle] in among for handle in record.inputs)

    def _show(self, record: OpRecord) -> None:
        """Something went to the program: a value, a shape, an error."""
        if record.op == "raised":
            op = OPS[ROW_NUMBER[record.args[0]]]
            by_shape = op.size == "view" or op.cost in ("matmul", "einsum") or op.name in _SHAPES_DECIDE_ERROR
            self.reads_data |= self._depends(record, self.shaped if by_shape and not op.indices else None)
            return
        meta = record.args[1] == "meta"
        self.reads += not meta
        self.reads_data |= self._depends(record, self.shaped if meta else None)

    def _values_decide_shape(self, record: OpRecord) -> bool:
        """Whether the shape of the result depends on values: masks as indices, and the like."""
        if record.op == "where":
            return len(record.args) + len(record.kwargs) == 1
        if record.op != "getitem":
            return record.op in _VALUES_DECIDE_SHAPE
        picked = [self.root[handle] for handle in record.inputs[1:]]
        return any(root in self.tainted and root not in self.integers for root in picked)

    def _seed(self, record: OpRecord) -> None:
        generator, seed = record.args
        self.generator[generator.i] = digest("seed", seed)
        self.drawer[generator.i] = len(self.needs) - 1

    def _draw(self, record: OpRecord, generator: int) -> None:
        self.draws.add(len(self.needs) - 1)
        self.drawer[generator] = len(self.needs) - 1

    def _write(self, op: Op, record: OpRecord, tainted: bool, generator: int | None) -> None:
        target = (record.args[0] if record.args else record.kwargs["input"]).i
        root = self.root[target]
        what = self._expression(op, record, generator)
        self.state[root] = digest("write", what, self.path[target], self.state[root])
        self.writer[root] = len(self.needs) - 1
        self.integers.discard(root)
        if tainted:
            self.tainted.add(root)

    def _make(self, op: Op, record: OpRecord, tainted: bool, generator: int | None) -> None:
        whole = self._expression(op, record, generator) if not all(record.shares) or not record.shares else b""
        for k, handle in enumerate(record.outputs):
            self.maker[handle] = len(self.needs) - 1
            base = record.shares[k] if record.shares else 0
            if base:
                self.root[handle] = self.root[base]
                self.path[handle] = self._view(op, record, base, k)
                continue
            self.root[handle], self.path[handle] = handle, b""
            self.state[handle] = digest(whole, k)
            if tainted:
                self.tainted.add(handle)
            if op.name in _INTEGER or (k and op.name in _INTEGER_SECOND):
                self.integers.add(handle)

    def _view(self, op: Op, record: OpRecord, base: int, k: int) -> bytes:
        if op.name in UNCHANGED:
            return self.path[base]
        name = "view" if op.name == "reshape" else canonical_name(op.name)
        arguments = [[n, self._plain(v, base=base)] for n, v in sorted(bound(op, record).items())]
        return digest("path", name, arguments, k, self.path[base])

    def _expression(self, op: Op, record: OpRecord, generator: int | None) -> bytes:
        """The operation with its arguments' values; moves the generator on."""
        arguments = [[name, self._plain(value)] for name, value in sorted(bound(op, record).items())]
        if generator is None:
            return digest(canonical_name(op.name), arguments)
        state = self.generator.get(generator, digest("generator", generator))
        made = digest(canonical_name(op.name), arguments, state)
        self.generator[generator] = digest("drawn", made)
        return made

    def _plain(self, value: Any, base: int = 0) -> Any:
        if type(value) is Ref:
            return ["base"] if value.i == base else ["value", self.value(value.i)]
        if type(value) is Gen:
            return ["generator"]
        if isinstance(value, (list, tuple)):
            return [self._plain(item, base) for item in value]
        return value


def _generator(record: OpRecord) -> int:
    """Number of the generator that a random operation draws from."""
    given = [v.i for v in (*record.args, *record.kwargs.values()) if type(v) is Gen]
    return given[0] if given else 0

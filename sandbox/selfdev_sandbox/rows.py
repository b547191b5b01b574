"""The allow-list as the server uses it: per row the PyTorch function and the types of values each parameter takes,
prepared once, and the check of a message's arguments against them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from selfdev_sandbox.allowlist import OPS, Op, Param
from selfdev_sandbox.contract import Status, printable
from selfdev_sandbox.measure import slowness
from selfdev_sandbox.memory import TensorMemory
from selfdev_sandbox.protocol import Call, Dots, Dtype, Gen, Ref, Slice
from selfdev_sandbox.rules import CREATES, FUNCTIONS, Randomness

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
NAME_OF = {dtype: name for name, dtype in DTYPES.items()}

_KINDS: dict[str, tuple[type, ...]] = {
    "t": (Ref,),
    "n": (int, float, bool),
    "i": (int,),
    "b": (bool, int),
    "l": (int, list),
    "L": (list,),
    "d": (Dtype,),
    "s": (str,),
    "T": (list, Ref),
    "g": (Gen,),
    "x": (list,),
}
_INNER: dict[str, tuple[type, ...]] = {
    "l": (int, list, bool),
    "L": (int, float, bool),
    "T": (Ref,),
    "x": (int, bool, type(None), Ref, Slice, Dots),
}
_KIND_NAMES: dict[type, str] = {
    Ref: "tensor",
    Dtype: "dtype",
    Gen: "generator",
    Slice: "slice",
    Dots: "'...'",
    str: "string",
}
_PLAIN = frozenset((int, float, bool, str))
_MAX_ITEMS = 128  # entries of a list of sizes, axes or index parts: PyTorch recurses over some of them
_LONG_LISTS = frozenset(("split_size_or_sections", "indices_or_sections"))
_LEAST = -(1 << 62)  # PyTorch negates some integers (`matrix_power` then never ends): none may overflow when negated


class Ended(Exception):
    """The program is over: a budget or a rule is broken."""

    def __init__(self, status: Status, message: str, line: int) -> None:
        super().__init__(message)
        self.status, self.message, self.line = status, message, line


class ArgumentError(TypeError):
    """An argument of a kind that the operation does not take."""


class Row:
    """One operation, ready to be run."""

    __slots__ = (
        "creates",
        "draws",
        "function",
        "linear",
        "many",
        "named",
        "op",
        "positions",
        "rest",
        "same",
        "slow",
        "types",
        "view",
    )

    def __init__(self, op: Op) -> None:
        self.op, self.function = op, _resolve(op)
        self.named = {p.name: p for p in op.params}
        self.rest = op.rest
        self.positions = () if op.rest else op.params
        self.types = [_types(p) for p in self.positions]
        self.view = op.size == "view" and not op.writes
        self.same = op.size == "same" and not op.writes and not op.fields and op.outputs == 1
        self.linear = op.cost == "linear"
        self.slow = slowness(op.name, op.cost)
        self.creates = op.name in CREATES
        self.draws = op.random or op.name == "seed_generator"
        self.many = op.rest or op.name in ("unbind", "split", "chunk", "tensor_split", "hsplit", "vsplit")


@functools.cache
def _types(param: Param) -> frozenset[type]:
    return frozenset(t for k in param.kinds for t in _KINDS[k])


def _resolve(op: Op) -> Callable[..., Any]:
    """The PyTorch function behind a row. Methods win: they take sizes one by one."""
    special = FUNCTIONS.get(op.name)
    if special is not None:
        return special
    *path, name = op.name.split(".")
    if path:
        place = torch.linalg if path == ["linalg"] else torch.nn.functional
        return getattr(place, name)  # type: ignore[no-any-return]
    if op.forms == "t" or not hasattr(torch.Tensor, name) or (hasattr(torch, name) and not op.rest):
        return getattr(torch, name)  # type: ignore[no-any-return]
    return getattr(torch.Tensor, name)  # type: ignore[no-any-return]


ROWS: tuple[Row, ...] = tuple(Row(op) for op in OPS)


class Arguments:
    """Turns a message's values into PyTorch's, if their kinds are allowed."""

    def __init__(self, memory: TensorMemory, random: Randomness) -> None:
        self.memory, self.random = memory, random

    def of(self, row: Row, call: Call) -> tuple[list[Any], dict[str, Any]]:
        """Positional and named arguments.

        Raises:
            ArgumentError: a kind that the operation does not take; the program's error.
            Ended: a tensor that does not exist.
        """
        values: list[Any] = call.args
        args, types = [], row.types
        if row.rest or len(values) > len(types):
            if len(values) > _MAX_ITEMS and any(p.rest and "l" in p.kinds for p in row.op.params):
                raise ArgumentError(f"takes at most {_MAX_ITEMS} sizes, not {len(values)}")
            args = [self._value(self._param(row, i, call), value, call.line) for i, value in enumerate(values)]
        else:
            tensors = self.memory.tensors
            for i, value in enumerate(values):
                kind = type(value)
                if kind in types[i]:  # the common cases, without a call
                    if kind is Ref:
                        tensor = tensors.get(value.i)
                        args.append(self.tensor(value.i, call.line) if tensor is None else tensor)
                        continue
                    if kind in _PLAIN and (kind is not int or value > _LEAST):
                        args.append(value)
                        continue
                args.append(self._value(row.positions[i], value, call.line))
        if not call.kwargs:
            return args, {}
        return args, {name: self._value(self._named(row, name), v, call.line) for name, v in call.kwargs.items()}

    def tensor(self, handle: int, line: int) -> torch.Tensor:
        """The tensor of a handle."""
        tensor = self.memory.tensors.get(handle)
        if tensor is None:
            raise Ended(Status.VIOLATION, "a tensor that does not exist was asked for", line)
        return tensor

    def _param(self, row: Row, position: int, call: Call) -> Param:
        param = row.op.parameter(position)
        if param is None:
            raise ArgumentError(f"takes {len(row.op.params)} arguments but {len(call.args)} were given")
        return param

    def _named(self, row: Row, name: str) -> Param:
        param = row.named.get(name)
        if param is None:
            raise ArgumentError(f"got an unexpected keyword argument '{printable(name, 40)}'")
        return param

    def _value(self, param: Param, value: Any, line: int) -> Any:
        kind = type(value)
        if value is not None and kind not in _types(param):
            raise ArgumentError(f"argument '{param.name}' cannot be a {_KIND_NAMES.get(kind, kind.__name__)}")
        if kind is Ref:
            return self.tensor(value.i, line)
        if kind is int and value <= _LEAST:
            raise ArgumentError(f"argument '{param.name}' is {value}, which is too small")
        if kind is Dtype:
            return _dtype(value)
        if kind is Gen:
            return self.random.generator(value.i)
        return self._list(param, value, line) if kind is list else value

    def _list(self, param: Param, value: list[Any], line: int) -> Any:
        allowed = next(_INNER[k] for k in param.kinds if k in _INNER)
        if len(value) > _MAX_ITEMS and param.kinds[0] in "lxi" and param.name not in _LONG_LISTS:
            raise ArgumentError(f"argument '{param.name}' holds {len(value)} entries; at most {_MAX_ITEMS} are taken")
        made = []
        for item in value:
            kind = type(item)
            if kind not in allowed:
                raise ArgumentError(f"argument '{param.name}' cannot hold a {_KIND_NAMES.get(kind, kind.__name__)}")
            if kind is list and not all(type(inner) is int for inner in item):
                raise ArgumentError(f"argument '{param.name}' must hold integers")
            if param.kinds != "Ln" and kind is int and item <= _LEAST:
                raise ArgumentError(f"argument '{param.name}' holds {item}, which is too small")
            made.append(self.tensor(item.i, line) if kind is Ref else _plain(item))
        return made


def _dtype(value: Dtype) -> torch.dtype:
    dtype = DTYPES.get(value.n)
    if dtype is None:
        raise ArgumentError(f"the dtype '{printable(value.n, 40)}' is not available")
    return dtype


def _plain(item: Any) -> Any:
    if type(item) is Slice:
        return slice(item.a, item.b, item.c)
    return Ellipsis if type(item) is Dots else item

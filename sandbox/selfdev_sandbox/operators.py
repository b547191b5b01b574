"""The methods and operators of `Tensor` that come straight from the allow-list, and the names a program may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selfdev_sandbox.allowlist import NUMBER, OPS
from selfdev_sandbox.guards import register
from selfdev_sandbox.values import DTYPE_ALIASES, DTYPES

Run = Callable[[int, Any, dict[str, Any]], Any]

_OPERATORS = {
    "__add__": "add",
    "__radd__": "add",
    "__sub__": "sub",
    "__mul__": "mul",
    "__rmul__": "mul",
    "__truediv__": "div",
    "__floordiv__": "floor_divide",
    "__mod__": "remainder",
    "__pow__": "pow",
    "__matmul__": "matmul",
    "__eq__": "eq",
    "__ne__": "ne",
    "__lt__": "lt",
    "__le__": "le",
    "__gt__": "gt",
    "__ge__": "ge",
    "__and__": "bitwise_and",
    "__or__": "bitwise_or",
    "__xor__": "bitwise_xor",
    "__rand__": "bitwise_and",
    "__ror__": "bitwise_or",
    "__rxor__": "bitwise_xor",
    "__rsub__": "rsub",
    "__lshift__": "bitwise_left_shift",
    "__rshift__": "bitwise_right_shift",
}
_REVERSED = {"__rtruediv__": "rdiv", "__rpow__": "rpow", "__rfloordiv__": "rfloordiv", "__rmod__": "rmod"}
_AUGMENTED = {
    "__iadd__": "add_",
    "__isub__": "sub_",
    "__imul__": "mul_",
    "__itruediv__": "div_",
    "__ifloordiv__": "floor_divide_",
    "__imod__": "remainder_",
    "__ipow__": "pow_",
    "__iand__": "bitwise_and_",
    "__ior__": "bitwise_or_",
    "__ixor__": "bitwise_xor_",
}
_UNARY = {"__neg__": "neg", "__abs__": "abs", "__invert__": "bitwise_not", "__pos__": "positive"}
_CASTS = {**DTYPE_ALIASES, "bfloat16": "bfloat16", "bool": "bool", "char": "int8", "byte": "uint8"}
_RESHAPED = ("unsqueeze", "squeeze", "transpose", "swapaxes", "swapdims", "t")  # in place: the handle changes its view
_ALIASES = {"nelement": "numel", "ndimension": "dim", "absolute_": "abs_"}


def equip(kind: type, run: Run) -> None:
    """Add to the tensor class what the table has and the class does not define itself.

    Args:
        kind: the class; handles to tensors are its instances.
        run: asks the server for an operation by number.
    """
    own = [name for name in vars(kind) if not name.startswith("_") and not name.startswith("known") and name != "ref"]
    table = {op.name: _method(n, run) for n, op in enumerate(OPS) if "m" in op.forms}
    made: dict[str, Any] = {name: method for name, method in table.items() if name not in own}
    for dunders, form in ((_OPERATORS, "t"), (_REVERSED, "o"), (_AUGMENTED, "m")):
        made |= {dunder: _operator(NUMBER[form, name], kind, run) for dunder, name in dunders.items()}
    made |= {dunder: _unary(NUMBER["t", name], run) for dunder, name in _UNARY.items()}
    made |= {f"{name}_": _reshaped(name) for name in _RESHAPED}
    made |= {name: _cast(dtype) for name, dtype in _CASTS.items()}
    for name, method in made.items():
        setattr(kind, name, method)
    for alias, name in _ALIASES.items():
        setattr(kind, alias, getattr(kind, name))
    register(kind, " ".join([*own, *_CASTS, "nelement ndimension index_put_", *(f"{n}_" for n in _RESHAPED), *table]))


def _method(number: int, run: Run) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return run(number, (self, *args), kwargs)

    return method


def _operator(number: int, kind: type, run: Run) -> Callable[[Any, Any], Any]:
    numbers = (int, float, bool)

    def method(self: Any, other: Any) -> Any:
        if type(other) is not kind and type(other) not in numbers:
            return NotImplemented
        return run(number, (self, other), {})

    return method


def _unary(number: int, run: Run) -> Callable[[Any], Any]:
    return lambda self: run(number, (self,), {})


def _reshaped(name: str) -> Callable[..., Any]:
    """`x.unsqueeze_(0)`: the object takes over the handle of `x.unsqueeze(0)`, a view of the same memory."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        view = getattr(self, name)(*args, **kwargs)
        self.ref, view.ref = view.ref, self.ref
        self.known_shape = view.known_shape
        return self

    return method


def _cast(dtype: str) -> Callable[[Any], Any]:
    return lambda self: self.to(DTYPES[dtype])

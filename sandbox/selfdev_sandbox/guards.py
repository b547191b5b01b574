"""What a running program can touch: attributes by exact type, items, iteration, built-in functions.

One choke point, `guarded_getattr`, serves `a.b`, `getattr`, `hasattr`. It looks the object's exact type up in a table;
a name that leads out ends the child at once (`violation`), a name that is merely missing raises `Missing`.
"""

from __future__ import annotations

import builtins
import collections
import operator
import re
import string
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from RestrictedPython.Guards import guarded_iter_unpack_sequence, guarded_unpack_sequence

from selfdev_sandbox.policy import FORBIDDEN_ATTRIBUTES


class Missing(AttributeError):
    """The program asked for something that is not offered; status `unsupported` if it is not caught."""


class Namespace:
    """A module stand-in: a table of names, no `__dict__`, no `__name__`."""

    __slots__ = ("label", "table")

    def __init__(self, label: str, table: dict[str, Any]) -> None:
        self.label, self.table = label, table

    def __repr__(self) -> str:
        return f"<module {self.label}>"


class Token:
    """A type that programs may name (annotations, `isinstance`) but not touch; `real` are the types it stands for."""

    __slots__ = ("call", "label", "real", "table")

    def __init__(
        self,
        label: str,
        real: tuple[type, ...] = (),
        call: Callable[..., Any] | None = None,
        table: dict[str, Any] | None = None,
    ) -> None:
        self.label, self.real, self.call, self.table = label, real, call, table or {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.call is None:
            raise Missing(f"{self.label} cannot be called")
        return self.call(*args, **kwargs)

    def __or__(self, other: object) -> Token:
        return self

    __ror__ = __or__

    def __repr__(self) -> str:
        return self.label


ATTRIBUTES: dict[type, frozenset[str]] = {}  # exact type -> names; `register` adds to it

_violation: Callable[[str], NoReturn]


def set_violation_handler(handler: Callable[[str], NoReturn]) -> None:
    """Install what ends the child; it must not return."""
    global _violation
    _violation = handler


def violation(message: str) -> NoReturn:
    """End the child: a guard was hit."""
    _violation(message)


def register(kind: type, names: str) -> None:
    """Allow attributes of a type."""
    ATTRIBUTES[kind] = ATTRIBUTES.get(kind, frozenset()) | frozenset(names.split())


_STR = (
    "capitalize casefold center count encode endswith expandtabs find format index isalnum isalpha isascii isdecimal"
    " isdigit isidentifier islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix"
    " removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title"
    " translate upper zfill"
)
_DICT = "clear copy fromkeys get items keys pop popitem setdefault update values"
_LIST = "append clear copy count extend index insert pop remove reverse sort"
_SET = (
    "add clear copy difference difference_update discard intersection intersection_update isdisjoint issubset"
    " issuperset pop remove symmetric_difference symmetric_difference_update union update"
)
for _kind, _names in (
    (str, _STR),
    (dict, _DICT),
    (list, _LIST),
    (set, _SET),
    (frozenset, _SET),
    (tuple, "count index"),
    (int, "bit_length bit_count real imag numerator denominator conjugate is_integer"),
    (bool, "bit_length real imag"),
    (float, "is_integer real imag conjugate as_integer_ratio hex"),
    (bytes, "decode"),
    (range, "start stop step count index"),
    (slice, "start stop step indices"),
    (collections.OrderedDict, _DICT + " move_to_end"),
    (collections.defaultdict, _DICT + " default_factory"),
    (collections.Counter, _DICT + " most_common elements total subtract"),
    (collections.deque, _LIST + " appendleft extendleft popleft rotate maxlen"),
    (re.Pattern, "match search fullmatch findall finditer split sub subn groups groupindex pattern flags"),
    (re.Match, "group groups groupdict start end span pos endpos lastindex lastgroup re string expand"),
):
    register(_kind, _names)

_TYPE_ATTRIBUTES = {dict: "fromkeys", str: _STR, list: _LIST, set: _SET, float: "fromhex is_integer", int: "bit_length"}


def guarded_getattr(obj: Any, name: Any) -> Any:
    """`obj.name` for the program."""
    kind = type(obj)
    allowed = ATTRIBUTES.get(kind)
    if allowed is not None and name in allowed:
        return _format_of(obj) if name == "format" and kind is str else getattr(obj, name)
    if type(name) is not str:
        raise TypeError("attribute name must be string")
    if name.startswith("_") or name in FORBIDDEN_ATTRIBUTES:
        violation(f"the attribute '{name}' is not available")
    if kind is Namespace or kind is Token:
        if name in obj.table:
            return obj.table[name]
        raise Missing(f"{obj.label}.{name} is not available here")
    if kind is type and name in _TYPE_ATTRIBUTES.get(obj, "").split():
        if name == "format":
            violation("str.format without a literal is not available")
        return getattr(obj, name)
    if isinstance(obj, BaseException) and name == "args":
        return obj.args
    if kind.__module__ == "builtins" and not hasattr(kind, name):
        raise AttributeError(f"'{_kind_name(obj)}' object has no attribute '{name}'")
    raise Missing(f"{_kind_name(obj)}.{name} is not available here")


def _kind_name(obj: Any) -> str:
    if isinstance(obj, Token):
        return obj.label
    return {"builtin_function_or_method": "function", "Tensor": "Tensor"}.get(type(obj).__name__, type(obj).__name__)


def _format_of(text: str) -> Callable[..., str]:
    """`str.format` without attribute or item access."""

    def safe_format(*args: Any, **kwargs: Any) -> str:
        for template in (text, *(spec for _, _, spec, _ in string.Formatter().parse(text) if spec)):
            for _, field, _, _ in string.Formatter().parse(template):
                if field and any(c in field for c in ".[_"):
                    violation("str.format with attribute or item access is not available")
        return text.format(*args, **kwargs)

    return safe_format


def program_getattr(obj: Any, name: Any, *default: Any) -> Any:
    """The builtin `getattr`."""
    if not default:
        return guarded_getattr(obj, name)
    try:
        return guarded_getattr(obj, name)
    except AttributeError:
        return default[0]


def program_hasattr(obj: Any, name: Any) -> bool:
    """The builtin `hasattr`."""
    try:
        guarded_getattr(obj, name)
    except AttributeError:
        return False
    return True


def guarded_getitem(obj: Any, key: Any) -> Any:
    """`obj[key]`; types and tokens give themselves (`dict[str, torch.Tensor]`)."""
    if type(obj) is Token or type(obj) is type:
        return Token("a generic type", (obj,) if isinstance(obj, type) else obj.real)
    return obj[key]


def item_of(obj: Any) -> Callable[[Any], Any]:
    """`obj.__getitem__`, as in `max(range(n), key=scores.__getitem__)`."""
    return lambda key: guarded_getitem(obj, key)


WRITABLE: set[type] = {
    dict,
    list,
    collections.OrderedDict,
    collections.defaultdict,
    collections.Counter,
    collections.deque,
}


def guarded_write(obj: Any) -> Any:
    """The target of `obj[key] = value` and `del obj[key]` (attributes are refused at compile time)."""
    if type(obj) not in WRITABLE:
        raise TypeError(f"'{_kind_name(obj)}' object does not support item assignment")
    return obj


_INPLACE: dict[str, Callable[[Any, Any], Any]] = {
    "+=": operator.iadd,
    "-=": operator.isub,
    "*=": operator.imul,
    "/=": operator.itruediv,
    "%=": operator.imod,
    "**=": operator.ipow,
    "<<=": operator.ilshift,
    ">>=": operator.irshift,
    "|=": operator.ior,
    "^=": operator.ixor,
    "&=": operator.iand,
    "//=": operator.ifloordiv,
    "@=": operator.imatmul,
}


def inplace(op: str, target: Any, value: Any) -> Any:
    """`name op value`."""
    return _INPLACE[op](target, value)


def augment(obj: Any, key: Any, op: str, value: Any) -> None:
    """`obj[key] op value`, with the object and the key evaluated once."""
    target = guarded_write(obj)
    target[key] = _INPLACE[op](target[key], value)


def apply(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call with stars."""
    return function(*args, **kwargs)


def _types_of(spec: Any) -> tuple[type, ...]:
    if isinstance(spec, tuple):
        return tuple(kind for item in spec for kind in _types_of(item))
    if isinstance(spec, Token):
        return spec.real
    if isinstance(spec, type):
        return (spec,)
    raise TypeError("isinstance() arg 2 must be a type or a tuple of types")


def program_isinstance(obj: Any, spec: Any) -> bool:
    """`isinstance` that understands tokens."""
    return isinstance(obj, _types_of(spec))


TYPE_TOKENS: dict[type, Token] = {}  # our own types, as `type(x)` shows them


_SHOWN = frozenset({bool, bytes, dict, float, frozenset, int, list, range, set, slice, str, tuple, type(None)})


def program_type(obj: Any) -> Any:
    """`type(x)`, one argument only; types that could build code or frames are shown as a token."""
    kind = type(obj)
    if kind in _SHOWN or (issubclass(kind, Exception) and kind.__module__ == "builtins"):
        return kind
    return TYPE_TOKENS.get(kind) or Token(kind.__name__)


def _quiet(*args: Any, **kwargs: Any) -> None:
    """`print`: there is nobody to read it."""


def program_next(iterator: Iterator[Any], *default: Any) -> Any:
    """The builtin `next`."""
    return next(iterator, *default)


def program_hash(value: Any) -> int:
    """`hash` of strings, numbers and tuples of them, the same in every run; other hashes are addresses."""
    plain = [value]
    for item in plain:
        if type(item) is tuple:
            plain.extend(item)
        elif type(item) not in (str, int, float, bool, bytes):
            raise TypeError(f"hash() of a {_kind_name(item)} is not available here; hash names or numbers")
    return hash(value)


def identity(value: Iterable[Any]) -> Iterable[Any]:
    """`_getiter_`: every object a program can hold may be iterated."""
    return value


_PLAIN = (
    "abs all any bin bool bytes chr complex dict divmod enumerate filter float format frozenset hex int iter len list"
    " map max min oct ord pow range repr reversed round set slice sorted str sum tuple zip callable NotImplemented"
)
_EXCEPTIONS = (
    "ArithmeticError AssertionError AttributeError DeprecationWarning EOFError Exception FloatingPointError IOError"
    " ImportError IndexError KeyError LookupError MemoryError ModuleNotFoundError NameError NotImplementedError OSError"
    " OverflowError RecursionError RuntimeError RuntimeWarning StopIteration SyntaxError TimeoutError TypeError"
    " UnboundLocalError UnicodeError UserWarning ValueError Warning ZeroDivisionError"
)


def program_builtins() -> dict[str, Any]:
    """The builtins of a program, fresh."""
    table: dict[str, Any] = {name: getattr(builtins, name) for name in (_PLAIN + " " + _EXCEPTIONS).split()}
    table |= {
        "getattr": program_getattr,
        "hasattr": program_hasattr,
        "isinstance": program_isinstance,
        "type": program_type,
        "next": program_next,
        "hash": program_hash,
        "u_name": "program",  # `__name__`
        "u_print": _quiet,
        "object": Token("object", (object,)),
        "True": True,
        "False": False,
        "None": None,
    }
    return table


def guard_hooks() -> dict[str, Any]:
    """The names that compiled programs call."""
    return {
        "_getattr_": guarded_getattr,
        "_getitem_": guarded_getitem,
        "_item_of_": item_of,
        "_getiter_": identity,
        "_write_": guarded_write,
        "_inplacevar_": inplace,
        "_aug_": augment,
        "_apply_": apply,
        "_unpack_sequence_": guarded_unpack_sequence,
        "_iter_unpack_sequence_": guarded_iter_unpack_sequence,
    }

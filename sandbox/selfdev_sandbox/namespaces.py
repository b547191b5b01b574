"""The modules a program can import: `torch` built from the allow-list, and subsets of a few pure standard modules.

All are `Namespace` objects (a table behind the attribute guard). The zygote builds them once; every child has its own
copy by the fork.
"""

from __future__ import annotations

import bisect
import collections
import copy
import functools
import heapq
import itertools
import math
import operator
import random
import re
import statistics
from collections.abc import Callable
from types import ModuleType
from typing import Any

from selfdev_sandbox import composed
from selfdev_sandbox.allowlist import NUMBER, OPS, Op
from selfdev_sandbox.client import Tensor, equal, run, tensor
from selfdev_sandbox.guards import TYPE_TOKENS, Missing, Namespace, Token, guarded_getitem, register
from selfdev_sandbox.values import DTYPE_ALIASES, DTYPES, Device, DType, Generator, Size, as_dtype
from selfdev_sandbox.wire import LinAlgError


class _NoGrad:
    """`torch.no_grad()` and its like: a context, a decorator with or without call; there are no gradients here."""

    __slots__ = ()

    def __call__(self, *args: Any, **_ignored: Any) -> Any:
        return args[0] if args and callable(args[0]) else self

    def __enter__(self) -> _NoGrad:
        return self

    def __exit__(self, *_error: object) -> None:
        return None


class Info:
    """`torch.finfo`, `torch.iinfo`."""

    __slots__ = ("bits", "dtype", "eps", "max", "min", "resolution", "smallest_normal", "tiny")

    def __init__(
        self, bits: int, largest: float, smallest: float, eps: float = 0, tiny: float = 0, name: str = ""
    ) -> None:
        self.bits, self.max, self.min, self.eps, self.tiny, self.smallest_normal = (
            bits,
            largest,
            smallest,
            eps,
            tiny,
            tiny,
        )
        self.dtype, self.resolution = name, 10.0 ** -math.floor(-math.log10(eps)) if eps else 0


register(Info, "bits dtype eps max min resolution smallest_normal tiny")

_FINFO = {
    "float64": (64, 1.7976931348623157e308, 2.220446049250313e-16, 2.2250738585072014e-308),
    "float32": (32, 3.4028234663852886e38, 1.1920928955078125e-07, 1.1754943508222875e-38),
    "float16": (16, 65504.0, 0.0009765625, 6.103515625e-05),
    "bfloat16": (16, 3.3895313892515355e38, 0.0078125, 1.1754943508222875e-38),
}


def _finfo(dtype: Any = DTYPES["float32"]) -> Info:
    known = as_dtype(dtype)
    if known is None or known.name not in _FINFO:
        raise TypeError("torch.finfo() takes a floating point dtype")
    bits, largest, eps, tiny = _FINFO[known.name]
    return Info(bits, largest, -largest, eps, tiny, known.name)


def _iinfo(dtype: Any) -> Info:
    known = as_dtype(dtype)
    if known is None or known.is_floating_point or known.name == "bool":
        raise TypeError("torch.iinfo() takes an integer dtype")
    bits, low = 8 * known.itemsize, 0 if known.name == "uint8" else -(1 << (8 * known.itemsize - 1))
    return Info(bits, (1 << (bits - (low != 0))) - 1, low, name=known.name)


def _function(number: int, op: Op) -> Callable[..., Any]:
    """A torch function; `out=` copies into the given tensor, `inplace=True` into the first argument."""

    def call(*args: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        if kwargs.get("inplace"):
            out = args[0] if args else kwargs["input"]
        result = run(number, args, kwargs)
        return out.copy_(result) if type(out) is Tensor and type(result) is Tensor else result

    return call


def _table(form: str) -> dict[str, Any]:
    return {op.name.rsplit(".", 1)[-1]: _function(n, op) for n, op in enumerate(OPS) if form in op.forms}


def _allclose(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> bool:
    return a.allclose(b, *args, **kwargs)


def _as_tensor(data: Any, dtype: Any = None, **_ignored: Any) -> Tensor:
    if type(data) is Tensor:
        return data if dtype is None else data.to(dtype)
    return tensor(data, dtype=dtype)


def _randint(low: Any, high: Any = None, size: Any = None, **kwargs: Any) -> Any:
    if size is None:
        low, high, size = 0, low, high
    return run(NUMBER["t", "randint"], (low, high, size), kwargs)


def _nn(functional: Namespace) -> Namespace:
    call = functional.table
    table: dict[str, Any] = {
        "functional": functional,
        "Parameter": lambda data, requires_grad=True: data,
        "Module": Token("torch.nn.Module"),
        "CosineSimilarity": lambda dim=1, eps=1e-8: lambda a, b: call["cosine_similarity"](a, b, dim=dim, eps=eps),
        "Softmax": lambda dim=None: lambda x: call["softmax"](x, dim=dim),
    }
    return Namespace("torch.nn", table)


def _manual_seed(default: Generator) -> Callable[[int], Generator]:
    return lambda seed: default.manual_seed(seed)


def make_torch() -> Namespace:
    """A fresh `torch`."""
    Generator.count = 0
    default = Generator(number=0)
    functional = Namespace("torch.nn.functional", _table("f") | {"tanh": _table("t")["tanh"]})
    linalg = Namespace("torch.linalg", _table("l") | {"LinAlgError": LinAlgError})
    seed = _manual_seed(default)
    nothing = _NoGrad()
    table: dict[str, Any] = _table("t")
    table |= dict(DTYPES)
    table |= {alias: DTYPES[name] for alias, name in DTYPE_ALIASES.items()}
    table |= {
        "Tensor": TYPE_TOKENS[Tensor],
        "FloatTensor": TYPE_TOKENS[Tensor],
        "dtype": TYPE_TOKENS[DType],
        "Size": TYPE_TOKENS[Size],
        "Generator": TYPE_TOKENS[Generator],
        "device": TYPE_TOKENS[Device],
        "nn": _nn(functional),
        "linalg": linalg,
        "finfo": _finfo,
        "iinfo": _iinfo,
        "tensor": tensor,
        "as_tensor": _as_tensor,
        "asarray": _as_tensor,
        "scalar_tensor": tensor,
        "no_grad": nothing,
        "inference_mode": nothing,
        "enable_grad": nothing,
        "set_grad_enabled": lambda mode: nothing,
        "manual_seed": seed,
        "random": Namespace("torch.random", {"manual_seed": seed}),
        "randint": _randint,
        "cuda": Namespace(
            "torch.cuda",
            {
                "is_available": lambda: False,
                "manual_seed": seed,
                "manual_seed_all": seed,
                "device_count": lambda: 0,
                "empty_cache": lambda: None,
                "synchronize": lambda *a: None,
            },
        ),
        "allclose": _allclose,
        "equal": equal,
        "is_tensor": lambda x: type(x) is Tensor,
        "numel": lambda input: input.numel(),
        "is_floating_point": lambda input: input.dtype.is_floating_point,
        "is_complex": lambda input: False,
        "is_nonzero": lambda input: bool(input),
        "get_default_dtype": lambda: DTYPES["float32"],
        "pi": math.pi,
        "e": math.e,
        "inf": math.inf,
        "nan": math.nan,
        "newaxis": None,
        "special": Namespace("torch.special", composed.special(table)),
    }
    table |= composed.functions()
    return Namespace("torch", table)


def _subset(module: ModuleType, names: str) -> Namespace:
    return Namespace(module.__name__, {name: getattr(module, name) for name in names.split()})


_MATH = " ".join(name for name in vars(math) if not name.startswith("_"))
_RANDOM = (
    "random uniform gauss normalvariate randint randrange choice choices sample shuffle seed betavariate expovariate"
)
_TYPING = (
    "Any Callable Dict FrozenSet Generator Iterable Iterator List Literal Mapping MutableMapping NamedTuple Optional"
    " Sequence Set Tuple Type TypeVar Union Final Hashable Collection DefaultDict OrderedDict Deque Counter NoReturn"
    " TypeAlias Annotated ClassVar Protocol"
)


def _cache(function: Any = None, maxsize: Any = None, typed: bool = False) -> Any:
    """`functools.lru_cache` and `cache`, with or without arguments."""
    if callable(function):
        return _memo(function)
    return lambda f: _memo(f)


def _memo(function: Callable[..., Any]) -> Callable[..., Any]:
    cached = functools.lru_cache(maxsize=256)(function)
    return lambda *args, **kwargs: cached(*args, **kwargs)


def _partial(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    return lambda *more, **named: function(*args, *more, **{**kwargs, **named})


def _itemgetter(*keys: Any) -> Callable[[Any], Any]:
    """`operator.itemgetter`, through the guard."""
    if len(keys) == 1:
        return lambda obj: guarded_getitem(obj, keys[0])
    return lambda obj: tuple(guarded_getitem(obj, key) for key in keys)


def _wraps(_wrapped: object) -> Callable[[Any], Any]:
    return lambda function: function


def _random_class(numbers: random.Random) -> Callable[..., Namespace]:
    """`random.Random`; without a seed, one from the run's."""

    def make(seed: Any = None) -> Namespace:
        own = random.Random(numbers.random() if seed is None else seed)
        return Namespace("Random", {name: getattr(own, name) for name in _RANDOM.split()})

    return make


def _standard(numbers: random.Random) -> dict[str, Namespace]:
    functions = _subset(functools, "reduce cmp_to_key").table
    functions |= {"partial": _partial, "lru_cache": _cache, "cache": _cache, "wraps": _wraps}
    spaces = {
        "math": _subset(math, _MATH),
        "re": _subset(
            re,
            "compile match search fullmatch findall finditer split sub subn escape error I IGNORECASE M"
            " MULTILINE S DOTALL X VERBOSE A ASCII",
        ),
        "itertools": _subset(
            itertools,
            "accumulate chain combinations combinations_with_replacement compress count cycle"
            " dropwhile filterfalse groupby islice pairwise permutations product repeat"
            " starmap takewhile tee zip_longest",
        ),
        "collections": _subset(collections, "Counter OrderedDict defaultdict deque"),
        "statistics": _subset(
            statistics,
            "fmean geometric_mean harmonic_mean mean median median_high median_low mode"
            " correlation covariance pstdev pvariance quantiles stdev variance StatisticsError",
        ),
        "heapq": _subset(heapq, "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest"),
        "bisect": _subset(bisect, "bisect bisect_left bisect_right insort insort_left insort_right"),
        "copy": Namespace("copy", {"copy": _shallow, "deepcopy": copy.deepcopy}),
        "functools": Namespace("functools", functions),
        "random": Namespace("random", {name: getattr(numbers, name) for name in _RANDOM.split()}),
        "operator": Namespace(
            "operator",
            {
                name: getattr(operator, name)
                for name in [
                    "add",
                    "sub",
                    "mul",
                    "truediv",
                    "floordiv",
                    "mod",
                    "neg",
                    "pow",
                    "matmul",
                    "eq",
                    "ne",
                    "lt",
                    "le",
                    "gt",
                    "ge",
                    "abs",
                    "and_",
                    "or_",
                    "xor",
                    "not_",
                    "truth",
                    "contains",
                ]
            }
            | {"itemgetter": _itemgetter, "getitem": guarded_getitem},
        ),
        "typing": Namespace(
            "typing",
            {name: Token(name) for name in _TYPING.split()}
            | {"TypeVar": lambda *a, **k: Token("TypeVar"), "cast": lambda kind, value: value, "TYPE_CHECKING": False},
        ),
        "warnings": Namespace(
            "warnings", {name: lambda *a, **k: None for name in ("warn", "filterwarnings", "simplefilter")}
        ),
        "string": Namespace("string", {"ascii_lowercase": "abcdefghijklmnopqrstuvwxyz", "digits": "0123456789"}),
    }
    spaces["random"].table["Random"] = _random_class(numbers)
    spaces["collections.abc"] = Namespace("collections.abc", spaces["typing"].table)
    spaces["collections"].table["abc"] = spaces["collections.abc"]
    spaces["itertools"].table["chain"] = Token(
        "chain", call=itertools.chain, table={"from_iterable": itertools.chain.from_iterable}
    )
    return spaces


def _shallow(value: Any) -> Any:
    if type(value) is Tensor:
        return value.detach()  # type: ignore[attr-defined]
    if type(value) in (list, dict, set, tuple, collections.OrderedDict, collections.defaultdict, collections.Counter):
        return copy.copy(value)
    return value


class Importer:
    """`_import_(module)` and `_import_(module, name)` of a compiled program: look-ups in one table."""

    def __init__(self) -> None:
        torch = make_torch()
        self.numbers = random.Random(0)
        self.modules = _standard(self.numbers) | {
            "torch": torch,
            "torch.nn": torch.table["nn"],
            "torch.nn.functional": torch.table["nn"].table["functional"],
            "torch.linalg": torch.table["linalg"],
            "torch.cuda": torch.table["cuda"],
            "torch.special": torch.table["special"],
        }

    def __call__(self, module: str, name: str | None = None) -> Any:
        space = self.modules.get(module)
        if space is None:
            hint = "; use torch" if module.split(".")[0] in ("numpy", "scipy", "pandas", "jax") else ""
            raise Missing(f"the module '{module}' is not available here{hint}")
        if name is None:
            return space
        if name not in space.table:
            raise Missing(f"{module}.{name} is not available here")
        return space.table[name]


TYPE_TOKENS.update(
    {
        Tensor: Token("Tensor", (Tensor,), call=lambda data=(): tensor(data, dtype=DTYPES["float32"])),
        DType: Token("dtype", (DType,)),
        Size: Token("Size", (Size,), call=Size),
        Generator: Token("Generator", (Generator,), call=Generator),
        Device: Token("device", (Device,), call=Device),
    }
)
# `torch.Tensor.add(x, y)` and the like.
Tensor.index_put_ = composed.index_put_  # type: ignore[attr-defined]
TYPE_TOKENS[Tensor].table.update({op.name: getattr(Tensor, op.name) for op in OPS if "m" in op.forms})

"""The table of human-designed merges: name, paper, parameters with defaults and tuning grid, whether random.

A method is one file beside this one that can be read and run alone; its parameters are the constants at its top.

    source = method_source("ties", DENSITY=0.5)              # a complete program
    for point in points("ties", sources=3): ...              # the tuning grid, in a fixed order
    for seed in seeds("dare_ties"): method_source("dare_ties", SEED=seed)

Where a published value is known for two or three language models it is the default; values tuned on eight vision tasks
are too small there. What every method does with ties, small tensors and vectors stands in its file.
"""

from __future__ import annotations

import ast
import itertools
import math
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from selfdev.errors import UsageError

Value = bool | int | float | str | tuple[int, ...] | tuple[float, ...] | None
Over = Literal["", "source", "pair", "members", "weights"]

SEEDS = (0, 1, 2)  # a random method is run with each
MAX_POINTS = 243  # a product over sources beyond that gives way to one value for all


@dataclass(frozen=True, slots=True)
class Parameter:
    """A constant of a method's file."""

    name: str
    default: Value
    grid: tuple[Value, ...] = ()  # values worth trying; () leaves it at its default
    low: float = -math.inf  # bounds of numbers, inclusive
    high: float = math.inf
    words: tuple[str, ...] = ()  # allowed words, where it is one
    over: Over = ""
    """What it ranges over, where that depends on the sources: one of them, an unordered pair, some of them ("members"),
    or one value of `grid` for each ("weights")."""


@dataclass(frozen=True, slots=True)
class Method:
    """A human-designed merge."""

    name: str  # also the file's
    title: str
    paper: str
    parameters: tuple[Parameter, ...] = ()
    random: bool = False  # draws from SEED: run it with each of `SEEDS`
    sources: tuple[int, int] = (1, 99)  # how many it looks at, at least and at most
    deviation: str = ""  # from the paper

    def parameter(self, name: str) -> Parameter:
        """
        Raises:
            UsageError: the method has no such parameter.
        """
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = ", ".join(p.name for p in self.parameters) or "none"
        raise UsageError(f"{self.name} has no parameter {name}; it has: {known}")


def arxiv(number: str) -> str:
    """The address of a paper."""
    return f"https://arxiv.org/abs/{number}"


_SEED = Parameter("SEED", 0, low=0)
_TRIM = ("vector", "tensor")
_RESCALE = Parameter("RESCALE", "probability", words=("probability", "norm"))
_DROP = Parameter("DROP", 0.5, (0.1, 0.3, 0.5, 0.7, 0.9), low=0.0, high=0.999)
_PAIR = Parameter("PAIR", (0, 1), low=0, over="pair")
_DELLA = (
    Parameter("DENSITY", 0.6, (0.3, 0.5, 0.7), low=0.0, high=1.0),
    Parameter("EPSILON", 0.1, low=0.0, high=0.5),
    Parameter("SCALE", 1.0, (0.7, 0.9, 1.1)),
    _RESCALE,
    _SEED,
)
_BREADCRUMBS = (
    Parameter("DENSITY", 0.9, (0.1, 0.5, 0.9), low=0.0, high=1.0),
    Parameter("GAMMA", 0.01, low=0.0, high=1.0),
    Parameter("SCALE", 0.5),
)

METHODS: tuple[Method, ...] = (
    # Tier A: any parameter, no data, cheap.
    Method("zero", "seed model", ""),
    Method("single_source", "one source", "", (Parameter("SOURCE", 0, low=0, over="source"),)),
    Method("uniform_average", "uniform average", arxiv("2203.05482"), deviation="the seed is not one of the averaged"),
    Method(
        "subset_average",
        "average of some sources",
        arxiv("2203.05482"),
        (Parameter("MEMBERS", (0, 1), low=0, over="members"),),
        deviation="greedy soup chooses MEMBERS: `search.greedy_soup`",
    ),
    Method(
        "task_arithmetic",
        "Task Arithmetic",
        arxiv("2212.04089"),
        (Parameter("WEIGHTS", (0.4, 0.4, 0.4), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), over="weights"),),
    ),
    Method(
        "ties",
        "TIES-Merging",
        arxiv("2306.01708"),
        (
            Parameter("DENSITY", 0.2, (0.1, 0.2, 0.3, 0.5, 0.7), low=0.0, high=1.0),
            Parameter("SCALE", 1.0, (0.5, 1.0, 1.5)),
            Parameter("TRIM", "vector", words=_TRIM),
        ),
        deviation='a sum of zero elects +; TRIM "tensor" is mergekit\'s trimming, "vector" the paper\'s',
    ),
    Method(
        "dare_linear",
        "DARE + Task Arithmetic",
        arxiv("2311.03099"),
        (_DROP, Parameter("SCALE", 0.5), _RESCALE, _SEED),
        random=True,
    ),
    Method(
        "dare_ties",
        "DARE + sign vote",
        arxiv("2311.03099"),
        (_DROP, Parameter("SCALE", 0.5), Parameter("MERGE", "sum", words=("sum", "mean")), _RESCALE, _SEED),
        random=True,
        deviation="not trimmed besides; agreeing values are summed, as in mergekit, unless MERGE is mean",
    ),
    Method("della", "DELLA", arxiv("2406.11617"), _DELLA, random=True),
    Method("della_linear", "DELLA without election", arxiv("2406.11617"), _DELLA, random=True),
    Method("breadcrumbs", "Model Breadcrumbs", arxiv("2312.06795"), _BREADCRUMBS),
    Method("breadcrumbs_ties", "Model Breadcrumbs + sign vote", arxiv("2312.06795"), _BREADCRUMBS),
    Method("model_stock", "Model Stock", arxiv("2403.19522"), deviation="the angle is one per parameter"),
    Method(
        "slerp",
        "SLERP",
        "https://en.wikipedia.org/wiki/Slerp",
        (
            _PAIR,
            Parameter("T", 0.5, (0.3, 0.5, 0.7), low=0.0, high=1.0),
            Parameter("LINEAR", 0.9995, low=0.0, high=1.0),
        ),
        sources=(2, 2),
        deviation="turns task vectors around the seed, not weights around zero",
    ),
    Method(
        "nuslerp",
        "NuSLERP",
        "https://github.com/arcee-ai/mergekit",
        (
            _PAIR,
            Parameter("WEIGHTS", (0.5, 0.5)),
            Parameter("GROUP", "tensor", ("tensor", "row"), words=("tensor", "row")),
        ),
        sources=(2, 2),
    ),
    Method(
        "karcher",
        "Karcher mean",
        arxiv("2603.04972"),
        (Parameter("ITERATIONS", 10, low=0, high=200), Parameter("TOLERANCE", 1e-5, low=0.0)),
        deviation="of task vectors around the seed, not of weights around zero",
    ),
    Method(
        "sce",
        "SCE",
        arxiv("2408.07990"),
        (Parameter("TOPK", 0.1, (0.1, 0.5, 1.0), low=0.0, high=1.0),),
        sources=(2, 99),
    ),
    Method("ram", "RAM", arxiv("2601.13572"), (Parameter("EPSILON", 1e-5, low=0.0),)),
    Method(
        "ram_plus",
        "RAM+",
        arxiv("2601.13572"),
        (
            Parameter("R", 0.1),
            Parameter("ALPHA", 0.2, low=0.0),
            Parameter("EPSILON", 1e-5, low=0.0),
            Parameter("COUNT", "vector", words=_TRIM),
        ),
        deviation='COUNT "tensor" is mergekit\'s tensor-local form',
    ),
    Method(
        "consensus_ta",
        "Consensus Task Arithmetic",
        arxiv("2405.07813"),
        (
            Parameter("AGREE", 2, low=1),
            Parameter("LAMBDA", 0.5, (0.3, 0.5, 0.6), low=0.0),
            Parameter("SCALE", 0.4),
        ),
    ),
    Method(
        "widen",
        "WIDEN on task vectors",
        arxiv("2408.03092"),
        (Parameter("RATIO", 1.0, low=0.0), Parameter("CALIBRATION", 1.0)),
        deviation="columns ranked by the norm of their change: magnitude and direction apart need the seed's weights",
    ),
    Method("metagpt", "MetaGPT", arxiv("2406.11385")),
    Method("magmax", "MagMax", arxiv("2407.06322"), (Parameter("SCALE", 0.5, (0.5, 1.0)),)),
    # Tier B: spectral or whole-vector competition; singular values of every matrix.
    Method("tsv_m", "TSV-M", arxiv("2412.00081"), (Parameter("SCALE", 1.0),)),
    Method(
        "iso_c",
        "Iso-C",
        arxiv("2502.04959"),
        (Parameter("SCALE", 1.0, (1.0, 1.5)),),
        deviation="directions whose singular value is zero stay zero",
    ),
    Method(
        "iso_cts",
        "Iso-CTS",
        arxiv("2502.04959"),
        (Parameter("COMMON", 0.8, low=0.0, high=1.0), Parameter("SCALE", 1.0, (1.0, 1.5))),
    ),
    Method(
        "knots",
        "KnOTS + TIES",
        arxiv("2410.19735"),
        (Parameter("DENSITY", 0.2, (0.2, 0.5), low=0.0, high=1.0), Parameter("SCALE", 1.0, (0.5, 1.0, 1.5))),
    ),
    Method(
        "wudi",
        "WUDI-Merging",
        arxiv("2503.08099"),
        (
            Parameter("LR", 1e-5, low=0.0),
            Parameter("STEPS", 300, (300, 400), low=0, high=2000),
            Parameter("BATCH", 100_000_000, low=1),
        ),
    ),
    Method(
        "pcb",
        "PCB-Merging",
        arxiv("2410.02396"),
        (
            Parameter("RATIO", 0.1, (0.05, 0.1, 0.2), low=0.0, high=1.0),
            Parameter("SCALE", 1.0, (1.0, 1.2)),
            Parameter("CLIP", 0.0001, low=0.0, high=0.5),
        ),
    ),
)

WRAPPERS: tuple[Method, ...] = (  # go behind a program: `compose.with_lines`
    Method(
        "lines",
        "LiNeS",
        arxiv("2410.17146"),
        (Parameter("LINES_ALPHA", None, low=0.0), Parameter("LINES_BETA", 0.5, (0.5, 1.0))),
        deviation="embeddings count as the first layer, the last norm and the head as the last one",
    ),
)


def method(name: str) -> Method:
    """
    Raises:
        UsageError: no method has that name.
    """
    for row in (*METHODS, *WRAPPERS):
        if row.name == name:
            return row
    raise UsageError(f"there is no baseline {name!r}; there are: {', '.join(row.name for row in METHODS)}")


def method_source(name: str, **parameters: Value) -> str:
    """The program of a method, its constants set to `parameters` where given.

    Raises:
        UsageError: unknown method or parameter, or a value of the wrong type or out of bounds.
    """
    row = method(name)
    checked = {key: check(row.name, row.parameter(key), value) for key, value in parameters.items()}
    return fill(read(row.name), checked)


def defaults(name: str, sources: int = 3) -> dict[str, Value]:
    """Parameter -> default, for that many sources."""
    return {p.name: _default(p, sources) for p in method(name).parameters}


def grid(name: str, sources: int = 3) -> dict[str, tuple[Value, ...]]:
    """Parameter -> the values of its grid, for that many sources; only those that are tuned."""
    values = {p.name: _values(p, sources) for p in method(name).parameters}
    return {key: each for key, each in values.items() if each}


def points(name: str, sources: int = 3) -> list[dict[str, Value]]:
    """All points of the grid: parameters to pass to `method_source`, the last one varying fastest. The default may be
    none of them. A method that looks at more sources than there are has none.
    """
    axes = grid(name, sources)
    if sources < method(name).sources[0]:
        return []
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def seeds(name: str) -> tuple[int, ...]:
    """What SEED takes: each of `SEEDS` for a random method, else only 0, which is not passed on."""
    return SEEDS if method(name).random else (0,)


def programs(name: str, point: dict[str, Value]) -> list[str]:
    """The programs of one point: one per seed."""
    if not method(name).random:
        return [method_source(name, **point)]
    return [method_source(name, **{**point, "SEED": seed}) for seed in seeds(name)]


def _default(parameter: Parameter, sources: int) -> Value:
    if parameter.over == "weights":
        assert isinstance(parameter.default, tuple)
        return (parameter.default[0],) * sources
    return tuple(range(sources)) if parameter.over == "members" else parameter.default


def _values(parameter: Parameter, sources: int) -> tuple[Value, ...]:
    if parameter.over == "source":
        return tuple(range(sources))
    if parameter.over == "pair":
        return tuple(itertools.combinations(range(sources), 2))
    if parameter.over == "weights":
        numbers = [float(v) for v in parameter.grid if isinstance(v, (int, float))]
        if len(numbers) ** sources <= MAX_POINTS:
            return tuple(itertools.product(numbers, repeat=sources))
        return tuple((round(0.1 * step, 1),) * sources for step in range(1, 11))
    return parameter.grid


def described(rule: str, given: dict[str, Value]) -> str:
    """A rule and its parameters, for people."""
    return " ".join([rule, *(f"{name}={value}".replace(" ", "") for name, value in given.items())])


# Files and their constants.


def read(file: str) -> str:
    """The text of a rule's file."""
    return (resources.files("selfdev.baselines") / f"{file}.py").read_text("utf-8")


def constants(text: str) -> dict[str, Any]:
    """Name -> value of the assignments `NAME = literal` at module level, in order."""
    return {name: ast.literal_eval(value) for name, value in _assignments(text)}


def fill(text: str, values: dict[str, Any]) -> str:
    """The text with the right-hand sides of module constants replaced.

    Raises:
        ValueError: a name is not assigned exactly once at module level.
    """
    found = _assignments(text)
    lines = text.encode().splitlines(keepends=True)  # the syntax tree counts bytes
    for name, value in values.items():
        places = [node for other, node in found if other == name]
        if len(places) != 1:
            raise ValueError(f"the file has {len(places)} constants named {name}, expected 1")
        node = places[0]
        if node.lineno != node.end_lineno:
            raise ValueError(f"the constant {name} is longer than a line")
        line = lines[node.lineno - 1]
        lines[node.lineno - 1] = line[: node.col_offset] + repr(value).encode() + line[node.end_col_offset :]
        found = _assignments(b"".join(lines).decode())
    return b"".join(lines).decode()


def _assignments(text: str) -> list[tuple[str, ast.expr]]:
    made = []
    for node in ast.parse(text).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        if len(targets) == 1 and isinstance(targets[0], ast.Name) and value is not None:
            made.append((targets[0].id, value))
    return made


# Values.


def check(owner: str, parameter: Parameter, value: object) -> Value:
    """The value, an integer widened where a float is meant.

    Raises:
        UsageError: it has the wrong type or is out of bounds.
    """
    label = f"{owner}: {parameter.name}"
    like = parameter.default
    if isinstance(like, tuple):
        return _check_tuple(label, parameter, like, value)
    if isinstance(like, str):
        if value not in parameter.words:
            raise UsageError(f"{label} is {value!r}; allowed are {', '.join(parameter.words)}")
        return str(value)
    if like is None and value is None:
        return None
    number: int | float = _check_number(label, parameter, isinstance(like, int), value)
    return number


def _check_tuple(label: str, parameter: Parameter, like: tuple[Any, ...], value: object) -> Value:
    if not isinstance(value, (tuple, list)) or not value:
        raise UsageError(f"{label} is {value!r}; a tuple of numbers is needed, like {like!r}")
    whole = isinstance(like[0], int)
    if parameter.over not in ("weights", "members") and len(value) != len(like):
        raise UsageError(f"{label} has {len(value)} values; {len(like)} are needed")
    made = tuple(_check_number(label, parameter, whole, item) for item in value)
    if whole and len(set(made)) != len(made):
        raise UsageError(f"{label} is {made!r}; each source may be named once")
    return made


def _check_number(label: str, parameter: Parameter, whole: bool, value: object) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
        raise UsageError(f"{label} is {value!r}; {'an integer' if whole else 'a finite number'} is needed")
    if not parameter.low <= value <= parameter.high:
        raise UsageError(f"{label} is {value!r}; it must be in {parameter.low:g} .. {parameter.high:g}")
    return value if whole else float(value)

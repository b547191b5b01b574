"""The table of methods: it agrees with the files, substitutes what it is told to, and refuses the rest."""

from __future__ import annotations

import ast
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdev.baselines import (
    METHODS,
    SEEDS,
    WRAPPERS,
    Value,
    defaults,
    grid,
    method,
    method_source,
    points,
    programs,
    seeds,
    with_lines,
)
from selfdev.baselines.registry import check, constants, fill, read
from selfdev.errors import UsageError

ROWS = (*METHODS, *WRAPPERS)
IDS = [row.name for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_the_file_holds_the_defaults(row: object) -> None:
    assert hasattr(row, "parameters")
    found = constants(read(row.name))
    expected = {p.name: p.default for p in row.parameters}
    assert found == expected
    assert [type(v) for v in found.values()] == [type(v) for v in expected.values()]


def test_every_file_is_in_the_table() -> None:
    files = {path.name.removesuffix(".py") for path in resources.files("selfdev.baselines").iterdir()}
    files = {name for name in files if not name.startswith("_")}
    assert files - {"registry", "compose", "search"} == set(IDS)
    assert len(IDS) == len(set(IDS))


def test_tiers_a_and_b_are_there() -> None:
    tier_a = (
        "zero single_source uniform_average subset_average task_arithmetic ties dare_linear dare_ties della"
        " della_linear breadcrumbs breadcrumbs_ties model_stock slerp nuslerp karcher sce ram ram_plus consensus_ta"
        " widen metagpt magmax"
    )
    tier_b = ["tsv_m", "iso_c", "iso_cts", "knots", "wudi", "pcb"]
    assert [row.name for row in METHODS] == [*tier_a.split(), *tier_b]
    assert [row.name for row in METHODS if row.random] == ["dare_linear", "dare_ties", "della", "della_linear"]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_files_stand_alone(row: object) -> None:
    tree = ast.parse(read(row.name))
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imports <= {"torch", "math", "collections.abc"}
    docstring = ast.get_docstring(tree)
    assert docstring
    if "arxiv" in row.paper:
        assert row.paper.rsplit("/", 1)[1] in docstring


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_grids_hold_allowed_values(row: object) -> None:
    for sources in (2, 3, 8):
        for key, values in grid(row.name, sources).items():
            assert all(check(row.name, row.parameter(key), value) == value for value in values)
        for key, value in defaults(row.name, sources).items():
            assert check(row.name, row.parameter(key), value) == value


def test_points_come_in_a_fixed_order() -> None:
    assert points("uniform_average") == [{}]
    found = points("ties")
    assert len(found) == 15
    assert found[:4] == [
        {"DENSITY": 0.1, "SCALE": 0.5},
        {"DENSITY": 0.1, "SCALE": 1.0},
        {"DENSITY": 0.1, "SCALE": 1.5},
        {"DENSITY": 0.2, "SCALE": 0.5},
    ]
    assert points("single_source", 2) == [{"SOURCE": 0}, {"SOURCE": 1}]
    assert [p["PAIR"] for p in points("slerp", 3)][::3] == [(0, 1), (0, 2), (1, 2)]
    assert points("slerp", 1) == points("sce", 1) == []


def test_weights_are_per_source_until_there_are_too_many() -> None:
    assert len(points("task_arithmetic", 2)) == 36
    assert len(points("task_arithmetic", 3)) == 216
    assert points("task_arithmetic", 3)[7] == {"WEIGHTS": (0.0, 0.2, 0.2)}
    assert points("task_arithmetic", 4) == [{"WEIGHTS": (round(0.1 * i, 1),) * 4} for i in range(1, 11)]
    assert defaults("task_arithmetic", 5) == {"WEIGHTS": (0.4,) * 5}


def test_random_methods_have_three_seeds() -> None:
    assert seeds("dare_ties") == SEEDS == (0, 1, 2)
    assert seeds("ties") == (0,)
    made = programs("dare_ties", {"DROP": 0.3})
    assert [constants(text)["SEED"] for text in made] == [0, 1, 2]
    assert all(constants(text)["DROP"] == 0.3 for text in made)
    assert programs("ties", {}) == [read("ties")]


def test_only_the_constants_change() -> None:
    text = method_source("ties", DENSITY=0.5, TRIM="tensor")
    before, after = read("ties").splitlines(), text.splitlines()
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [
        ("DENSITY = 0.2", "DENSITY = 0.5"),
        ('TRIM = "vector"', "TRIM = 'tensor'"),
    ]
    assert "WEIGHTS = (0.5, 1.0)" in method_source("task_arithmetic", WEIGHTS=[0.5, 1])


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 1), st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_comes_back(density: float, scale: float) -> None:
    found = constants(method_source("ties", DENSITY=density, SCALE=scale))
    assert found == {"DENSITY": density, "SCALE": scale, "TRIM": "vector"}


def test_filling_keeps_comments_strings_and_other_names() -> None:
    text = 'A = 1  # ä: A = 3\nAA = 2\nB: float | None = None\nS = """\nA = 4\n"""\n\n\ndef f():\n    A = 5\n'
    filled = fill(text, {"A": (1, 2), "B": 0.5})
    assert filled == text.replace("A = 1 ", "A = (1, 2) ", 1).replace("None = None", "None = 0.5")
    with pytest.raises(ValueError, match="2 constants named A"):
        fill("A = 1\nA = 2\n", {"A": 3})


REFUSED: tuple[tuple[str, dict[str, Value], str], ...] = (
    ("nothing", {}, "no baseline 'nothing'; there are: zero, "),
    ("ties", {"LAMBDA": 1.0}, "ties has no parameter LAMBDA; it has: DENSITY, SCALE, TRIM"),
    ("zero", {"SCALE": 1.0}, "zero has no parameter SCALE; it has: none"),
    ("ties", {"DENSITY": "0.5"}, "ties: DENSITY is '0.5'; a finite number is needed"),
    ("ties", {"DENSITY": True}, "a finite number is needed"),
    ("ties", {"SCALE": float("nan")}, "a finite number is needed"),
    ("ties", {"SCALE": None}, "a finite number is needed"),
    ("ties", {"DENSITY": 1.5}, r"DENSITY is 1.5; it must be in 0 .. 1"),
    ("ties", {"TRIM": "row"}, "TRIM is 'row'; allowed are vector, tensor"),
    ("dare_linear", {"DROP": 1.0}, "must be in 0 .. 0.999"),
    ("dare_linear", {"SEED": 0.5}, "SEED is 0.5; an integer is needed"),
    ("karcher", {"ITERATIONS": 10.0}, "an integer is needed"),
    ("task_arithmetic", {"WEIGHTS": 0.5}, "a tuple of numbers is needed"),
    ("task_arithmetic", {"WEIGHTS": ()}, "a tuple of numbers is needed"),
    ("slerp", {"PAIR": (0, 1, 2)}, "PAIR has 3 values; 2 are needed"),
    ("slerp", {"PAIR": (1, 1)}, "each source may be named once"),
    ("subset_average", {"MEMBERS": (0, -1)}, "must be in 0 .. inf"),
)


@pytest.mark.parametrize(("name", "parameters", "message"), REFUSED, ids=[f"{n}-{list(p)}" for n, p, _ in REFUSED])
def test_what_does_not_fit_is_refused(name: str, parameters: dict[str, Value], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        method_source(name, **parameters)


def test_lines_refuses_what_it_cannot_wrap() -> None:
    wrapped = with_lines(method_source("ties"), LINES_BETA=1)
    assert constants(wrapped)["LINES_BETA"] == 1.0
    assert constants(wrapped)["LINES_ALPHA"] is None
    for source, message in (
        (wrapped, "is it wrapped already"),
        ("x = 1\n", "has 0 functions merge_models"),
        ("def merge_models(:\n", "is not Python"),
    ):
        with pytest.raises(UsageError, match=message):
            with_lines(source)
    with pytest.raises(UsageError, match="lines has no parameter BETA"):
        with_lines(method_source("ties"), BETA=1.0)


def test_lines_renames_calls_too() -> None:
    source = "def merge_models(t, n=1):  # merge_models\n    return t[0] if n == 0 else merge_models(t, 0)\n"
    wrapped = with_lines(source)
    assert wrapped.startswith(
        "def lines_inner(t, n=1):  # merge_models\n    return t[0] if n == 0 else lines_inner(t, 0)\n"
    )
    assert method("lines").random is False

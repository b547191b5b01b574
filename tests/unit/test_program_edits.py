"""Edits of programs: each changes what it names and nothing else; the rule of what a constant is."""

from __future__ import annotations

import ast
import difflib
import random
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdev.program_edits import (
    Edit,
    apply,
    constants,
    edits,
    set_constants,
    size,
    unread_imports,
    without_reader,
)
from selfdev.zoo.grammar import write_program

PROGRAM = '''import torch


def blend(a, b, alpha=0.3, dim=1):
    """Mix two."""
    return alpha * a + (1 - alpha) * b  # convex


def merge_models(task_vectors):
    """Doc."""
    weights = [0.5, 2, -0.25]  # by source
    k = 3
    merged = {}
    for i, name in enumerate(task_vectors[0]):
        x = sum(w * tv[name] for w, tv in zip(weights, task_vectors))
        if x.dim() > 1 and "mlp" in name:
            x = x - x.mean(0, keepdim=True) * 1
        elif i == 2:
            x = x.clamp(-1, 1)
        else:
            x = x / (x.norm() + 1e-8)
        y = x.abs() ** 2; z = y.topk(k).values
        x = blend(x, z.mean() if len(task_vectors) > 2 else x, alpha=0.7)
        merged[name] = x.reshape(task_vectors[0][name].shape)
    return merged
'''


def programs() -> st.SearchStrategy[str]:
    return st.integers(0, 10_000).map(lambda seed: write_program(random.Random(seed)))


def expected(source: str, edit: Edit) -> ast.Module:
    """The edit made in another way: the parent's field is written over."""
    module = ast.parse(source)
    node = list(ast.walk(module))[edit.node]
    new: object = {
        "remove": None,
        "set": None if edit.action != "set" else ast.parse(repr(edit.value)).body[0].value,
    }.get(edit.action, getattr(node, edit.action, None))  # type: ignore[attr-defined]
    for parent in ast.walk(module):
        for name, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(member is node for member in value):
                place = next(i for i, member in enumerate(value) if member is node)
                value[place : place + 1] = new if isinstance(new, list) else [] if new is None else [new]
                if name == "body" and not value:
                    value.append(ast.Pass())
    return module


def same(first: ast.Module, second: ast.Module) -> bool:
    first, second = (ast.parse(ast.unparse(ast.fix_missing_locations(m))) for m in (first, second))
    return ast.dump(first) == ast.dump(second)


@settings(max_examples=8, deadline=None)
@given(programs())
def test_every_edit_parses_and_changes_what_it_names_and_nothing_else(source: str) -> None:
    for edit in edits(source):
        text = apply(source, [edit])
        assert same(ast.parse(text), expected(source, edit)), edit
        assert not same(ast.parse(text), ast.parse(source)), edit


def test_every_edit_of_a_program_with_everything_in_it() -> None:
    for edit in edits(PROGRAM):
        text = apply(PROGRAM, [edit])
        assert same(ast.parse(text), expected(PROGRAM, edit)), edit


@settings(max_examples=15, deadline=None)
@given(programs(), st.randoms(use_true_random=False))
def test_several_edits_at_once_parse_and_are_no_larger(source: str, rng: random.Random) -> None:
    found = edits(source)
    chosen = {edit.node: edit for edit in rng.sample(found, k=min(4, len(found)))}
    text = apply(source, list(chosen.values()))
    ast.parse(text)
    if all(edit.action != "set" for edit in chosen.values()):
        assert size(text) <= size(source)
    assert apply(source, list(chosen.values())[::-1]) == text


@settings(max_examples=15, deadline=None)
@given(programs())
def test_no_edit_gives_the_source_back(source: str) -> None:
    assert apply(source, []) == source
    assert set_constants(source, {}) == source


@settings(max_examples=15, deadline=None)
@given(programs(), st.floats(-10, 10, allow_nan=False))
def test_constants_are_replaced_in_the_text_and_the_rest_stays_letter_for_letter(source: str, value: float) -> None:
    for c in constants(source):
        text = set_constants(source, {c.node: value})
        written = [n for n in constants(text) if (n.line, n.column) == (c.line, c.column) or n.node == c.node]
        assert any(n.value == value for n in written)
        before, after = source.splitlines(), text.splitlines()
        assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] in ([c.line - 1], [])


def test_lines_and_comments_outside_of_the_statement_stay() -> None:
    line = next(e for e in edits(PROGRAM) if e.kind == "statement" and "k = 3" in e.text)
    text = apply(PROGRAM, [line])
    changed = [d for d in difflib.ndiff(PROGRAM.splitlines(), text.splitlines()) if d[0] in "+-"]
    assert changed == ["-     k = 3"]


def test_what_a_constant_is() -> None:
    found = [(c.value, c.role) for c in constants(PROGRAM)]
    assert found == [
        (0.3, "value"),  # default of alpha; dim=1 is a dimension
        (1, "value"),  # 1 - alpha
        (0.5, "value"),
        (2, "value"),
        (-0.25, "value"),  # with its sign; k = 3 counts
        (1, "value"),  # * 1; mean(0), x.dim() > 1 and i == 2 are none
        (-1, "value"),  # clamp
        (1, "value"),
        (1e-8, "guard"),
        (2, "exponent"),
        (0.7, "value"),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "x = tvs[1]", "x = tvs[-1:]", "for i in range(3): pass", "x = y.view(-1, 4)", "x = y.sum(dim=0)",
        "x = y.norm(2)",
        "x = len(tvs) - 1", "if y.shape[0] == 2: pass", "x = y.numel() // 2", "n = 2\nx = y[n]", "k = 5\nx = y.topk(k)",
        "for i in (0, 2): pass", "i += 1",
        "layer = int(s) if s else 0\nif layer < 3: pass", "x = torch.zeros(4, 4)", "x = True",
        "x = 'a1' + f'{y:.3f}{2}'",
        "x = [i * 2 for i in range(n)]",
        "x = {1: a, 2.5: b}[k]", "x = y.sum((0, 1))", "x = math.factorial(3)", "x = y.quantile(q, 0)",
        "x = torch.quantile(y, q, 0)", "x = torch.topk(y, 3)", "x = y.topk(3)",
    ],
)  # fmt: skip
def test_indices_shapes_dimensions_and_counts_are_no_constants(statement: str) -> None:
    assert constants(statement) == []


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("x = torch.full((4, 4), 2)", [2]), ("x = y.new_full([3], -1)", [-1]),
        ("x = torch.full(size=(4, 4), fill_value=2)", [2]),
        ("x = {1: 3, 2: 0.5}", [3, 0.5]), ("x = math.sqrt(2)", [2]), ("x = sqrt(2)", [2]),
        ("x = torch.quantile(y, 1)", [1]), ("x = y.quantile(1, 0)", [1]), ("x = torch.topk(2 * y, 3)", [2]),
        ("x = (2 * y).view(4)", [2]), ("x = torch.stack([2 * y, z], 0)", [2]), ("y = 3 * z\nx = torch.topk(y, 5)", [3]),
        ("x = torch.tensor([1, 2])", [1, 2]),
    ],
)  # fmt: skip
def test_the_place_in_a_call_decides(statement: str, values: list[float]) -> None:
    assert [c.value for c in constants(statement)] == values


def test_the_neutral_values() -> None:
    def made(expression: str) -> list[str]:
        source = f"x = {expression}\n"
        return [apply(source, [e]).strip() for e in edits(source) if e.kind == "constant"]

    assert made("0.5 * y") == ["x = y", "x = 0 * y"] or made("0.5 * y") == ["x = 0 * y", "x = y"]
    assert made("y / 3.0") == ["x = y"]
    assert made("y + 1e-8") == ["x = y"]
    assert made("1.0 - y") == ["x = 0 - y"]
    assert made("f(y, eps=0.1)") == ["x = f(y)"]
    assert made("(a + b) * 0.5 * c") in (
        ["x = (a + b) * c", "x = (a + b) * 0 * c"],
        ["x = (a + b) * 0 * c", "x = (a + b) * c"],
    )


def test_branches() -> None:
    source = textwrap.dedent("""\
        def f(x, name):
            # first
            if "mlp" in name:
                x = 2.0 * x
            elif "attn" in name:
                x = 3.0 * x
            # last
            return x
        """)
    texts = [apply(source, [e]) for e in edits(source) if e.kind == "branch"]
    always = source.replace(
        '    if "mlp" in name:\n        x = 2.0 * x\n    elif "attn" in name:\n        x = 3.0 * x\n',
        "    x = 2.0 * x\n",
    )
    assert always in texts
    assert all("# first" in t and "# last" in t for t in texts)
    assert len(texts) == 4


def test_a_block_is_never_left_empty() -> None:
    source = "def f(x):\n    for t in x:\n        y = t\n    return x\n"
    inner = next(e for e in edits(source) if "`y = t`" in e.text)
    assert apply(source, [inner]) == "def f(x):\n    for t in x:\n        pass\n    return x\n"


def test_names_that_nothing_reads_any_more() -> None:
    source = "def f(x):\n    a = 2.0\n    x = a * x\n    return x\n"
    definition, use = (next(e for e in edits(source) if e.text == f"remove `{t}`") for t in ("a = 2.0", "x = a * x"))
    assert not without_reader(source, [], definition)
    assert without_reader(source, [use], definition)
    assert apply(source, [use, definition]) == "def f(x):\n    return x\n"


IMPORTING = """from __future__ import annotations
import math, torch  # both
import torch.nn.functional as F
from random import *
try:
    import numpy
except ImportError:
    pass


def f(x):
    import os
    y = math.pi * x
    return torch.relu(y)
"""


def test_imports_that_nothing_reads_go_name_by_name() -> None:
    assert [(e.kind, e.line, e.text) for e in unread_imports(IMPORTING, [])] == [
        ("import", 3, "remove `import torch.nn.functional as F`, which nothing reads"),
        ("import", 12, "remove `import os`, which nothing reads"),
    ]
    chosen = [e for e in edits(IMPORTING) if e.text == "remove `y = math.pi * x`"]
    found = unread_imports(IMPORTING, chosen)
    assert [e.text for e in found if e.line == 2] == ["remove `math`, which nothing reads"]
    made = apply(IMPORTING, [*chosen, *found])
    assert made.splitlines()[:3] == ["from __future__ import annotations", "import torch", "from random import *"]
    assert "    return torch.relu(y)\n" in made
    assert "import os" not in made
    assert unread_imports(made, []) == []


def test_a_name_is_read_where_any_scope_reads_it() -> None:
    source = "import a, b.c, d, e as f, g\n\n\ndef h():\n    global a\n    b.c(f)\n    del d\n    e = g = 1\n"
    assert [e.text for e in unread_imports(source, [])] == ["remove `g`, which nothing reads"]


def test_an_import_that_goes_with_what_holds_it_is_no_removal_of_its_own() -> None:
    source = "def f(x):\n    if x:\n        import math\n        x = math.pi\n    return x\n"
    never = next(e for e in edits(source) if e.text == "as if `x` never held")
    assert unread_imports(source, [never]) == []
    inner = next(e for e in edits(source) if e.text == "remove `x = math.pi`")
    made = [inner, *unread_imports(source, [inner])]
    assert len(made) == 2
    assert apply(source, made) == "def f(x):\n    if x:\n        pass\n    return x\n"


def test_two_edits_of_one_node_are_refused() -> None:
    source = "x = f(0.5)\n"
    both = [e for e in edits(source) if e.action == "set"]
    assert len(both) == 2
    with pytest.raises(ValueError, match="two edits of one node"):
        apply(source, both)
    with pytest.raises(ValueError, match="no number"):
        set_constants(source, {0: 1.0})

"""Programs made of programs: a wrapper that goes behind any merge."""

from __future__ import annotations

import ast

from selfdev.baselines.registry import Value, check, fill, method, read
from selfdev.errors import UsageError

ENTRY = "merge_models"
_PREFIX = "lines_"


def with_lines(source: str, **parameters: Value) -> str:
    """The program with LiNeS behind it (see `lines.py`): `merge_models` becomes `lines_inner`, LiNeS the entry.

    Raises:
        UsageError: the source does not parse, has not one `merge_models` at module level, or uses LiNeS's names (it is
            wrapped already); or a parameter is unknown or does not fit.
    """
    row = method("lines")
    checked = {key: check(row.name, row.parameter(key), value) for key, value in parameters.items()}
    renamed = _rename_entry(source)
    return (
        renamed.rstrip()
        + "\n\n\n# LiNeS (arXiv 2410.17146), behind the merge above\n"
        + _body(fill(read("lines"), checked))
    )


def _rename_entry(source: str) -> str:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise UsageError(f"the program to wrap is not Python: {error.msg}, line {error.lineno}") from None
    entries = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == ENTRY]
    if len(entries) != 1:
        raise UsageError(f"the program to wrap has {len(entries)} functions {ENTRY} at module level, expected 1")
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    if any(name.id.lower().startswith(_PREFIX) for name in names):
        raise UsageError(f"the program to wrap uses names that begin with {_PREFIX}; is it wrapped already?")
    lines = source.encode().splitlines(keepends=True)  # the syntax tree counts bytes
    places = [(name.lineno, name.col_offset) for name in names if name.id == ENTRY]
    places.append((entries[0].lineno, entries[0].col_offset + len("def ")))
    for line, column in sorted(places, reverse=True):
        text = lines[line - 1]
        start = text.index(ENTRY.encode(), column)
        lines[line - 1] = text[:start] + b"lines_inner" + text[start + len(ENTRY) :]
    return b"".join(lines).decode()


def _body(text: str) -> str:
    """LiNeS without its docstring, its import and its placeholder for the merge."""
    lines = text.splitlines()
    keep = []
    for node in ast.parse(text).body:
        placeholder = isinstance(node, ast.FunctionDef) and node.name == "lines_inner"
        if not (placeholder or isinstance(node, (ast.Expr, ast.Import))):
            keep.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    constants = [part for part in keep if not part.startswith("def ")]
    functions = [part for part in keep if part.startswith("def ")]
    return "\n\n\n".join(["import torch\n\n" + "\n".join(constants), *functions]) + "\n"

"""An algorithm as one Python file that merges models with PyTorch and safetensors alone."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template

_TEMPLATE = "merge_template.py.txt"


@dataclass(frozen=True, slots=True)
class Script:
    """What the file says and does by default."""

    algorithm: str  # source text
    provenance: Sequence[str]  # lines for the head of the file
    seed: str  # references as a user of the file can give them: hub ids or directories
    sources: Sequence[str]
    patterns: Sequence[str]  # of the names of merged parameters
    execution_seed: int
    parameters: Sequence[str] | None  # names in the algorithm's order; None: it can merge them one at a time


def script_text(script: Script) -> str:
    """The file."""
    future, algorithm = _split_future(script.algorithm)
    template = Template((resources.files("selfdev.export") / _TEMPLATE).read_text("utf-8"))
    return template.substitute(
        provenance="\n".join(line.replace("\\", "/").replace('"""', "'''") for line in script.provenance),
        future=future,
        algorithm=algorithm.strip("\n"),
        seed=repr(script.seed),
        sources=repr(tuple(script.sources)),
        patterns=repr(tuple(script.patterns)),
        execution_seed=repr(script.execution_seed),
        parameters=_names(script.parameters),
    )


def _names(names: Sequence[str] | None) -> str:
    if names is None:
        return "None"
    return "(\n" + "".join(f"    {name!r},\n" for name in names) + ")"


def _split_future(source: str) -> tuple[str, str]:
    """`from __future__` lines, which must come first in a file, and everything else."""
    lines = source.splitlines()
    taken = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            taken += lines[first:last]
            lines[first:last] = [""] * (last - first)
    return textwrap.dedent("\n".join(taken)), "\n".join(lines)

"""`match` statements for the language layer: constants, sequences, mappings, captures and plain built-in types.

Left out: class patterns with keywords, which read attributes past the attribute guard, and dotted values.
"""

from __future__ import annotations

import ast
from typing import Any

from RestrictedPython.transformer import RestrictingNodeTransformer

_TYPES = frozenset(("bool", "bytes", "dict", "float", "int", "list", "set", "str", "tuple"))


class PatternPolicy(RestrictingNodeTransformer):  # type: ignore[misc]
    """Adds `match` to RestrictedPython's transformer; names that patterns bind are checked like any other."""

    def visit_Match(self, node: ast.Match) -> ast.AST:
        """The statement; its patterns are visited one by one below."""
        return self.node_contents_visit(node)  # type: ignore[no-any-return]

    visit_match_case = visit_Match
    visit_MatchSequence = visit_Match
    visit_MatchOr = visit_Match
    visit_MatchSingleton = visit_Match

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.AST:
        """`case 3`, `case -1`, `case "x"`; an attribute would be read unguarded."""
        inner = node.value.operand if isinstance(node.value, ast.UnaryOp) else node.value
        if not isinstance(inner, ast.Constant):
            self.error(node, "patterns may hold constants, names and built-in types only")
        self.visit(inner)
        return node

    def visit_MatchStar(self, node: ast.MatchStar) -> Any:
        """`case [first, *rest]`."""
        if node.name is not None:
            self.check_name(node, node.name)
        return node

    def visit_MatchAs(self, node: ast.MatchAs) -> Any:
        """`case x`, `case [...] as x`, `case _`."""
        if node.name is not None:
            self.check_name(node, node.name)
        return self.node_contents_visit(node)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> Any:
        """`case {"kind": kind, **rest}` with constant keys."""
        if node.rest is not None:
            self.check_name(node, node.rest)
        if not all(isinstance(key, ast.Constant) for key in node.keys):
            self.error(node, "the keys of a mapping pattern must be constants")
        return self.node_contents_visit(node)

    def visit_MatchClass(self, node: ast.MatchClass) -> Any:
        """`case int()`, `case str(x)`."""
        known = isinstance(node.cls, ast.Name) and node.cls.id in _TYPES
        if not known or node.kwd_attrs or len(node.patterns) > 1:
            self.error(node, "class patterns are available for built-in types only, without keywords")
        return self.node_contents_visit(node)

"""The language layer: source text -> code object, or one refusal with a line. Runs in the child only.

A subclass of RestrictedPython's transformer. What it adds to the language: augmented assignment to items, annotated
locals, `nonlocal`, `match` (see `patterns`), names with one leading underscore (renamed), `print` (ignored), imports
from an own table. What it takes away: classes, attribute assignment, jumps in `finally`, bare `except` (becomes
`except Exception`).

Around every `try` it inserts `_sync_()` calls: operations run asynchronously, and an error must be raised inside the
`try` that its operation was written in.
"""

from __future__ import annotations

import ast
from types import CodeType
from typing import Any, TypeVar

from RestrictedPython.transformer import (
    INSPECT_ATTRIBUTES,
    IOPERATOR_TO_STR,
    copy_locations,
)

from selfdev_sandbox.patterns import PatternPolicy

FILENAME = "<program>"
HIDDEN = "u_"  # prefix of renamed names: `_x` is compiled as `u__x`, `print` as `u_print`
RENAMED = frozenset({"print", "printed", "builtins", "breakpoint"})
MAX_INT = 1 << 63

# Modules and attributes that nobody needs for merging and that lead out. Asking for one is an attempt, not a slip.
FORBIDDEN_MODULES = frozenset(
    [
        "os",
        "sys",
        "subprocess",
        "socket",
        "ctypes",
        "pickle",
        "shutil",
        "importlib",
        "builtins",
        "inspect",
        "gc",
        "marshal",
        "multiprocessing",
        "threading",
        "signal",
        "pathlib",
        "io",
        "tempfile",
        "requests",
        "urllib",
        "http",
        "ssl",
        "asyncio",
        "pty",
        "fcntl",
        "mmap",
        "resource",
        "code",
        "codeop",
        "types",
        "ast",
        "dis",
        "traceback",
        "runpy",
        "pkgutil",
        "site",
        "glob",
        "select",
        "selectors",
        "posix",
        "nt",
        "shelve",
        "dill",
        "cloudpickle",
        "cffi",
        "concurrent",
    ]
)
FORBIDDEN_ATTRIBUTES = INSPECT_ATTRIBUTES | frozenset(
    [
        "os",
        "sys",
        "builtins",
        "ctypes",
        "importlib",
        "inspect",
        "subprocess",
        "system",
        "popen",
        "hub",
        "ops",
        "classes",
        "library",
        "load",
        "save",
        "from_file",
        "load_library",
        "serialization",
        "storage",
        "untyped_storage",
        "data_ptr",
        "as_strided",
        "set_",
        "tofile",
        "share_memory_",
        "from_numpy",
        "frombuffer",
        "from_dlpack",
        "to_dlpack",
        "multiprocessing",
        "utils",
        "cpp_extension",
        "package",
        "distributed",
        "set_default_device",
        "set_default_dtype",
        "set_num_threads",
        "use_deterministic_algorithms",
        "register_hook",
        "mro",
        "tb_lineno",
        "tb_lasti",
        "with_traceback",
        "add_note",
        "exec",
        "eval",
        "system",
        "globals",
    ]
)


class Refused(Exception):
    """The source is not run: `status` is syntax, unsupported or violation."""

    def __init__(self, status: str, message: str, line: int) -> None:
        super().__init__(message)
        self.status, self.message, self.line = status, message, line


def compile_program(source: str, limits: tuple[int, int, int]) -> CodeType:
    """Check and compile; `limits` are (characters, nodes, depth).

    Raises:
        Refused: with a status, a message for people, and the line (0 where there is none).
    """
    chars, nodes, depth = limits
    if len(source) > chars:
        raise Refused("syntax", f"the source has {len(source)} characters; at most {chars} are allowed", 0)
    try:
        source.encode("utf-8")
        tree = ast.parse(source, FILENAME)
        _measure(tree, nodes, depth)
        tree = ast.fix_missing_locations(_Prepare().visit(tree))
        Policy().visit(tree)
        return compile(ast.fix_missing_locations(tree), FILENAME, "exec", dont_inherit=True)
    except Refused:
        raise
    except SyntaxError as error:
        raise Refused("syntax", f"{error.msg or 'invalid syntax'}", error.lineno or 0) from None
    except UnicodeError:
        raise Refused("syntax", "the source is not valid Unicode", 0) from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        text = str(error) or "too deeply nested or too large"
        raise Refused("syntax", f"the source cannot be compiled: {text}", 0) from None


def _measure(tree: ast.AST, max_nodes: int, max_depth: int) -> None:
    """Refuse trees that cost too much to compile, without recursion."""
    count, level = 0, [tree]
    for _ in range(max_depth + 1):
        count += len(level)
        if count > max_nodes:
            raise Refused("syntax", f"the source is too large: more than {max_nodes} syntax nodes", 0)
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    line = next((n.lineno for n in level if isinstance(n, (ast.stmt, ast.expr))), 0)
    raise Refused("syntax", f"the source is nested more than {max_depth} levels deep", line)


def _is_main_guard(node: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, which honest files end in and which never runs here."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
        and not node.orelse
    )


class _Prepare(ast.NodeTransformer):
    """Turn what the restricted language lacks into what it has."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = [child for child in node.body if not _is_main_guard(child)]
        return self.generic_visit(node)

    def _rename(self, name: str, node: ast.AST) -> str:
        if name in ("__name__", "__all__", "__version__", "__author__"):
            return HIDDEN + name.strip("_")
        if name.startswith("_") and name.endswith("_") and len(name) > 1:
            soft = name in ("__doc__", "__file__")
            raise Refused(
                "unsupported" if soft else "violation",
                f"the name '{name}' is not available",
                getattr(node, "lineno", 0),
            )
        if name.startswith("__"):
            raise Refused("violation", f"the name '{name}' is not available", getattr(node, "lineno", 0))
        return HIDDEN + name if (name.startswith("_") and name != "_") or name in RENAMED else name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._rename(node.id, node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg, node.annotation = self._rename(node.arg, node), None
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        if node.arg is not None:
            node.arg = self._rename(node.arg, node)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = self._rename(node.name, node), None
        return self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        if node.name is not None:
            node.name = self._rename(node.name, node)
        if node.type is None:
            node.type = ast.Name("Exception", ast.Load())
        return self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> ast.AST:
        if node.name is not None:
            node.name = self._rename(node.name, node)
        return self.generic_visit(node)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> ast.AST:
        if node.rest is not None:
            node.rest = self._rename(node.rest, node)
        return self.generic_visit(node)

    def _names(self, node: ast.Global | ast.Nonlocal) -> ast.AST:
        node.names = [self._rename(name, node) for name in node.names]
        return node

    visit_Global = _names
    visit_Nonlocal = _names

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """`x: int = 1` -> `x = 1`; `x: int` -> `pass` (annotations are never evaluated)."""
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(ast.copy_location(ast.Assign([node.target], node.value), node))

    def visit_Import(self, node: ast.Import) -> Any:
        """`import a.b as c` -> `c = _import_('a.b')`; without `as` the name bound is the first part."""
        made = []
        for item in node.names:
            _check_module(item.name, node)
            bound = item.asname or item.name.split(".")[0]
            path = item.name if item.asname else bound
            check = _call("_import_", ast.Constant(item.name))
            value = (
                check
                if path == item.name
                else ast.Subscript(
                    ast.Tuple([check, _call("_import_", ast.Constant(path))], ast.Load()), ast.Constant(1), ast.Load()
                )
            )
            made.append(ast.Assign([ast.Name(self._rename(bound, node), ast.Store())], value))
        return [copy_all(m, node) for m in made]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        """`from a import b as c` -> `c = _import_('a', 'b')`."""
        if node.module == "__future__":
            return copy_all(ast.Pass(), node)
        if node.level or node.module is None:
            raise Refused("unsupported", "relative imports are not available", node.lineno)
        _check_module(node.module, node)
        made: list[ast.stmt] = []
        for item in node.names:
            if item.name == "*":
                raise Refused(
                    "unsupported", f"'from {node.module} import *' is not available; name what is needed", node.lineno
                )
            if item.name in FORBIDDEN_ATTRIBUTES or item.name.startswith("_"):
                raise Refused("violation", f"'{node.module}.{item.name}' is not available", node.lineno)
            value = _call("_import_", ast.Constant(node.module), ast.Constant(item.name))
            made.append(ast.Assign([ast.Name(self._rename(item.asname or item.name, node), ast.Store())], value))
        return [copy_all(m, node) for m in made]


def _check_module(name: str, node: ast.stmt) -> None:
    parts = name.split(".")
    if parts[0] in FORBIDDEN_MODULES or any(p in FORBIDDEN_ATTRIBUTES or p.startswith("_") for p in parts[1:]):
        raise Refused("violation", f"the module '{name}' is not available", node.lineno)


def _call(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(_Trusted(name), list(args), [])


class _Trusted(ast.Name):
    """A name that this module put there; the policy does not check it."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name, ctx=ast.Load())


_Node = TypeVar("_Node", bound=ast.AST)


def copy_all(new: _Node, old: ast.AST) -> _Node:
    """Give a new node and all below it the place of an old one."""
    for node in ast.walk(new):
        ast.copy_location(node, old)
    return new


class Policy(PatternPolicy):
    """RestrictedPython's rules with ours; stops at the first refusal."""

    def error(self, node: ast.AST, info: str) -> None:
        """Every finding of RestrictedPython: names that reach inside are violations, the rest is not offered."""
        line = getattr(node, "lineno", 0) or 0
        bad = "invalid attribute name" in info or "restricted name" in info or "invalid variable name" in info
        raise Refused("violation" if bad else "unsupported", _plain(info), line)

    def visit__Trusted(self, node: _Trusted) -> ast.AST:
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, int) and abs(node.value) >= MAX_INT:
            raise Refused("unsupported", "integers of more than 63 bits are not available", node.lineno)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        if node.attr == "__getitem__" and isinstance(node.ctx, ast.Load):  # max(range(n), key=scores.__getitem__)
            return copy_all_shallow(_call("_item_of_", self.visit(node.value)), node)
        if node.attr in FORBIDDEN_ATTRIBUTES:
            raise Refused("violation", f"the attribute '{node.attr}' is not available", node.lineno)
        if not isinstance(node.ctx, ast.Load):
            soft = node.attr in ("requires_grad", "grad", "data")
            raise Refused(
                "unsupported" if soft else "violation",
                f"assigning or deleting the attribute '{node.attr}' is not available",
                node.lineno,
            )
        return super().visit_Attribute(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        if not isinstance(node.target, ast.Subscript):
            return super().visit_AugAssign(node)
        parts = [node.target.value, node.target.slice, ast.Constant(IOPERATOR_TO_STR[type(node.op)]), node.value]
        call = ast.Call(_Trusted("_aug_"), [self.visit(part) for part in parts], [])
        statement = ast.Expr(call)
        copy_locations(statement, node)
        return statement

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        for name in node.names:
            self.check_name(node, name)
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:
        for name in node.names:
            self.check_name(node, name)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        raise Refused("unsupported", "class definitions are not available; use functions", node.lineno)

    def visit_Try(self, node: ast.Try) -> Any:
        for jump in _jumps(node.finalbody):
            raise Refused("unsupported", "return, break and continue in 'finally' are not available", jump.lineno)
        visited: ast.Try = self.node_contents_visit(node)
        visited.body = [*_sync_before_jumps(visited.body), copy_all(ast.Expr(_call("_sync_")), visited.body[-1])]
        return [copy_all(ast.Expr(_call("_sync_")), node), visited]

    def not_allowed(self, node: ast.AST) -> None:
        names = {"AsyncFunctionDef": "async functions", "TryStar": "'except*'"}
        kind = type(node).__name__
        raise Refused("unsupported", f"{names.get(kind, kind)} are not available", getattr(node, "lineno", 0))


def _plain(info: str) -> str:
    return info.replace('"', "'").replace(HIDDEN + "_", "_").replace(" in RestrictedPython", "")


_SCOPES = (ast.FunctionDef, ast.Lambda)


def _jumps(body: list[ast.stmt]) -> list[ast.stmt]:
    """return, break and continue statements in these, nested functions left out."""
    found: list[ast.stmt] = []
    stack: list[ast.AST] = list(body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.Return, ast.Break, ast.Continue)):
            found.append(node)
        elif not isinstance(node, _SCOPES):
            stack.extend(ast.iter_child_nodes(node))
    return found


def _sync_before_jumps(body: list[ast.stmt]) -> list[ast.stmt]:
    """Leaving a `try` body early must surface its errors first."""
    out: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.Return) and node.value is not None:
            node.value = copy_all_shallow(_call("_synced_", node.value), node)
        elif isinstance(node, (ast.Return, ast.Break, ast.Continue)):
            out.append(copy_all(ast.Expr(_call("_sync_")), node))
        elif not isinstance(node, _SCOPES):
            for field in ("body", "orelse", "finalbody"):
                inner = getattr(node, field, None)
                if inner:
                    setattr(node, field, _sync_before_jumps(inner))
            for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
                part.body = _sync_before_jumps(part.body)
        out.append(node)
    return out


def copy_all_shallow(call: ast.Call, old: ast.AST) -> ast.Call:
    """Place a call without touching the places of its arguments."""
    ast.copy_location(call, old)
    ast.copy_location(call.func, old)
    return call

"""Edits of a merge program, by its syntax tree. Pure.

    constants(source)       the numbers that a person could have chosen otherwise, and what each is for
    edits(source)           every removal of one constant, one branch, one statement
    apply(source, edits)    the text with some of them made; with none, the text as it was
    unread_imports(...)     the imports that nothing reads once some of them are made

A *constant* is a number written in the program that is not an index, a shape, a dimension or a count. Floats always are
constants, outside of subscripts and the keys of a dictionary. An integer is none where it stands in these or in a
comparison for equality, at a place of a call that takes dimensions, shapes or counts (`range(3)`, `view(4)`,
`topk(x, 5)`, `mean(0)`, `dim=1`, the shape of `full((4, 4), 2)` but not its value), beside a count (`len(tvs) - 1`,
`x.dim() > 1`) or a name that `range`, `enumerate` or `int` gives (`layer < 3`), under `//` or `%`, in what a loop runs
over, or where the name that it is given to is such a one or is used in such a place. Booleans and parts of strings are
none. Its role:

    value       everything else: what can be tuned
    guard       0 < |c| <= 1e-4: keeps a division or a logarithm finite
    exponent    an integer behind `**` or in `pow`: a real one is undefined for negative numbers

Removing a constant sets it to its neutral value: `c * x`, `x / c`, `x ** c`, `x + c`, `x - c` become `x`; a keyword is
left out, so that its default holds; elsewhere, and for factors too, 0 and 1 are tried. Removing a branch keeps one side
of an `if`, whatever its test says. Removing a statement leaves everything else as it is; imports, function headers,
docstrings and the last `return` of a function are no statements in this sense. A program that needs what was removed
fails when it is run: that is for the caller to find.

The text keeps its lines, comments and layout outside of the statements that an edit touches.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Number = int | float
GUARD = 1e-4  # constants up to this size keep something finite


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COUNTING = _words(  # calls in which an integer is a dimension, a shape or a count
    "range enumerate view reshape expand permute transpose squeeze unsqueeze flatten unflatten zeros ones empty "
    "rand randn randint randperm eye arange linspace size repeat tile chunk split topk kthvalue sort argsort argmax "
    "argmin cumsum cumprod diag diagonal roll flip manual_seed unbind stack cat concat select narrow gather "
    "index_select swapaxes movedim tril triu repeat_interleave bincount histc round"
)
_SIZED = _words("range zeros ones empty rand randn randint randperm eye arange linspace")  # no tensor comes first
_FILLING = _words("full new_full")  # a shape, then a value
_QUANTILES = _words("quantile nanquantile")  # a share, then a dimension
_COUNTING_MATH = _words("comb factorial gcd isqrt lcm perm")
_REAL_METHODS = _words(
    "clamp clip clamp_ clamp_min clamp_max mul add sub div mul_ add_ sub_ div_ multiply subtract divide where "
    "full_like fill_ lerp tensor maximum minimum threshold masked_fill masked_fill_ nan_to_num"
)
_REAL_NAMES = _words("max min abs float sum sqrt exp log")
_COUNTING_KEYWORDS = _words(
    "dim dims axis size shape k n ord p diagonal offset dim0 dim1 chunks steps rank num_samples seed decimals "
    "correction unbiased keepdim start end step repeats shifts sections full_matrices descending largest"
)
_COUNTS = _words("len numel size dim ndim shape ndimension")
_NOT_REMOVED = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Pass)


@dataclass(frozen=True, slots=True)
class Constant:
    """A number written in a program."""

    node: int  # its place in the syntax tree, breadth first
    value: Number
    line: int
    column: int  # in bytes, as Python counts
    role: Literal["value", "guard", "exponent"]
    statement: str  # where it stands, in short


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of one node."""

    kind: Literal["constant", "branch", "statement", "import"]
    node: int  # its place in the syntax tree, breadth first
    action: Literal["remove", "set", "left", "right", "body", "orelse"]
    line: int
    text: str  # for people: what is changed and how
    value: Number = 0  # of "set"


def constants(source: str) -> list[Constant]:
    """The constants of a program, in the order of its text.

    Raises:
        SyntaxError: not Python.
    """
    tree = _Tree.of(source)
    found = []
    for place, node in enumerate(tree.nodes):
        value = _number(node, tree.parent.get(id(node)))
        if value is None:
            continue
        role = _role(tree, node, value)
        if role is not None:
            assert isinstance(node, ast.expr)
            found.append(
                Constant(place, value, node.lineno, node.col_offset, role, _short(ast.unparse(tree.statement(node))))
            )
    return sorted(found, key=lambda c: (c.line, c.column))


def edits(source: str) -> list[Edit]:
    """Every removal of one constant, branch or statement, in the order of the text.

    Raises:
        SyntaxError: not Python.
    """
    tree = _Tree.of(source)
    listed = constants(source)
    found = [edit for c in listed for edit in _constant_edits(tree, c, _name(c, listed))]
    for place, node in enumerate(tree.nodes):
        found += _branch_edits(place, node)
        if isinstance(node, ast.stmt) and _removable(tree, node):
            text = f"remove `{_short(ast.unparse(node))}`"
            found.append(Edit("statement", place, "remove", node.lineno, text))
    return sorted(found, key=lambda e: (e.line, e.kind, e.node, e.action, e.value))


def set_constants(source: str, values: Mapping[int, Number]) -> str:
    """The text with constants replaced; `values` by `Constant.node`.

    Raises:
        ValueError: no number stands there.
    """
    tree = _Tree.of(source)
    for place in values:
        if not 0 <= place < len(tree.nodes) or _number(tree.nodes[place], None) is None:
            raise ValueError(f"node {place} is no number; see `constants`")
    return apply(source, [Edit("constant", place, "set", 0, "", value) for place, value in values.items()])


def apply(source: str, chosen: Sequence[Edit]) -> str:
    """The text with all the given edits made; what lies inside of something removed goes with it.

    Raises:
        SyntaxError: not Python.
        ValueError: two edits of one node.
    """
    if not chosen:
        return source
    actions = {edit.node: edit for edit in chosen}
    if len(actions) < len(chosen):
        raise ValueError("two edits of one node: choose one of them")
    tree = _Tree.of(source)
    rewrite = _Rewrite({id(tree.nodes[place]): edit for place, edit in actions.items()})
    spans = _literal_spans(tree, chosen)
    regions = [
        node for edit in chosen if edit.action != "set" if (node := tree.owner(tree.nodes[edit.node])) is not None
    ]
    whole_lines = len(regions) == sum(edit.action != "set" for edit in chosen)
    new = ast.fix_missing_locations(rewrite.module(tree.module))
    plain = ast.unparse(new) + "\n"
    if whole_lines:
        text = _respliced(tree, rewrite, regions, spans)
        if text is not None and _same(text, plain):
            return text
    return plain


def conflicts(first: Edit, second: Edit) -> bool:
    """Both change one node."""
    return first.node == second.node


def without_reader(source: str, chosen: Sequence[Edit], edit: Edit) -> bool:
    """With `chosen` made too, the edit removes an assignment to names that nothing is left to read.

    Raises:
        SyntaxError: not Python.
        ValueError: two edits of one node.
    """
    node = _Tree.of(source).nodes[edit.node]
    if edit.action != "remove" or not isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    left = ast.walk(ast.parse(apply(source, [*chosen, edit])))
    read = {n.id for n in left if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return all(isinstance(t, ast.Name) for t in targets) and not _targets(node) & read


def unread_imports(source: str, chosen: Sequence[Edit]) -> list[Edit]:
    """With `chosen` made, the removals of all imports whose names nothing is left to read, in the order of the text.

    Kept are imports inside of a `try`, whose failure the program may look at, and those of `*` and of `__future__`.

    Raises:
        SyntaxError: not Python.
        ValueError: two edits of one node.
    """
    tree, made = _Tree.of(source), apply(source, chosen)
    read = _read_names(ast.parse(made))
    found = []
    for place, node in enumerate(tree.nodes):
        if not isinstance(node, (ast.Import, ast.ImportFrom)) or _import_stays(tree, node):
            continue
        unread = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) not in read]
        places = [place] if len(unread) == len(node.names) else [tree.place[id(alias)] for alias in unread]
        for p in places:
            text = f"remove `{_short(ast.unparse(tree.nodes[p]))}`, which nothing reads"
            found.append(Edit("import", p, "remove", node.lineno, text))
    return [edit for edit in found if apply(source, [*chosen, edit]) != made]  # not gone already, with what holds it


def _import_stays(tree: _Tree, node: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return True
    return node.names[0].name == "*" or any(isinstance(above, ast.Try) for _, above in tree.above(node))


def _read_names(module: ast.Module) -> set[str]:
    """Names that are read, deleted, or declared in an inner scope."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            found |= set(node.names)
    return found


def size(source: str) -> int:
    """How large a program is: nodes of its syntax tree, names of operators and contexts apart."""
    left_out = (ast.expr_context, ast.operator, ast.cmpop, ast.unaryop, ast.boolop)
    return sum(not isinstance(node, left_out) for node in ast.walk(ast.parse(source)))


def written(value: Number) -> str:
    """A number as it stands in a program."""
    return repr(value)


# -- the tree ---------------------------------------------------------------------------------------------------------


@dataclass
class _Tree:
    """A program with what its nodes do not know."""

    source: str
    module: ast.Module
    nodes: list[ast.AST]  # breadth first
    parent: dict[int, ast.AST]  # by identity
    block: dict[int, tuple[ast.stmt, ...]]  # statement by identity -> the statements beside it, itself among them
    lines: list[str]

    @classmethod
    def of(cls, source: str) -> _Tree:
        module = ast.parse(source)
        nodes = list(ast.walk(module))
        parent = {id(child): node for node in nodes for child in ast.iter_child_nodes(node)}
        lists = [value for node in nodes for _, value in ast.iter_fields(node) if isinstance(value, list)]
        block = {id(s): tuple(members) for members in lists for s in members if isinstance(s, ast.stmt)}
        return cls(source, module, nodes, parent, block, re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", source))

    @cached_property
    def loop_counters(self) -> frozenset[str]:
        """Names that `range` or `enumerate` count with, or that `int` gives."""
        return _loop_counters(self.nodes)

    @cached_property
    def counting_names(self) -> frozenset[str]:
        """Names that are used as an index, a shape, a dimension or a count."""
        return _counting_names(self.nodes)

    @cached_property
    def place(self) -> dict[int, int]:
        """Node by identity -> its place."""
        return {id(node): place for place, node in enumerate(self.nodes)}

    def statement(self, node: ast.AST) -> ast.stmt:
        """The statement that a node belongs to."""
        while not isinstance(node, ast.stmt):
            node = self.parent[id(node)]
        return node

    def above(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """(node, its parent) upwards."""
        while (parent := self.parent.get(id(node))) is not None:
            yield node, parent
            node = parent

    def owner(self, node: ast.AST) -> ast.stmt | None:
        """The smallest statement around a node that has its lines for itself; None: there is none."""
        statement: ast.AST = self.statement(node)
        while isinstance(statement, ast.stmt):
            if self._alone(statement):
                return statement
            statement = self.parent[id(statement)]
        return None

    def _alone(self, s: ast.stmt) -> bool:
        before = self.lines[s.lineno - 1].encode()[: s.col_offset].decode()
        after = self.lines[(s.end_lineno or s.lineno) - 1].encode()[s.end_col_offset :].decode().strip()
        here = self.lines[s.lineno - 1].encode()[s.col_offset :].decode()
        return not before.strip() and (not after or after.startswith("#")) and not here.startswith("elif")


def _number(node: ast.AST, parent: ast.AST | None) -> Number | None:
    """The value of a literal number, its sign included; the literal below a sign is none of its own."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand, None) if isinstance(node.operand, ast.Constant) else None
        return None if inner is None else -inner
    signed = isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub)
    if not isinstance(node, ast.Constant) or signed:
        return None
    value = node.value
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _role(tree: _Tree, node: ast.AST, value: Number) -> Literal["value", "guard", "exponent"] | None:
    for below, above in tree.above(node):
        if isinstance(above, ast.JoinedStr) or (isinstance(above, ast.Subscript) and below is above.slice):
            return None
        if isinstance(above, ast.Dict) and any(below is key for key in above.keys):
            return None
    if value != value or abs(value) == float("inf"):
        return None
    if isinstance(value, float):
        return "guard" if 0 < abs(value) <= GUARD else "value"
    parent = tree.parent[id(node)]
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Pow) and parent.right is node:
        return "exponent"
    if isinstance(parent, ast.Call) and _called(parent) in ("pow", "pow_") and parent.args[-1:] == [node]:
        return "exponent"
    return None if _counts_something(tree, node) else "value"


def _counts_something(tree: _Tree, node: ast.AST) -> bool:
    """An integer is an index, a shape, a dimension or a count, by where it stands."""
    loops = tree.loop_counters
    for below, above in tree.above(node):
        if isinstance(above, ast.BinOp):
            other = above.left if below is above.right else above.right
            if not isinstance(above.op, (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)) or _is_count(other, loops):
                return True
        elif isinstance(above, ast.Compare):
            beside = [above.left, *above.comparators]
            if not all(isinstance(op, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) for op in above.ops):
                return True
            if any(_is_count(other, loops) for other in beside if other is not below):
                return True
        elif isinstance(above, ast.keyword):
            if above.arg in _COUNTING_KEYWORDS:
                return True
        elif isinstance(above, ast.Call):
            if _takes_counts(tree, above, below, node):
                return True
        elif isinstance(above, (ast.For, ast.comprehension)):
            if below is above.iter:
                return True
        elif isinstance(above, ast.AugAssign):
            if isinstance(above.op, (ast.Add, ast.Sub)) and below is node:
                return True
        elif isinstance(above, ast.arguments):
            return _parameter_of(above, below) in (tree.counting_names | _COUNTING_KEYWORDS)
        if isinstance(above, ast.stmt):
            return any(name in tree.counting_names | loops for name in _targets(above))
    return False


def _is_count(node: ast.AST, loops: frozenset[str]) -> bool:
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and (part.id in _COUNTS or part.id in loops):
            return True
        if isinstance(part, ast.Attribute) and part.attr in _COUNTS:
            return True
    return False


def _loop_counters(nodes: Sequence[ast.AST]) -> frozenset[str]:
    found = set()
    for node in nodes:
        if isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.iter, ast.Call):
            name = _called(node.iter)
            target: ast.AST = node.target
            if name == "enumerate" and isinstance(target, ast.Tuple) and target.elts:
                target = target.elts[0]
            elif name != "range":
                continue
            found |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.Assign):
            calls = [n for n in ast.walk(node.value) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
            if any(call.func.id == "int" for call in calls if isinstance(call.func, ast.Name)):
                found |= _targets(node)
    return frozenset(found)


def _takes_counts(tree: _Tree, call: ast.Call, below: ast.AST, node: ast.AST) -> bool:
    """What stands at a place of a call (`below`, on the way to the number) is a dimension, a shape or a count."""
    name, method = _called(call), isinstance(call.func, ast.Attribute)
    if below is call.func:
        return False
    if name in _COUNTING or name in _FILLING:
        return any(below is arg for arg in _counting_arguments(call))
    listed = isinstance(below, (ast.Tuple, ast.List)) and any(node is member for member in below.elts)
    if below is not node and not (method and listed):
        return False
    module = (
        call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ""
    )
    if module == "math":
        return name in _COUNTING_MATH
    if name in _QUANTILES:
        share = 1 if module == "torch" else 0
        return any(below is arg for arg in call.args[share + 1 :])
    if method:
        return name not in _REAL_METHODS
    own = {n.name for n in tree.nodes if isinstance(n, ast.FunctionDef)}
    return name not in own and name not in _REAL_NAMES


def _counting_arguments(call: ast.Call) -> list[ast.expr]:
    """The positional arguments that are dimensions, shapes or counts, of a call that takes such."""
    name = _called(call)
    if name in _FILLING:
        return call.args[:1]
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    of_torch = isinstance(owner, ast.Name) and owner.id == "torch"
    return call.args[1:] if of_torch and name not in _SIZED else call.args


def _called(call: ast.Call) -> str:
    func = call.func
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _counting_names(nodes: Sequence[ast.AST]) -> frozenset[str]:
    places: list[ast.AST] = []
    for node in nodes:
        if isinstance(node, ast.Subscript):
            places.append(node.slice)
        elif isinstance(node, ast.Call):
            counts = _called(node) in (_COUNTING | _FILLING) - {"enumerate"}
            places += _counting_arguments(node) if counts else []
            places += [k.value for k in node.keywords if counts or k.arg in _COUNTING_KEYWORDS]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.FloorDiv, ast.Mod)):
            places += [node.left, node.right]
    return frozenset(p.id for p in places if isinstance(p, ast.Name)) | frozenset(
        n.id for p in places if isinstance(p, ast.BinOp) for n in ast.walk(p) if isinstance(n, ast.Name)
    )


def _targets(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.Assign):
        nodes: Sequence[ast.AST] = statement.targets
    elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        nodes = [statement.target]
    else:
        return set()
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def _parameter_of(arguments: ast.arguments, default: ast.AST) -> str:
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    pairs = list(zip(names[len(names) - len(arguments.defaults) :], arguments.defaults, strict=True))
    pairs += [(a.arg, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None]
    return next((name for name, value in pairs if value is default), "")


# -- the edits --------------------------------------------------------------------------------------------------------


def _name(c: Constant, listed: Sequence[Constant]) -> str:
    """The number, with its place in the line where that holds it twice."""
    twice = sum(other.line == c.line and other.value == c.value for other in listed) > 1
    return f"{c.value!r} at column {c.column}" if twice else repr(c.value)


def _constant_edits(tree: _Tree, c: Constant, name: str) -> Iterator[Edit]:
    node = tree.nodes[c.node]
    parent = tree.parent[id(node)]
    if isinstance(parent, ast.keyword):
        yield Edit("constant", tree.place[id(parent)], "remove", c.line, f"leave out {parent.arg}={name}")
        return
    values: tuple[int, ...] = (0, 1)
    if isinstance(parent, ast.BinOp):
        right = parent.right is node
        if isinstance(parent.op, (ast.Mult, ast.Add)) or right:
            kept: Literal["left", "right"] = "left" if right else "right"
            rest = _short(ast.unparse(parent.left if right else parent.right))
            text = f"`{_short(ast.unparse(parent))}` becomes `{rest}`"
            yield Edit("constant", tree.place[id(parent)], kept, c.line, text)
            values = (0,) if isinstance(parent.op, ast.Mult) else ()
    for value in values:
        if value != c.value:
            yield Edit("constant", c.node, "set", c.line, f"{name} becomes {value}", value)


def _branch_edits(place: int, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, (ast.If, ast.IfExp)):
        test = _short(ast.unparse(node.test))
        yield Edit("branch", place, "body", node.lineno, f"as if `{test}` always held")
        yield Edit("branch", place, "orelse", node.lineno, f"as if `{test}` never held")


def _removable(tree: _Tree, node: ast.stmt) -> bool:
    if isinstance(node, _NOT_REMOVED):
        return False
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return False
    parent = tree.parent[id(node)]
    last = isinstance(node, ast.Return) and node is tree.block[id(node)][-1] and isinstance(parent, ast.FunctionDef)
    return not last


class _Rewrite(ast.NodeTransformer):
    """Makes the edits in place and remembers what became of every statement."""

    def __init__(self, actions: Mapping[int, Edit]) -> None:
        self._actions = actions  # by identity of the node
        self.became: dict[int, list[ast.stmt]] = {}

    def module(self, module: ast.Module) -> ast.Module:
        finals = [node for node in ast.walk(module) if isinstance(node, ast.Try) and node.finalbody]
        self.generic_visit(module)
        for node in ast.walk(module):
            if isinstance(getattr(node, "body", None), list) and not node.body:  # type: ignore[attr-defined]
                node.body = [ast.Pass()]  # type: ignore[attr-defined]
        for node in finals:
            node.finalbody = node.finalbody or [ast.Pass()]
        return module

    def visit(self, node: ast.AST) -> ast.AST | list[ast.stmt] | None:
        edit = self._actions.get(id(node))
        out = self.generic_visit(node) if edit is None else self._edited(node, edit)
        if isinstance(node, ast.stmt):
            self.became[id(node)] = out if isinstance(out, list) else [] if out is None else [out]  # type: ignore[list-item]
        return out

    def _edited(self, node: ast.AST, edit: Edit) -> ast.AST | list[ast.stmt] | None:
        if edit.action == "remove":
            return None
        if edit.action == "set":
            return _literal(edit.value)
        kept = getattr(node, edit.action)
        if isinstance(kept, list):
            return [new for statement in kept for new in self._listed(statement)]
        return self.visit(kept)

    def _listed(self, statement: ast.stmt) -> list[ast.stmt]:
        self.visit(statement)
        return self.became[id(statement)]


def _literal(value: Number) -> ast.expr:
    return ast.parse(written(value), mode="eval").body


# -- the text ---------------------------------------------------------------------------------------------------------


def _literal_spans(tree: _Tree, chosen: Sequence[Edit]) -> list[tuple[ast.expr, str]]:
    """Literals whose text alone changes."""
    spans = []
    for edit in chosen:
        node = tree.nodes[edit.node]
        if edit.action == "set" and isinstance(node, ast.expr):
            text = written(edit.value)
            bare = isinstance(
                tree.parent[id(node)], (ast.Call, ast.keyword, ast.Assign, ast.List, ast.Tuple, ast.arguments)
            )
            spans.append((node, text if bare or not text.startswith("-") else f"({text})"))
    return spans


def _respliced(
    tree: _Tree, rewrite: _Rewrite, regions: Sequence[ast.stmt], spans: Sequence[tuple[ast.expr, str]]
) -> str | None:
    """The text with the lines of some statements written anew, and some literals replaced; None: it cannot be done."""
    outer: dict[int, ast.stmt] = {}
    for region in _outermost(tree, regions):
        grown = _never_empty(tree, rewrite, region)
        if grown is None:
            return None
        outer[id(grown)] = grown
    kept = _outermost(tree, list(outer.values()))
    lines: list[str] = list(tree.lines)
    for node, text in sorted(spans, key=lambda span: (span[0].lineno, span[0].col_offset), reverse=True):
        if any(s.lineno <= node.lineno <= (s.end_lineno or 0) for s in kept):
            continue
        if node.lineno != node.end_lineno:
            return None
        raw = lines[node.lineno - 1].encode()
        lines[node.lineno - 1] = (raw[: node.col_offset] + text.encode() + raw[node.end_col_offset :]).decode()
    for s in sorted(kept, key=lambda s: s.lineno, reverse=True):
        indent = tree.lines[s.lineno - 1].encode()[: s.col_offset].decode()
        new = "\n".join(map(ast.unparse, map(ast.fix_missing_locations, rewrite.became[id(s)])))
        lines[s.lineno - 1 : s.end_lineno] = [f"{indent}{line}\n" if line else "\n" for line in new.splitlines()]
    return "".join(lines)


def _outermost(tree: _Tree, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Each statement once, without those that lie inside of another."""
    given = {id(s): s for s in statements}
    return [s for s in given.values() if not any(id(above) in given for _, above in tree.above(s))]


def _never_empty(tree: _Tree, rewrite: _Rewrite, statement: ast.stmt) -> ast.stmt | None:
    """The statement, or the first one around it whose block keeps something and that has its lines for itself."""
    while not isinstance(tree.parent[id(statement)], ast.Module):
        if any(rewrite.became[id(beside)] for beside in tree.block[id(statement)]):
            return statement
        around = tree.owner(tree.parent[id(statement)])
        if around is None:
            return None
        statement = around
    return statement


def _same(text: str, plain: str) -> bool:
    try:
        return ast.dump(ast.parse(text)) == ast.dump(ast.parse(plain))
    except SyntaxError:
        return False


def _short(text: str, most: int = 48) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."

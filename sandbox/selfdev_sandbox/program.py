"""What the child does: read the program, compile it, run it, say how it ended. Runs behind the walls."""

from __future__ import annotations

import collections
import os
import sys
from types import FunctionType, TracebackType
from typing import Any, NoReturn

from selfdev_sandbox import guards, protocol, wire
from selfdev_sandbox.client import Tensor
from selfdev_sandbox.contract import printable
from selfdev_sandbox.guards import Missing
from selfdev_sandbox.namespaces import Importer
from selfdev_sandbox.policy import FILENAME, HIDDEN, Refused, compile_program
from selfdev_sandbox.protocol import Done, Fail, Start
from selfdev_sandbox.values import DEVICE, DTYPES, Device, Size
from selfdev_sandbox.wire import Connection

_IMPORTER = Importer()  # built in the zygote; a child works on its own copy
_RECURSION = 400  # frames; deep enough for honest helpers, shallow enough for the C stack


def _fail(connection: Connection, status: str, message: str, line: int) -> int:
    text = printable(message.replace(HIDDEN + "_", "_"), 900)
    connection.buffer += protocol.frame(Fail(status, text, line))
    connection.flush()
    return 0


def serve(fd: int) -> int:
    """Run the one program that comes over the descriptor; return the exit code."""
    connection = wire.connect(fd)
    start = protocol.decode_start(connection.receive())

    def stop(message: str) -> NoReturn:
        try:
            _fail(connection, "violation", message, wire.program_line())
        finally:
            os._exit(2)

    guards.set_violation_handler(stop)
    try:
        return _run(connection, start)
    except Refused as refused:
        return _fail(connection, refused.status, refused.message, refused.line)
    except MemoryError as error:
        return _fail(connection, "memory", "out of memory in the program's own process", _line_of(error.__traceback__))
    except BaseException as error:
        return _fail(connection, *_describe(connection, error))


def _run(connection: Connection, start: Start) -> int:
    code = compile_program(start.source, (start.source_chars, start.source_nodes, start.source_depth))
    sys.setrecursionlimit(_RECURSION)
    DEVICE[0] = Device(start.device)
    _IMPORTER.numbers.seed(start.seed)
    vectors = _inputs(connection, start)
    namespace: dict[str, Any] = {
        "__builtins__": guards.program_builtins(),
        **guards.guard_hooks(),
        "_import_": _IMPORTER,
        "_sync_": connection.sync,
        "_synced_": _synced(connection),
    }
    exec(code, namespace)
    entry = namespace.get(start.entry)
    if not isinstance(entry, FunctionType):
        names = [n for n, v in namespace.items() if isinstance(v, FunctionType) and v.__code__.co_filename == FILENAME]
        found = f"; it defines {', '.join(names[:5])}" if names else ""
        return _fail(
            connection, "unsupported", f"the program defines no function {start.entry}(task_vectors){found}", 0
        )
    result = entry(vectors)
    connection.sync()
    return _finish(connection, start, result)


def _synced(connection: Connection) -> Any:
    def synced(value: Any) -> Any:
        connection.sync()
        return value

    return synced


def _inputs(connection: Connection, start: Start) -> list[dict[str, Tensor]]:
    """One dictionary per source; the server gave its tensors the handles 1, 2, ... in this order."""
    shapes = [(name, Size(s.shape), DTYPES[s.dtype]) for name, s in zip(start.names, start.specs, strict=True)]
    vectors = []
    for _ in range(start.sources):
        first = connection.next_handle
        vectors.append({name: Tensor(first + j, shape, dtype) for j, (name, shape, dtype) in enumerate(shapes)})
        connection.next_handle = first + len(shapes)
    return vectors


def _finish(connection: Connection, start: Start, result: Any) -> int:
    """Check what can be seen here; the server checks again, and the values."""
    if type(result) not in (dict, collections.OrderedDict, collections.defaultdict):
        return _fail(connection, "invalid", f"the result is a {_name(result)}, not a dict of tensors", 0)
    for name, value in result.items():
        if type(name) is not str:
            return _fail(connection, "invalid", f"a name in the result is a {_name(name)}, not a str", 0)
        if type(value) is not Tensor:
            return _fail(connection, "invalid", f"the result's '{name}' is a {_name(value)}, not a tensor", 0)
    connection.freed = []
    connection.send(Done(list(result), [value.ref.i for value in result.values()]))
    connection.flush()
    return 0


def _name(value: Any) -> str:
    return type(value).__name__


def _line_of(traceback: TracebackType | None) -> int:
    """The last line of the program on the way to an error."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == FILENAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _describe(connection: Connection, error: BaseException) -> tuple[str, str, int]:
    """Status, message and line of an error that reached the top."""
    line = _line_of(error.__traceback__)
    if connection.error is not None and connection.error[0] is error:
        line = connection.error[1] or line
    if isinstance(error, Missing):
        return "unsupported", str(error), line
    if isinstance(error, NameError):
        return "exception", f"NameError: {error}", line
    if not isinstance(error, Exception):
        return "exception", f"the program left with {_name(error)}", line
    try:
        text = str(error)
    except Exception:
        text = ""
    return "exception", f"{_name(error)}: {text}"[:2000], line


_WARM = """
import math, re, itertools, collections
import torch.nn.functional as F
from typing import List
def merge_models(task_vectors):
    out: dict = {}
    pattern = re.compile(r"(\\d+)")
    for i, (k, v) in enumerate([("a1", 1)]):
        out[k] = v
        out[k] += f"{i:.2f}" and math.sqrt(4)
    try:
        return sorted(out.items(), key=lambda p: p[0])
    except (ValueError, KeyError) as error:
        raise RuntimeError("no") from None
"""


def warm_up() -> None:
    """Use once in the zygote what would import or allocate on first use in a child."""
    code = compile_program(_WARM, (20_000, 6_000, 60))
    namespace: dict[str, Any] = {
        "__builtins__": guards.program_builtins(),
        **guards.guard_hooks(),
        "_import_": _IMPORTER,
        "_sync_": lambda: None,
        "_synced_": lambda value: value,
    }
    exec(code, namespace)
    namespace["merge_models"]([])
    compile("\u00e9 = 1", FILENAME, "exec")  # the parser imports unicodedata for non-ASCII names
    float("1e5"), repr(1.5), f"{1.0:.3f} {2}"

"""The process that answers are compared in: everything that hands a model's text to sympy or math-verify runs here.

Started by `selfdev.grading.processes` with its end of a pipe; answers one JSON job after the other until the pipe ends.
It may hang or eat its memory: the parent kills it. It holds no secrets but it is no sandbox either. Nothing of torch is
imported, and sympy only by `math_functions`.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Functions = dict[str, Callable[..., Any]]

LM_EVAL_SECONDS = 5  # the SIGALRM that lm-eval 0.4.13 and math-verify 0.9 set themselves, per parse and per comparison
_PR_SET_PDEATHSIG = 1
_SHOWN = 200  # characters of an extracted answer that go back


def math_functions() -> Functions:
    """What a scorer process of this package can do. Imports sympy and math-verify and uses each once: about 2 s.

    The first use builds parsers and fills caches; that must not count as time of the first job.
    """
    import logging

    logging.disable(logging.CRITICAL)
    minerva_equal(r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}")
    verify_answers(r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}")
    return {"minerva": minerva_equal, "whole": verify_whole, "answers": verify_answers}


def minerva_equal(gold: str, answer: str) -> bool:
    """Whether sympy's LaTeX parser finds two normalised answers to differ by 0; whatever goes wrong is a no.

    The same as `is_equiv` of lm-eval 0.4.13's minerva_math for two strings that are not identical.
    """
    import sympy
    from sympy.parsing.latex import parse_latex

    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(LM_EVAL_SECONDS)
    try:
        return bool(sympy.simplify(parse_latex(answer) - parse_latex(gold)) == 0)
    except MemoryError:
        raise
    except Exception:
        return False
    finally:
        signal.alarm(0)


def _alarm(*_: object) -> None:
    raise TimeoutError


def verify_whole(reference: str, completion: str) -> tuple[bool, str | None]:
    """lm-eval 0.4.13's `math_verify`: whole reference solution against whole completion, and what was read from it."""
    from math_verify import parse, verify

    found = parse(completion)
    shown = next((part for part in found if isinstance(part, str)), None)
    return bool(verify(gold=parse(reference), target=found)), None if shown is None else shown[:_SHOWN]


def verify_answers(gold: str, answer: str) -> bool:
    """math-verify on two bare answers."""
    from math_verify import parse, verify

    return bool(verify(gold=parse(f"\\boxed{{{gold}}}"), target=parse(f"\\boxed{{{answer}}}")))


def serve(descriptor: int, parent: int, memory: int, load: Callable[[], Functions]) -> None:
    """Answer jobs until the pipe ends.

    A job is a list: the name of a function and its arguments. The reply has `value` and `seconds`, or `error`. The
    first message, unasked, is an empty reply; or an `error` when the functions cannot be loaded.

    Args:
        descriptor: of this process's end of a `multiprocessing.Pipe`.
        parent: process id of whoever must outlive this process.
        memory: bytes of address space.
        load: gives the functions; not under the limits.
    """
    _die_with(parent)
    connection = Connection(descriptor)
    try:
        functions = load()
    except Exception as error:
        connection.send_bytes(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send_bytes(b"{}")
    while True:
        try:
            name, *arguments = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        connection.send_bytes(json.dumps(_answer(functions[name], arguments)).encode())


def _answer(function: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    begin = time.monotonic()
    try:
        return {"value": function(*arguments), "seconds": time.monotonic() - begin}
    except BaseException as error:  # math-verify's timeout is no Exception
        return {"error": type(error).__name__}


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that call
        os._exit(0)


def main() -> None:
    """Arguments: descriptor, parent, memory, and MODULE:FUNCTION that gives the functions."""
    descriptor, parent, memory, origin = sys.argv[1:]
    module, _, name = origin.partition(":")
    serve(int(descriptor), int(parent), int(memory), lambda: getattr(importlib.import_module(module), name)())

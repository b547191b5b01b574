"""Verdicts on completions. Graders by name; each is imported only when it is asked for.

A grader compares a completion with a gold answer in its own form; `gold_of` makes that form of a data row's reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import cast

from selfdev.errors import UsageError
from selfdev.grading.base import Grade, Grader

__all__ = ["GRADERS", "Grade", "Grader", "gold_of", "grade_all", "load_grader"]

_SYMBOLIC = "pip install 'selfdev[math]'"
_VERIFY_VERSIONS, _ANTLR_VERSION = ("0.9.",), "4.11"


@dataclass(frozen=True, slots=True)
class _Row:
    """Where a grader lies and what it is."""

    module: str  # below selfdev.grading
    grade: str
    gold: str
    help: str
    symbolic: bool = False  # needs math-verify and sympy


GRADERS: dict[str, _Row] = {
    "gsm8k-strict": _Row("gsm8k", "grade_strict", "gold_answer", "lm-eval's gsm8k, strict-match"),
    "gsm8k-flexible": _Row("gsm8k", "grade_flexible", "gold_answer", "lm-eval's gsm8k, flexible-extract"),
    "math": _Row("math", "grade_math", "boxed_gold", "last box or closing sentence, equal in value", True),
    "math-minerva": _Row("math", "grade_minerva", "minerva_gold", "lm-eval's minerva_math, exact_match", True),
    "math-hendrycks": _Row("math", "grade_hendrycks", "lm_eval_gold", "lm-eval's hendrycks_math, exact_match"),
    "math-verify": _Row("math", "grade_verify", "whole_gold", "lm-eval's minerva_math, math_verify", True),
    "exact": _Row("text", "grade_exact", "exact_gold", "the same words"),
    "number": _Row("text", "grade_number", "number_gold", "the last number, equal within 1e-6"),
}


def load_grader(name: str) -> Grader:
    """The grader of that name.

    Raises:
        UsageError: unknown, or a package that it needs is not installed.
    """
    row = _row(name)
    if row.symbolic:
        _require_symbolic(name)
    return cast("Grader", getattr(_module(row), row.grade))


def gold_of(name: str, reference: str) -> str:
    """What a grader takes as `gold`, from a data row's reference: a whole solution or a bare answer.

    Raises:
        UsageError: unknown grader.
        DataError: the reference holds no answer of the kind. The message names no place; the caller knows it.
    """
    row = _row(name)
    make = cast("Callable[[str], str]", getattr(_module(row), row.gold))
    return make(reference)


def grade_all(
    judge: Grader, completions: Sequence[str], golds: Sequence[str], on_grade: Callable[[], object] = lambda: None
) -> list[Grade]:
    """Verdicts in order, several at a time: as many as there are scorer processes.

    Args:
        judge: from `load_grader`.
        completions: texts.
        golds: one per completion, from `gold_of`.
        on_grade: called in this thread after each verdict.
    """
    from selfdev.grading.processes import shared_pool

    grades = []
    with ThreadPoolExecutor(shared_pool().size) as threads:
        futures = [threads.submit(judge, *pair) for pair in zip(completions, golds, strict=True)]
        try:
            for future in futures:
                grades.append(future.result())
                on_grade()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return grades


def _row(name: str) -> _Row:
    if name not in GRADERS:
        raise UsageError(f"unknown grader {name!r}; allowed: {', '.join(GRADERS)}")
    return GRADERS[name]


def _module(row: _Row) -> object:
    return import_module(f"selfdev.grading.{row.module}")


def _require_symbolic(name: str) -> None:
    """math-verify in a version whose verdicts are known, and the one antlr that sympy's LaTeX parser works with."""
    for package, allowed in (("math-verify", _VERIFY_VERSIONS), ("antlr4-python3-runtime", (_ANTLR_VERSION,))):
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise UsageError(f"grader {name!r} needs {package}, which is not installed; {_SYMBOLIC}") from None
        if not found.startswith(allowed):
            raise UsageError(f"grader {name!r} needs {package} {' or '.join(allowed)}*, found {found}; {_SYMBOLIC}")

"""Graders for users' own questions: `exact` compares words, `number` the last number. Pure.

Both look for `#### ANSWER`, else a LaTeX box, else "answer is ANSWER" or "Answer: ANSWER" (to the end of the line), and
read the last of its kind. Without any, `exact` takes the last line that is not empty, `number` the whole text.
"""

from __future__ import annotations

import math
import re
import unicodedata

from selfdev.errors import DataError
from selfdev.grading.base import Grade
from selfdev.grading.latex import last_boxed, plain_number, squeezed, tidy, unwrapped

RELATIVE, ABSOLUTE = 1e-6, 1e-9  # tolerance of `number`: of the larger value, and near zero

_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
_STATED = re.compile(r"(?i:\banswer(?:[ \t]+is[ \t]*:?|[ \t]*:))[ \t]*(\S[^\n]*)")
_NUMBER = re.compile(
    r"(?<![\w./])[-+]?(?:[$€£¥][ ]?)?(?:\d+ (?=\d+/\d))?"
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:/\d+)?(?![\d/])"
)
_ONE_CHARACTER = re.compile("[¼-¾⅐-⅞]")  # fractions
_EDGES = " \t\r\n\"'`*$.,;:!"


def grade_exact(completion: str, gold: str) -> Grade:
    """Equal after `plain_text`; `gold` likewise."""
    answer = plain_text(_answer_part(completion) or _last_line(completion))
    return Grade(answer or None, bool(answer) and answer == gold)


def grade_number(completion: str, gold: str) -> Grade:
    """The last number equals `gold`, from `number_gold`, within the tolerance: 51, 51.0 and $51.00 are the same."""
    value = _number(_answer_part(completion) or completion)
    if value is None and _marked(completion) is None:  # "The answer is:" and the number on the next line
        value = _number(completion)
    if value is None:
        return Grade(None, False)
    close = math.isclose(value, float(gold), rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return Grade(_shown(value), close)


def exact_gold(reference: str) -> str:
    """Gold of `exact`: the reference, or what its `####` or box says, as `plain_text`.

    Raises:
        DataError: nothing is left.
    """
    gold = plain_text(_answer_part(reference) or reference)
    if not gold:
        raise DataError("the reference holds no answer")
    return gold


def number_gold(reference: str) -> str:
    """Gold of `number`: the last number of the reference. Raises DataError without one."""
    value = _number(_answer_part(reference) or reference)
    if value is None:
        raise DataError(f"the reference holds no number: {reference[:60]!r}")
    return _shown(value)


def plain_text(text: str) -> str:
    """Lower case, compatible Unicode forms unified, single spaces, no quotes or punctuation at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


def last_number(text: str) -> float | None:
    """The last finite number: thousands separators, currency signs, exponents, `a/b` and mixed numbers are read."""
    text = text.replace("−", "-").replace("{,}", ",").replace("\\!", "")  # noqa: RUF001
    for piece in reversed(_NUMBER.findall(_ONE_CHARACTER.sub(_with_slash, text))):
        value = _value(piece)
        if value is not None and math.isfinite(value):
            return value
    return None


def _number(text: str) -> float | None:
    """The value of a text that is nothing but a number in LaTeX, else the last number."""
    value = plain_number(squeezed(tidy(text)))
    return last_number(text) if value is None else float(value)


def _with_slash(fraction: re.Match[str]) -> str:
    return " " + unicodedata.normalize("NFKC", fraction.group()).replace("\u2044", "/")


def _value(piece: str) -> float | None:
    whole, _, ratio = re.sub(r"[,+]|[$€£¥] ?", "", piece).rpartition(" ")
    above, _, below = ratio.partition("/")
    try:
        value = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return None
    if not whole or value >= 1:  # `5 12/4` is no mixed number
        return value
    return float(whole) + (-value if whole.startswith("-") else value)


def _shown(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _answer_part(text: str) -> str | None:
    return _marked(text) or _last(_STATED, text)


def _marked(text: str) -> str | None:
    """What a `####` or a box says: a format that leaves nothing open."""
    boxed = last_boxed(text)
    return _last(_HASHES, text) or (boxed and unwrapped(boxed))


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return found[-1] if found else None


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")

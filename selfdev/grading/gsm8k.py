"""Final answers of GSM8K-style completions, extracted and compared exactly as lm-eval 0.4.13 does in task `gsm8k` 3.0.

Its two filters: `strict-match` takes the first `#### N`, `flexible-extract` the last thing that looks like a number.
Its comparison: both sides lose `,`, `$`, all up to the last `#### ` and one closing full stop, become lower case, and
must then be the same string. So `1000.00` is not `1000`, and `#### $1000` fails the strict filter; that is the point of
agreeing with it. Left out: chain-of-thought filters ("The answer is N"), MATH.
"""

from __future__ import annotations

import re

from selfdev.errors import DataError
from selfdev.grading.base import Grade

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = tuple(re.compile(pattern) for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"))


def extract_strict(text: str) -> str | None:
    """The first number after `#### `, as written; None where there is none."""
    found = _STRICT.search(text)
    return found.group(1).strip() if found else None


def extract_flexible(text: str) -> str | None:
    """The last number-like piece of the text, as written; None where there is none."""
    found = _FLEXIBLE.findall(text)  # pairs of groups, one of them empty
    return "".join(found[-1]).strip() if found else None


def normalise(answer: str) -> str:
    """What is left to compare: of an extracted answer or of a whole reference solution."""
    for pattern in _IGNORED:
        answer = pattern.sub("", answer)
    return answer.lower()


def gold_answer(reference: str) -> str:
    """Gold of both graders: the normalised reference, a whole solution or a bare number.

    Raises:
        DataError: no digit in it, so that no completion could be right.
    """
    gold = normalise(reference)
    if not re.search("[0-9]", gold):
        raise DataError(f"the reference holds no number: {reference[:60]!r}")
    if re.search(r"[^\W\d_]", gold):  # lm-eval would compare with the whole text, which nothing equals
        raise DataError(f"the reference is no number and does not end in '#### N': {reference[:60]!r}")
    return gold


def grade_strict(completion: str, gold: str) -> Grade:
    """lm-eval's `exact_match,strict-match`; `gold` from `gold_answer`."""
    return _compare(extract_strict(completion), gold)


def grade_flexible(completion: str, gold: str) -> Grade:
    """lm-eval's `exact_match,flexible-extract`; `gold` from `gold_answer`."""
    return _compare(extract_flexible(completion), gold)


def _compare(extracted: str | None, gold: str) -> Grade:
    if extracted is None:
        return Grade(None, False)
    answer = normalise(extracted)
    return Grade(answer, answer == gold)

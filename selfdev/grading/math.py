r"""MATH answers: the grader that the search uses, and lm-eval 0.4.13's three verdicts, one for one.

    math-hendrycks   `exact_match` of tasks hendrycks_math*: what is between the first and last `$`, as text
    math-minerva     `exact_match` of tasks minerva_math*: the closing sentence, as text, else sympy's difference is 0
    math-verify      `math_verify` of tasks minerva_math*: whole solution against whole completion
    math             the search's own: the last box, else "final answer is ..."; as text, as number, else math-verify

`math` differs from `math-verify` on purpose: it reads only the completion up to the next "Problem:", takes the last of
several boxes (math-verify makes a set of all), wants a box or the closing sentence (math-verify takes any formula or
number of the text), and compares words as words (to math-verify, letters are factors that commute).

Parsers of untrusted text run in scorer processes only. A comparison that is stopped there is wrong and `timed_out`;
the three lm-eval verdicts differ from lm-eval's where lm-eval itself would run longer than the limit of the process.
"""

from __future__ import annotations

import re
from functools import lru_cache

from selfdev.errors import DataError
from selfdev.grading import lm_eval
from selfdev.grading.base import Grade
from selfdev.grading.latex import (
    in_base,
    last_boxed,
    plain_number,
    read_words,
    squeezed,
    stated_answer,
    tidy,
    without_percent,
    words_of,
)
from selfdev.grading.processes import Stopped, shared_pool
from selfdev.grading.scorer import LM_EVAL_SECONDS

STOP = "Problem:"  # lm-eval's stop string: what follows is another question

_LISTED = re.compile(r",\s+\d")
_CERTAIN = 10**12  # integers up to here differ for math-verify too if they differ at all


def solution_of(reference: str) -> str:
    r"""The reference as a solution: with `\boxed{}` put around it if it is a bare answer.

    Raises:
        DataError: it has no box and is no bare answer: it goes over several lines, or ends in `#### N`.
    """
    if "\\boxed" in reference or "\\fbox" in reference:
        return reference
    if "####" in reference or "\n" in reference.strip():
        raise DataError("the reference is a solution without \\boxed{}")
    return f"\\boxed{{{reference}}}"


def boxed_gold(reference: str) -> str:
    r"""Gold of `math`: the last `\boxed{}` of a reference solution, or the bare answer.

    Raises:
        DataError: the box is empty or not closed.
    """
    gold = last_boxed(solution_of(reference))
    if not gold:
        raise DataError("the reference has no closed \\boxed{} with an answer in it")
    return gold


def lm_eval_gold(reference: str) -> str:
    r"""Gold of `math-hendrycks`: what lm-eval takes from the reference solution.

    Raises:
        DataError: lm-eval finds nothing.
    """
    gold = lm_eval.last_box(solution_of(reference))
    if gold is None or not gold.strip():
        raise DataError("the reference has no closed \\boxed{} with an answer in it")
    return gold


def minerva_gold(reference: str) -> str:
    """Gold of `math-minerva`, in its normal form. Raises DataError like `lm_eval_gold`."""
    return lm_eval.minerva_form(lm_eval_gold(reference))


def whole_gold(reference: str) -> str:
    """Gold of `math-verify`: the whole solution. Raises DataError like `boxed_gold`."""
    boxed_gold(reference)
    return solution_of(reference)


def grade_hendrycks(completion: str, gold: str) -> Grade:
    """lm-eval's hendrycks_math; `gold` from `lm_eval_gold`."""
    answer = lm_eval.between_dollars(completion)
    return Grade(answer.strip() or None, lm_eval.hendrycks_equal(answer, gold))


def grade_minerva(completion: str, gold: str) -> Grade:
    """lm-eval's minerva_math `exact_match`; `gold` from `minerva_gold`."""
    said = lm_eval.final_answer(completion)
    if said is None:
        return Grade(None, False)
    answer = lm_eval.minerva_form(said)
    if answer and answer == gold:
        return Grade(answer, True)
    return _grade(answer, *_ask("minerva", gold, answer))


def grade_verify(completion: str, gold: str) -> Grade:
    """lm-eval's minerva_math `math_verify`; `gold` from `whole_gold`."""
    try:
        (correct, shown), seconds = shared_pool().ask("whole", gold, completion)
    except Stopped:
        return Grade(None, False, timed_out=True)
    return Grade(shown, correct, timed_out=not correct and seconds >= LM_EVAL_SECONDS)


def grade_math(completion: str, gold: str) -> Grade:
    """The search's grader; `gold` from `boxed_gold`. math-verify is asked only where text and numbers leave it open."""
    text = completion.split(STOP, 1)[0]
    found = last_boxed(text) or stated_answer(text)
    if found is None:
        return Grade(None, False)
    answer, gold = tidy(found), tidy(gold)
    settled = quick_verdict(answer, gold)
    if settled is not None:
        return Grade(answer, settled)
    return _grade(answer, *_ask("answers", without_percent(gold), without_percent(answer)))


def quick_verdict(answer: str, gold: str) -> bool | None:
    """The verdict on two bare answers where text or plain numbers settle it; None: they do not.

    A percent sign is a unit that may be left out, or the factor that it is: for `50\\%`, 50 and 0.5 will do.
    """
    ours, theirs = squeezed(answer), squeezed(gold)
    if not ours or without_percent(ours) == without_percent(theirs):
        return bool(ours)
    words = words_of(gold)
    if words is not None:
        return read_words(answer) == words
    based = in_base(ours), in_base(theirs)
    if all(based):
        return based[0] == based[1]
    if any(based) and (ours.isalnum() or theirs.isalnum()):  # the base may be left out, as the question names it
        return ours.partition("_")[0].strip("()") == theirs.partition("_")[0].strip("()")
    if _LISTED.search(answer) or _LISTED.search(gold):  # `3, 105` is two numbers, not 3,105
        return None
    return _same_number(ours, theirs)


def _same_number(ours: str, theirs: str) -> bool | None:
    number, wanted = plain_number(without_percent(ours)), plain_number(without_percent(theirs))
    if number is None or wanted is None:
        return None
    if number == wanted:
        return True
    percent, asked = ours.endswith("%"), theirs.endswith("%")
    if percent != asked and (number == wanted / 100 if asked else number / 100 == wanted):
        return True
    whole = number.denominator == wanted.denominator == 1 and max(abs(number), abs(wanted)) < _CERTAIN
    return False if whole else None  # rounded decimals are math-verify's business


def _grade(answer: str, correct: bool, timed_out: bool) -> Grade:
    return Grade(answer, correct, timed_out)


def _ask(function: str, gold: str, answer: str) -> tuple[bool, bool]:
    """(correct, timed out) from a scorer process."""
    try:
        return _ask_once(function, gold, answer)
    except Stopped:
        return False, True


@lru_cache(maxsize=1 << 14)  # the same answers come again with every candidate; a stopped one is asked again
def _ask_once(function: str, gold: str, answer: str) -> tuple[bool, bool]:
    correct, seconds = shared_pool().ask(function, gold, answer)
    if not correct and seconds >= LM_EVAL_SECONDS:
        raise Stopped(f"undecided after {seconds:.1f} s")
    return bool(correct), False

r"""How lm-eval 0.4.13 reads and normalises MATH answers, step by step. Pure; verdicts are in `selfdev.grading.math`.

Two tasks, two normal forms: `hendrycks_math*` 1.0 (its `strip_string`, from Hendrycks et al. 2021, arXiv 2103.03874)
and `minerva_math*` 3.1 (appendix D of Lewkowycz et al. 2022, arXiv 2206.14858, with lm-eval's later repairs). The order
of the steps is part of the result, oddities included; tests compare with lm-eval's own code, row by row.
"""

from __future__ import annotations

import re

_FINAL_ANSWER = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")

_HENDRYCKS_REPLACED = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
)  # fmt: skip

_MINERVA_REPLACED = (
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
)  # fmt: skip
_MINERVA_REMOVED = (
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue",
    "points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges",
    "students", "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3",
    "\\text{\n}", "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
)  # fmt: skip
_MINERVA_REWRITTEN = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"),  # the first $...$ of a line stands for the line
        (r"(\\text\{)(.*?)(\})", r"\2"),
        (r"(\\textbf\{)(.*?)(\})", r"\2"),
        (r"(\\overline\{)(.*?)(\})", r"\2"),
        (r"(\\boxed\{)(.*)(\})", r"\2"),
        (r"(frac)([^{])(.)", r"frac{\2}{\3}"),  # \frac12
        (r"(sqrt)(\[[^\]]*\])(\w)", r"\1\2{\3}"),  # \sqrt[3]8
        (r"(sqrt)(?!\[)([^{])", r"sqrt{\2}"),  # \sqrt2
    )
)
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+")
_COMMAND = re.compile(r"(\\[a-zA-Z]+)")


def last_box(solution: str) -> str | None:
    r"""The content of a solution's last `\boxed{...}`, or what follows its last `\boxed ` up to a `$`.

    None where lm-eval finds none and fails: no box, an unclosed one, only `\fbox`. Escaped braces count like others.
    """
    if "\\boxed " in solution:
        return solution.split("\\boxed ")[-1].split("$")[0]
    start = solution.rfind("\\boxed")
    depth = 0
    for end in range(max(start, 0), len(solution)):
        depth += (solution[end] == "{") - (solution[end] == "}")
        if solution[end] == "}" and depth == 0:
            box = solution[start : end + 1]
            return box[len("\\boxed{") : -1] if start >= 0 and box.startswith("\\boxed{") else None
    return None


def between_dollars(completion: str) -> str:
    """hendrycks_math's answer: what stands between the first and the last `$`; without two of them, everything."""
    first, last = completion.find("$"), completion.rfind("$")
    return completion if first == last else completion[first + 1 : last]


def hendrycks_equal(answer: str, gold: str) -> bool:
    """hendrycks_math's verdict: equal normal forms; where one of the two has none, equal texts."""
    try:
        return hendrycks_form(answer) == hendrycks_form(gold)
    except (ValueError, IndexError):
        return answer == gold


def hendrycks_form(text: str) -> str:
    r"""The text as hendrycks_math compares it.

    Raises:
        ValueError, IndexError: it has no such form: two units, `a/b` of other than integers, `\sqrt` or `\frac` at
            the end.
    """
    for before, after in _HENDRYCKS_REPLACED:
        text = text.replace(before, after)
    text = _without_unit(text).replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:  # "x = 5"
        text = sides[1]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    if text == "0.5":
        text = "\\frac{1}{2}"
    return _slash_as_fraction(text)


def _without_unit(text: str) -> str:
    parts = text.split("\\text{ ")
    if len(parts) > 2:
        raise ValueError("two units")
    return parts[0]


def _braced_roots(text: str) -> str:
    head, *tails = text.split("\\sqrt")
    return head + "".join("\\sqrt" + (tail if tail[0] == "{" else f"{{{tail[0]}}}{tail[1:]}") for tail in tails)


def _braced_fractions(text: str) -> str:
    made, *tails = text.split("\\frac")
    for tail in tails:
        if tail[0] == "{":
            made += "\\frac" + tail
        elif len(tail) < 2:
            return text
        else:
            below = "{" if tail[1] == "{" else f"{{{tail[1]}}}"
            made += f"\\frac{{{tail[0]}}}{below}{tail[2:]}"
    return made


def _slash_as_fraction(text: str) -> str:
    sides = text.split("/")
    if len(sides) != 2:
        return text
    above, below = int(sides[0]), int(sides[1])
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text


def final_answer(completion: str) -> str | None:
    """minerva_math's answer: what the first closing sentence says; None without one."""
    found = _FINAL_ANSWER.search(completion + "I hope it is correct.")
    return found.group(1).strip() if found else None


def minerva_form(text: str) -> str:
    """The text as minerva_math compares it; it always has one."""
    text = text.split("=")[-1]
    for word in _MINERVA_REMOVED:
        if word.isalpha():
            text = re.sub(rf"(?<!\\)\b{word}\b", "", text)
    for before, after in _MINERVA_REPLACED:
        text = text.replace(before, after)
    for word in _MINERVA_REMOVED:
        text = _outside_commands(text, word) if word.isalpha() else text.replace(word, "")
    for pattern, replacement in _MINERVA_REWRITTEN:
        text = pattern.sub(replacement, text)
    text = text.replace("$", "")
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def _outside_commands(text: str, word: str) -> str:
    r"""The text without a word, which may be part of a LaTeX command: `ft` stays in `\left`."""
    parts = _COMMAND.split(text)
    parts[::2] = [part.replace(word, "") for part in parts[::2]]
    return "".join(parts)

r"""Boxed answers and plain values in LaTeX text: what MATH grading reads without a parser. Pure, never throws.

Left out: algebra. What is not settled by text or plain numbers here goes to math-verify in a scorer process.
"""

from __future__ import annotations

import re
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_FINAL = re.compile(r"(?i:final answer is)\s*:?\s*")
_HOPE = re.compile(r"[.,;]?\s*I hope it is correct.*")
_FORMULA = r"(?:\$\$?(?:\\.|[^$\\])+\$\$?|\\\(.+?\\\)|\\\[.+?\\\])"
_FORMULAS = re.compile(rf"{_FORMULA}(?:(?:\s*,)?\s*(?:(?:and|or)\s*)?{_FORMULA})*", re.DOTALL)  # "$1$, $2$ and $3$"
_FENCE = re.compile(r"(?<!\\)(?:\$\$?|\\[()\[\]])")

_UNICODE = {
    "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ",  # noqa: RUF001
    "≥": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∩": "\\cap ", "∅": "\\emptyset ", "∈": "\\in ", "θ": "\\theta ",  # noqa: RUF001
    "±": "\\pm ", "°": "^\\circ", "²": "^2", "³": "^3", "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
    "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "~": " ",
}  # fmt: skip
_TO_LATEX = str.maketrans(_UNICODE)
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\w+))")
_NOISE = re.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\?\$|\^\{?\\circ\}?")
_SPACES = re.compile(r"(?:\s|~|\\[!,;: ]|\\q?quad(?![a-z]))+")
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,/\\])")  # 12 345
_NEEDLESS = re.compile(r"(?<!\d) | (?!\d)")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|textnormal)\s*\{([^{}]*)\}")
_UPRIGHT = re.compile(r"\\(?:mathrm|textrm|textnormal|mbox)\s*(?=\{[a-zA-Z .]{2,}\})")  # units, mostly
_LETTERS = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:(?:,|\{,\})\d{3})+|\d*)(?:\.(\d*)(?:\\overline\{(\d+)\})?)?")
_RATIO = re.compile(r"([+-]?)(?:(\d+)(?=[ \\]))?(?:\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}|\\frac(\d)(\d)| ?(\d+)/(\d+))")
_BASED = re.compile(r"\(?(\d[0-9A-Z]*)\)?_\{?(\d+)\}?")
_INDEXED_ROOT = re.compile(r"\\sqrt(\[[^\]]*\])(\w)")
_AROUND = " \t\r\n*"  # of a stated answer: Markdown's bold too
_REACH = 1000  # characters of the text in which a stated answer ends
_LONGEST = 30  # characters of a number that is read here; int() of a long one is slow


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` or `\fbox{...}` that is closed, stripped; None without one.

    Escaped braces do not count. `\boxed 5$`, without braces, reaches to the next `$` or the end of the line.
    """
    closings = _closings(text)
    for match in reversed(list(_BOX.finditer(text))):
        start = match.end()
        if start in closings:
            return text[start + 1 : closings[start]].strip()
        if not text.startswith("{", start):
            bare = re.split(r"[$\n]", text[start : start + _REACH], maxsplit=1)[0]
            if bare.strip():
                return bare.strip()
    return None


def _closings(text: str) -> dict[int, int]:
    """Where the brace closes that opens at a place, for every pair; one pass, however many are never closed."""
    closings: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif brace.group() == "}" and opened:
            closings[opened.pop()] = brace.start()
    return closings


def stated_answer(text: str) -> str | None:
    """What follows the last "final answer is" of the text, up to "I hope it is correct" or the end of its line.

    Of a line with formulas, the first formula, and those joined to it by a comma, "and" or "or". None without such
    words, or with nothing after them.
    """
    found = list(_FINAL.finditer(text))
    if not found:
        return None
    rest = text[found[-1].end() :][:_REACH]
    formulas = _FORMULAS.match(rest)  # it may reach over several lines
    if not formulas:
        rest = _HOPE.sub("", rest.partition("\n")[0])
        formulas = _FORMULAS.search(rest)
    said = _FENCE.sub("", formulas.group()) if formulas else rest
    return said.strip(_AROUND).rstrip(".").strip(_AROUND) or None


def tidy(answer: str) -> str:
    """The answer with Unicode signs and words as LaTeX, without enclosing dollars and a closing full stop."""
    answer = _ROOT.sub(lambda root: f"\\sqrt{{{root.group(1) or root.group(2)}}}", answer).translate(_TO_LATEX).strip()
    if len(answer) > 2 and answer[0] == answer[-1] == "$" and "$" not in answer[1:-1]:
        answer = answer[1:-1].strip()
    answer = _INDEXED_ROOT.sub(r"\\sqrt\1{\2}", _UPRIGHT.sub(r"\\text", answer))
    return answer.removesuffix(".").strip()


def squeezed(answer: str) -> str:
    """The answer without what never changes its value: spaces, sizes, dollar and degree signs. To compare, not to show.

    Spaces inside words go too, on both sides alike. One between digits stays, as in `1 1/2`, but not in `12 345`.
    """
    answer = _SPACES.sub(" ", _NOISE.sub("", answer)).strip()
    answer = _SPACED.sub(lambda number: number.group().replace(" ", ""), answer)
    return _NEEDLESS.sub("", answer).replace("dfrac", "frac").replace("tfrac", "frac")


def unwrapped(answer: str) -> str:
    r"""The answer without `\text{}` and commands like it around words."""
    return _WRAPPED.sub(r"\1", answer)


def words_of(answer: str) -> str | None:
    r"""The letters of an answer that is text, in lower case: of `\text{North-East}`, of `\textbf{(C)}`; None otherwise.

    Text is what stands in `\text` or a command like it and has letters, but neither digits nor mathematics.
    """
    content = unwrapped(answer)
    return None if content == answer else _letters(content)


def read_words(answer: str) -> str | None:
    r"""Like `words_of`, for an answer that may leave out `\text`."""
    return _letters(unwrapped(answer))


def _letters(content: str) -> str | None:
    if re.search(r"[\d\\^_=+*/<>{}]", content):
        return None
    return "".join(_LETTERS.findall(content)).casefold() or None


def without_percent(answer: str) -> str:
    """The answer without a percent sign at its end."""
    return answer.removesuffix("%").removesuffix("\\").rstrip() if answer.endswith("%") else answer


def in_base(answer: str) -> tuple[str, str] | None:
    """(digits, base) of a squeezed answer like `1010_2`; None for everything else."""
    match = _BASED.fullmatch(answer)
    return (match.group(1), match.group(2)) if match else None


def plain_number(answer: str) -> Fraction | None:
    """The value of a squeezed answer that is an integer, decimal, simple fraction or mixed number; else None."""
    if not 0 < len(answer) <= _LONGEST or not answer.isascii():
        return None
    match = _NUMBER.fullmatch(answer)
    if match:
        return _decimal(*match.groups(""))
    match = _RATIO.fullmatch(answer)
    if not match:
        return None
    sign, whole, *parts = match.groups()
    above, below = (int(part) for part in parts if part is not None)
    if below == 0 or (whole is not None and not 0 < above < below):
        return None
    value = int(whole or 0) + Fraction(above, below)
    return -value if sign == "-" else value


def _decimal(sign: str, whole: str, decimals: str, period: str) -> Fraction | None:
    digits = re.sub("[^0-9]", "", whole) + decimals
    if not digits + period:
        return None
    value = Fraction(int(digits or 0))
    if period:  # 0.1666... is (16 - 1) / 90
        value = Fraction(int(digits + period) - int(digits or 0), 10 ** len(period) - 1)
    return Fraction(-value if sign == "-" else value, 10 ** len(decimals))

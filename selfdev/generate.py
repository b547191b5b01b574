"""What surrounds the generator: temperature schedule, random streams, and the program in a completion. Pure."""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Sequence

from selfdev.types import SampleRequest

_FENCE = re.compile(r"(?:```+)[ \t]*(?:[A-Za-z][\w.+-]*)?[ \t]*(?:\n|$)|```+")
_DEFINITION = re.compile(r"^[ \t]*def[ \t]+merge_models[ \t]*\(", re.MULTILINE)
# A list item, or two bare words in a row of which neither is a keyword or operator, or "Done.": at the margin no useful
# Python statement looks so. Lines that start with # are comments, lines with = assignments.
_PROSE = re.compile(
    r"(?:[-*>]|\d+[.)])[ ]+[A-Za-z]"
    r"|(?!.*=|(?:import|from|def|class|if|for|while|with|try|return|async|await|assert|del|global|nonlocal|lambda|not"
    r"|raise|elif|else|except|finally|yield|pass|break|continue|match|case|type)\b)"
    r"[A-Za-z][\w'\u2019-]*[,;:!.?]?[ ]+(?!(?:in|is|and|or|if|not|else)\b)[A-Za-z]"
    r"|[A-Z][\w'\u2019-]*[.!:]\s*$"
)


def temperature(iteration: int, start: float = 1.2, decay: float = 0.2) -> float:
    """Sampling temperature of an iteration (1, 2, ...): start / (1 + decay * (iteration - 1)).

    Self-Developing (arXiv 2410.15639): 1.2, 1.0, 0.857.
    """
    return start / (1 + decay * (iteration - 1))


def stream_seed(run_seed: int, stage: str, iteration: int, index: int) -> int:
    """Seed of one random stream: the first 8 bytes of a SHA-256 over the tuple, without the sign bit.

    63 bits, so that the store keeps it as a plain integer.
    """
    key = json.dumps([run_seed, stage, iteration, index]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def sample_requests(
    run_seed: int, iteration: int, indices: Sequence[int], stage: str = "generate"
) -> list[SampleRequest]:
    """Requests for these samples of an iteration, each with its own random stream."""
    return [SampleRequest(index, stream_seed(run_seed, stage, iteration, index)) for index in indices]


def extract_program(text: str) -> str | None:
    """The source of the merge program in a completion, None where no line defines `merge_models`.

    The completion may start inside a code block (the prompt opened one), hold several blocks, end without closing one,
    or have no block at all; the first part with the definition counts. Lines at its margin that are plainly prose are
    taken off with what lies beyond them. Nothing is executed or compiled.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for part in _FENCE.split(text):
        if _DEFINITION.search(part):
            return _tidy(_without_prose(part))
    return None


def _without_prose(part: str) -> str:
    """The lines between the last prose line before the definition and the first one after it."""
    lines = part.split("\n")
    definition = next(i for i, line in enumerate(lines) if _DEFINITION.match(line))
    prose = _prose_lines(lines)
    start = max((i + 1 for i in prose if i < definition), default=0)
    end = min((i for i in prose if i > definition), default=len(lines))
    return "\n".join(lines[start:end])


def _prose_lines(lines: Sequence[str]) -> list[int]:
    """Lines at the margin that cannot be Python; the inside of triple-quoted strings is left alone."""
    prose: list[int] = []
    quote: str | None = None
    for i, line in enumerate(lines):
        if quote is None and _PROSE.match(line):
            prose.append(i)
            continue
        for mark in re.findall(r'"""|\'\'\'', line):
            quote = mark if quote is None else None if mark == quote else quote
    return prose


def _tidy(source: str) -> str:
    """Without common indentation, trailing space or blank lines around it; one newline at the end."""
    lines = [line.rstrip() for line in source.split("\n")]
    return textwrap.dedent("\n".join(lines)).strip("\n") + "\n"

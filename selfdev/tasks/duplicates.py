"""Near-duplicate questions across splits: what a search may have seen of what it is tested on. Pure.

Two questions match where the Jaccard similarity of their word trigrams, numbers masked, reaches a threshold. A match
with the same numbers in the same order is "near" (or "same": equal but for case, spacing and sentence marks), one with
other numbers a "template". The search is exact, not a sketch: two sets with similarity >= t share at least one of
the |x| - ceil(t |x|) + 1 rarest trigrams of each (prefix filtering: Bayardo, Ma, Srikant, WWW 2007), so an index of
rare trigrams finds every match in time nearly linear in the rows. Left out: paraphrases, number words.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

THRESHOLD = 0.6  # of thirty words, one replaced leaves 25/31, two apart 22/34, three 19/37

Kind = Literal["same", "near", "template"]
Shingle = tuple[str, ...]

_TOKEN = re.compile(r"\\?[^\W\d_]+|\d+(?:[.,]\d+)*|[^\w\s]")
# Sentence marks, typographic quotes and the acute accent among them; signs of arithmetic stay.
_IGNORED = frozenset(".,;:!?\"'`$()\u00b4\u2018\u2019\u201c\u201d")
_SIZE = 3


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two questions that match."""

    left: str  # keys as given
    right: str
    kind: Kind
    similarity: float  # Jaccard of masked trigrams, in [threshold, 1]


@dataclass(frozen=True, slots=True)
class _Text:
    key: str
    tokens: tuple[str, ...]
    numbers: tuple[str, ...]  # in order
    shingles: frozenset[Shingle]  # numbers masked


def find_duplicates(
    left: Mapping[str, str], right: Mapping[str, str], threshold: float = THRESHOLD
) -> tuple[Duplicate, ...]:
    """Every matching pair of a left and a right question, in the order of the left ones, best first.

    Args:
        left: key -> text.
        right: key -> text.
        threshold: similarity from which two questions match, in (0, 1].
    """
    lefts, rights = _texts(left), _texts(right)
    rarity = Counter(shingle for text in (*lefts, *rights) for shingle in text.shingles)
    index: dict[Shingle, list[int]] = defaultdict(list)
    for position, text in enumerate(rights):
        for shingle in _prefix(text, rarity, threshold):
            index[shingle].append(position)
    found: list[Duplicate] = []
    for text in lefts:
        near = {position for shingle in _prefix(text, rarity, threshold) for position in index.get(shingle, ())}
        matches = [_compare(text, rights[position], threshold) for position in sorted(near)]
        found += sorted((match for match in matches if match is not None), key=lambda match: -match.similarity)
    return tuple(found)


def describe(found: Sequence[Duplicate], left: str, right: str, examples: int = 3) -> str:
    """One line: how many questions of `left` match one of `right`, by kind, with the first few pairs."""
    best: dict[str, Duplicate] = {}
    for match in sorted(found, key=lambda match: _ORDER[match.kind]):
        best.setdefault(match.left, match)
    counts = Counter(match.kind for match in best.values())
    parts = [f"{counts[kind]} {words}" for kind, words in _WORDS.items() if counts[kind]]
    shown = ", ".join(f"{match.left} ~ {match.right}" for match in list(best.values())[:examples])
    more = ", ..." if len(best) > examples else ""
    return f"{left} questions that are also in {right}: {'; '.join(parts)} ({shown}{more})"


_WORDS: Mapping[Kind, str] = {
    "same": "the same",
    "near": "nearly the same",
    "template": "the same text with other numbers",
}
_ORDER = {kind: place for place, kind in enumerate(_WORDS)}


def tokens(text: str) -> tuple[str, ...]:
    """Words, numbers, LaTeX commands and signs, in lower case; sentence marks left out."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(token for token in _TOKEN.findall(folded) if token not in _IGNORED)


def _texts(texts: Mapping[str, str]) -> list[_Text]:
    return [_text(key, text) for key, text in texts.items()]


def _text(key: str, text: str) -> _Text:
    found = tokens(text)
    masked = tuple("0" if token[0].isdigit() else token for token in found)
    return _Text(key, found, tuple(token for token in found if token[0].isdigit()), frozenset(_shingles(masked)))


def _shingles(words: Shingle) -> Iterable[Shingle]:
    """Trigrams; a text of fewer than three words is one shingle, an empty one none."""
    if not words:
        return ()
    return (words[start : start + _SIZE] for start in range(max(1, len(words) - _SIZE + 1)))


def _prefix(text: _Text, rarity: Mapping[Shingle, int], threshold: float) -> list[Shingle]:
    size = len(text.shingles)
    # The small number keeps a product such as 0.7 * 10 = 7.000000000000001 from being rounded up.
    length = size - math.ceil(threshold * size - 1e-9) + 1 if size else 0
    return sorted(text.shingles, key=lambda shingle: (rarity[shingle], shingle))[:length]


def _compare(left: _Text, right: _Text, threshold: float) -> Duplicate | None:
    shared = len(left.shingles & right.shingles)
    similarity = shared / (len(left.shingles) + len(right.shingles) - shared)
    if similarity < threshold - 1e-12:
        return None
    if left.tokens == right.tokens:
        return Duplicate(left.key, right.key, "same", similarity)
    kind: Kind = "near" if left.numbers == right.numbers else "template"
    return Duplicate(left.key, right.key, kind, similarity)

"""Licences of the models that go into a merge: the union, and what in it does not go together. No legal advice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PERMISSIVE = frozenset(
    {"apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense", "afl-3.0"}
)
_FIELD = re.compile(r"(?m)^(license|license_name):[ \t]*([^#\n]*)")
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Union:
    """The licences of all parents."""

    licence: str  # one identifier, or "other"
    name: str | None  # for "other": all of them
    conflicts: tuple[str, ...]  # sentences


def licence_of(directory: Path) -> str | None:
    """The licence that a model card states (`license`, or `license_name` where that is "other"); None: it is silent."""
    try:
        text = (directory / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    matter = _FRONT_MATTER.match(text)
    lines = _FIELD.findall(matter[1]) if matter else []
    fields = {key: value.strip().strip("'\"") for key, value in lines}
    stated = fields.get("license", "").strip().lower()
    if stated in ("other", ""):
        stated = fields.get("license_name", stated).strip().lower()
    return stated or None


def union(licences: Mapping[str, str | None]) -> Union:
    """All licences of a merge as one, and their conflicts.

    Args:
        licences: model -> licence; None where it is not known.
    """
    known = sorted({licence for licence in licences.values() if licence is not None})
    conflicts = list(_conflicts(licences, known))
    if len(known) == 1 and None not in licences.values():
        return Union(known[0], None, tuple(conflicts))
    parts = known + (["unknown"] if None in licences.values() else [])
    return Union("other", "-and-".join(parts), tuple(conflicts))


def _conflicts(licences: Mapping[str, str | None], known: list[str]) -> list[str]:
    def holders(licence: str | None) -> str:
        return ", ".join(model for model, stated in licences.items() if stated == licence)

    found = []
    if None in licences.values():
        found.append(f"The licence of {holders(None)} is not stated: ask its authors before you pass the merge on.")
    others = [licence for licence in known if licence not in PERMISSIVE]
    bound = [licence for licence in others if "-nc" in licence or "noncommercial" in licence.replace("-", "")]
    free = [licence for licence in known if licence not in bound]
    for licence in bound:
        if free:
            found.append(
                f"{licence} ({holders(licence)}) forbids commercial use, which {' and '.join(free)} would allow: the "
                "merge may not be used commercially."
            )
    for licence in others:
        if "-nd" in licence:
            found.append(f"{licence} ({holders(licence)}) forbids passing on changed versions; a merge is one.")
        elif licence in bound:
            continue
        elif re.match(r"(a|l)?gpl|cc-by-sa", licence):
            if len(known) > 1:
                found.append(
                    f"{licence} ({holders(licence)}) asks that what is made from the model is passed on under it; "
                    f"the merge is also under {' and '.join(other for other in known if other != licence)}."
                )
        else:
            found.append(f"{licence} ({holders(licence)}) has terms of its own, which bind the merge: read them.")
    return found

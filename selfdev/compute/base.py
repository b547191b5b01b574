"""The compute seam: who runs programs and answers prompts. `local` is one device in this process."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from selfdev.types import MergeProgram, Outcome


class Worker(Protocol):
    """One device: seed weights, task vectors, sandbox and evaluation engine. It holds prompts, never gold answers."""

    isolation: str  # level of the sandbox: "full", or what is missing

    def run(self, program: MergeProgram, prompts: Sequence[str], known: Container[str]) -> Outcome:
        """Run a program in the sandbox and, if its result is valid and its hash not in `known`, answer the prompts.

        The seed's weights are back in place when this returns or raises. A failing program is an outcome, not an error.
        """
        ...

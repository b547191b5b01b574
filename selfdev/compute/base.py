"""The compute seam: who runs programs and answers prompts. `local` is one device in this process."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from selfdev.types import MergeProgram, Outcome


class Worker(Protocol):
    """One device: seed weights, task vectors, sandbox and evaluation engine. It holds prompts, never gold answers."""

    isolation: str  # level of the sandbox: "full", or what is missing

    def run(self, program: MergeProgram, prompts: Sequence[str], known: Container[str]) -> Outcome:
        """Run a program in the sandbox and, if its result is valid and new, answer the prompts.

        `known` holds fingerprints and result hashes of earlier programs. A program with a known fingerprint is not run
        on the task vectors (its outcome has no result hash); one with a known result hash is not answered. Accepted
        programs have been run twice, with the same bits. The seed's weights are back in place when this returns or
        raises. A failing program is an outcome, not an error.
        """
        ...

    def again(self, program: MergeProgram, prompts: Sequence[str], expected: str) -> Outcome:
        """Answer more prompts with a program that `run` has accepted; `expected` is its result hash.

        Nothing is verified twice: a result that is kept is used again, another one comes from a single run that must
        give the same bits, else the outcome is `NONDETERMINISTIC`.
        """
        ...

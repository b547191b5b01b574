"""A verifier that scores by a given function: the fake for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selfdev.verifiers.base import Judgement, Response


class ScriptedVerifier:
    """Scores each response by a function of its text. It needs no model and no torch."""

    def __init__(self, name: str, rule: Callable[[str], float]) -> None:
        self.name = name
        self._rule = rule

    def score(self, responses: Sequence[Response]) -> list[Judgement]:
        """One judgement per response, in order."""
        return [Judgement(self._rule(response.text)) for response in responses]

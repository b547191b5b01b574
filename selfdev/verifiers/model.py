"""Verifiers that ask a language model: True or False, a grade, or what DPO has taught it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import exp, log1p

from selfdev.generators.texts import encode_prompt
from selfdev.models import load_config, load_tokenizer
from selfdev.prompting import render_prompt
from selfdev.verifiers.base import UNREAD, Judgement, Response
from selfdev.verifiers.scorer import TransformersScorer, first_tokens

TRUE_FALSE = "verifier/true_false.md.jinja"
QUALITY = "verifier/quality.md.jinja"
SCALES = {"A-E": tuple("EDCBA"), "1-10": tuple(str(grade) for grade in range(1, 11))}  # worst grade first


def check_questions(names: Collection[str], ref: str, chat_template: bool, task: str, scale: str, longest: int) -> None:
    """Refuse, before a run begins, what `true-false` and `quality` cannot ask this model.

    Args:
        names: of verifiers; others are let through.
        ref: the model that will be asked.
        chat_template: as a user message.
        task: the prompt that the samples answer.
        scale: one of `SCALES`.
        longest: tokens of the longest sample, about.

    Raises:
        UsageError: its tokenizer does not tell the answers apart, it has no chat template, or no room for a question.
        ModelError: the model cannot be read.
    """
    asked = {"true-false": (TRUE_FALSE, ("True", "False")), "quality": (QUALITY, SCALES[scale])}
    for name in names:
        if name in asked:
            file, answers = asked[name]
            tokenizer, context = load_tokenizer(ref), getattr(load_config(ref), "max_position_embeddings", None)
            first_tokens(tokenizer, ref, answers)
            text = render_prompt(file, task=task, answer="", grades=answers)
            encode_prompt(tokenizer, ref, text, longest, context, chat_template)


class TrueFalse:
    """P(True) / (P(True) + P(False)) of the next token behind a question about the sample (arXiv 2507.00075, TF)."""

    name = "true-false"

    def __init__(self, scorer: TransformersScorer, task: str) -> None:
        """`task` is the prompt that the samples answer."""
        self._scorer = scorer
        self._task = task

    def score(self, responses: Sequence[Response]) -> list[Judgement]:
        """One judgement per response, in order.

        Raises:
            UsageError: the tokenizer cannot tell True from False by their first token, or the task is too long.
            StageError: the device has no room for a single sample.
        """
        self._scorer.check_room(render_prompt(TRUE_FALSE, task=self._task, answer=""))
        prompts = [render_prompt(TRUE_FALSE, task=self._task, answer=r.text) for r in responses]
        found = self._scorer.next_token(prompts, ("True", "False"))
        return [UNREAD if row is None else Judgement(row[0]) for row in found]


class Quality:
    """Expected grade of the next token behind a question about the sample, scaled to [0, 1] (arXiv 2507.00075, QE)."""

    name = "quality"

    def __init__(self, scorer: TransformersScorer, task: str, scale: str = "A-E") -> None:
        """`scale` is one of `SCALES`."""
        self._scorer = scorer
        self._task = task
        self._grades = SCALES[scale]

    def score(self, responses: Sequence[Response]) -> list[Judgement]:
        """One judgement per response, in order.

        Raises:
            UsageError: the tokenizer cannot tell the grades apart by their first token, or the task is too long.
            StageError: the device has no room for a single sample.
        """
        self._scorer.check_room(render_prompt(QUALITY, task=self._task, answer="", grades=self._grades))
        prompts = [render_prompt(QUALITY, task=self._task, answer=r.text, grades=self._grades) for r in responses]
        top = len(self._grades) - 1
        shares = self._scorer.next_token(prompts, self._grades)
        return [
            UNREAD if row is None else Judgement(min(1.0, sum(p * i for i, p in enumerate(row)) / top))
            for row in shares
        ]  # fmt: skip


class ImplicitReward:
    """sigmoid(beta (log pi(y|x) - log pi_ref(y|x))): the reward that DPO has made pi optimal for (arXiv 2305.18290).

    pi is the adapter that wrote the samples, because a verifier of self-improvement is the model itself: the adapter
    of the next iteration has been trained on the scores of these very samples. pi_ref is the base model: each
    iteration's DPO has the adapter before it as reference, and the rewards of all of them add up to the log ratio to
    the base. 1/2 is a reward of 0.
    """

    name = "implicit-reward"

    def __init__(self, scorer: TransformersScorer, task: str, beta: float) -> None:
        """The scorer has pi's adapter loaded; `beta` is DPO's."""
        self._scorer = scorer
        self._task = task
        self._beta = beta

    def score(self, responses: Sequence[Response]) -> list[Judgement]:
        """One judgement per response, in order.

        Raises:
            UsageError: the task does not fit into the model's positions.
            StageError: the device has no room for a single sample.
        """
        texts = [r.text for r in responses]
        own = self._scorer.nll(self._task, texts)
        reference = self._scorer.nll(self._task, texts, base=True)
        return [
            UNREAD if a is None or b is None else Judgement(_sigmoid(self._beta * (b - a)), a, b)
            for a, b in zip(own, reference, strict=True)
        ]  # fmt: skip


def _sigmoid(x: float) -> float:
    return exp(-log1p(exp(-x))) if x >= 0 else exp(x - log1p(exp(x)))

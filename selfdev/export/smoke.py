"""Does a merged model still talk? Ten prompts, greedily, beside the seed.

Said is how many answers are empty, endless or gibberish:

endless:    the token limit ended the answer and its end repeats itself
gibberish:  the seed finds the answer more than half as surprising as random tokens (mean negative log-likelihood per
            token above half the logarithm of the vocabulary's size)
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from rich.console import Console

from selfdev.config import TaskConfig
from selfdev.evaluators.transformers import TransformersEvaluator
from selfdev.models import ZOO_PREFIX, load_causal_lm, load_tokenizer
from selfdev.score import ends_in_loop
from selfdev.types import Completion

NEW_TOKENS = 96
PROMPTS = 10
_SHOWN = 60  # characters of an answer


@dataclass(frozen=True, slots=True)
class Told:
    """One model's answers."""

    empty: int
    endless: int
    gibberish: int


@dataclass(frozen=True, slots=True)
class Smoke:
    """What the test showed."""

    prompts: int
    merged: Told
    seed: Told
    example: str  # the first answer

    @property
    def bad(self) -> bool:
        """The merged model does worse than the seed somewhere."""
        pairs = ((getattr(self.merged, what), getattr(self.seed, what)) for what in ("empty", "endless", "gibberish"))
        return any(mine > theirs for mine, theirs in pairs)


def general_prompts(ref: str, seed: str) -> list[str]:
    """Ten prompts for any model, through its chat template where it has one; the zoo's are asked what they know."""
    if seed.startswith(ZOO_PREFIX):
        from selfdev.tasks import load_questions

        return [question.prompt for question in load_questions(TaskConfig(), PROMPTS, 0).dev]
    texts: list[str] = json.loads((resources.files("selfdev.export") / "smoke_prompts.json").read_text("utf-8"))
    tokenizer = load_tokenizer(ref)
    if tokenizer.chat_template is None:
        return texts
    messages = [[{"role": "user", "content": text}] for text in texts]
    return [str(tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True)) for m in messages]


def smoke_test(merged: str, seed: str, prompts: Sequence[str], stop: Sequence[str] = ()) -> Smoke:
    """Ask both models, one after the other, on the CPU; the seed judges both.

    Raises:
        ModelError: one of them cannot be opened.
    """
    asked = list(prompts)[:PROMPTS]
    answers = [_answers(ref, asked, stop) for ref in (merged, seed)]
    told = _judge(seed, asked, answers)
    return Smoke(len(asked), told[0], told[1], answers[0][0].text.strip())


def print_smoke(console: Console, smoke: Smoke) -> None:
    """Two lines, and a warning where there is something to see."""

    def words(told: Told) -> str:
        return f"{told.empty} empty, {told.endless} endless, {told.gibberish} gibberish"

    text = f"smoke test, {smoke.prompts} prompts: {words(smoke.merged)} (the seed: {words(smoke.seed)})"
    shown = " ".join(smoke.example.split())
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    for line in (text, f"first answer: {shown}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if smoke.bad:
        warning = "warning: the merged model answers worse than the seed; look at its answers before you use it"
        console.print(warning, markup=False, highlight=False, soft_wrap=True)


def _answers(ref: str, prompts: Sequence[str], stop: Sequence[str]) -> list[Completion]:
    evaluator = TransformersEvaluator(
        ref, "cpu", batch_size=PROMPTS, max_new_tokens=NEW_TOKENS, stop=stop, share_prefix=False
    )
    try:
        return evaluator.generate(prompts)
    finally:
        evaluator.close()


def _judge(seed: str, prompts: Sequence[str], answers: Sequence[Sequence[Completion]]) -> list[Told]:
    model, tokenizer = load_causal_lm(seed)
    limit = 0.5 * math.log(model.get_input_embeddings().weight.shape[0])
    told = []
    for completions in answers:
        surprise = [_surprise(model, tokenizer, p, c.text) for p, c in zip(prompts, completions, strict=True)]
        told.append(
            Told(
                empty=sum(not c.text.strip() for c in completions),
                endless=sum(c.truncated and ends_in_loop(c.text) for c in completions),
                gibberish=sum(s is not None and s > limit for s in surprise),
            )
        )
    return told


@torch.no_grad()
def _surprise(model: torch.nn.Module, tokenizer: object, prompt: str, answer: str) -> float | None:
    """Mean negative log-likelihood per token of an answer, in nats; None for an empty one."""
    encode = tokenizer.encode  # type: ignore[attr-defined]
    begin = len(encode(prompt))
    ids = torch.tensor([encode(prompt + answer)])
    if not answer.strip() or begin == 0 or ids.shape[1] <= begin:
        return None
    logits = model(input_ids=ids).logits[0, begin - 1 : -1].float()  # (answer tokens, vocabulary)
    return float(torch.nn.functional.cross_entropy(logits, ids[0, begin:]))

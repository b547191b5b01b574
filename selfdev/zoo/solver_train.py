"""Training of the tiny solvers: completion-only cross-entropy, AdamW, warm-up and cosine decay, one process, CPU.

Problems are drawn without end from the train split, so there are no epochs. Nothing is read from disk or written.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from selfdev.tasks.arithmetic import SKILLS, ArithmeticProblem, prompt, stream

REPLAY_TEMPLATES = 3  # wordings of each skill that the seed knows
_REPLAY_SEED = 1_000_003  # keeps replayed problems apart from new ones
IGNORED = -100  # label of tokens without loss


@dataclass(frozen=True, slots=True)
class Stage:
    """One training run from given weights."""

    mix: Mapping[str, float]  # skill -> weight; new problems are drawn in proportion
    steps: int
    learning_rate: float  # peak
    batch: int = 32  # problems per step
    templates: int | None = None  # new problems use only the first so many wordings of each skill; None is all
    replay: float = 0.0  # part of all problems that repeats what the seed saw: REPLAY_TEMPLATES wordings, skills evenly
    warmup: float = 0.05  # part of `steps` with rising learning rate
    weight_decay: float = 0.0


class _Batches:
    """Random batches of one mix; the same seed gives the same batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stage: Stage, seed: int) -> None:
        self._tokenizer, self._stage = tokenizer, stage
        self._rng = random.Random(f"solver-batches/{seed}")
        whole = sum(stage.mix.values())
        self._streams: list[Iterator[ArithmeticProblem]] = []
        self._weights: list[float] = []
        for skill, weight in stage.mix.items():
            self._streams.append(_first_wordings(stream("train", seed, skill), stage.templates))
            self._weights.append((1 - stage.replay) * weight / whole)
        for skill in SKILLS if stage.replay else ():
            self._streams.append(_first_wordings(stream("train", seed + _REPLAY_SEED, skill), REPLAY_TEMPLATES))
            self._weights.append(stage.replay / len(SKILLS))

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels, each (problems, tokens), padded on the right."""
        chosen = self._rng.choices(self._streams, weights=self._weights, k=self._stage.batch)
        return encode_batch(self._tokenizer, [next(problems) for problems in chosen])


def _first_wordings(problems: Iterator[ArithmeticProblem], templates: int | None) -> Iterator[ArithmeticProblem]:
    return problems if templates is None else (p for p in problems if p.template < templates)


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, problems: Sequence[ArithmeticProblem]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels (problems, tokens); prompt and padding carry no loss. Causal attention makes a mask needless."""
    prompts = tokenizer([prompt(p) for p in problems])["input_ids"]
    answers = tokenizer([p.rationale for p in problems])["input_ids"]
    length = max(len(q) + len(a) for q, a in zip(prompts, answers, strict=True)) + 1
    ids = torch.full((len(problems), length), tokenizer.pad_token_id, dtype=torch.long)
    labels = torch.full((len(problems), length), IGNORED, dtype=torch.long)
    for row, (question, answer) in enumerate(zip(prompts, answers, strict=True)):
        closed = torch.tensor([*answer, tokenizer.eos_token_id])
        end = len(question) + len(closed)
        ids[row, : len(question)] = torch.tensor(question)
        ids[row, len(question) : end] = closed
        labels[row, len(question) : end] = closed
    return ids, labels


def completion_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood per answer token (nats); logits are computed for answer tokens only."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    kept = targets != IGNORED
    return functional.cross_entropy(model.lm_head(hidden[kept]), targets[kept])


def _rate(stage: Stage, step: int) -> float:
    warmup = max(1, int(stage.warmup * stage.steps))
    decay = max(0, step - warmup) / max(1, stage.steps - warmup)
    return stage.learning_rate * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * decay))


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    stage: Stage,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train `model` in place; `progress` gets (step, loss) after every step. The model is left in evaluation mode."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=stage.weight_decay)
    batches = _Batches(tokenizer, stage, seed)
    model.train()
    for step in range(stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(stage, step)
        loss = completion_loss(model, *batches.next())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress is not None:
            progress(step + 1, loss.item())
    model.eval()

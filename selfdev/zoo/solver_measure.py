"""Measuring the solver zoo: batched greedy answers, exact match, and every figure recorded beside the models.

Search for the best coefficients or rule sees dev problems only; test figures are of what dev chose.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from selfdev.tasks.arithmetic import SKILLS, ArithmeticProblem, prompt
from selfdev.zoo import solver_rules as rules

MAX_NEW_TOKENS = 24  # a full answer takes 15 at most
_BATCH = 300
_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")  # GSM8k's strict extraction
_TRIMMED_POINTS = 12  # random coefficient vectors per density
_Z95 = 1.959964

Figures = dict[str, object]


@dataclass(frozen=True, slots=True)
class Tally:
    """Right answers per skill."""

    correct: Mapping[str, int]
    total: Mapping[str, int]

    @property
    def share(self) -> float:
        """Correct over all problems."""
        return sum(self.correct.values()) / sum(self.total.values())

    def skill_share(self, skill: str) -> float:
        """Correct over the problems of one skill."""
        return self.correct[skill] / self.total[skill]

    def figures(self) -> Figures:
        """What is recorded: share, 95 % interval and shares by skill."""
        right, asked = sum(self.correct.values()), sum(self.total.values())
        low, high = wilson(right, asked)
        return {
            "correct": right,
            "n": asked,
            "share": round(self.share, 4),
            "interval_95": [round(low, 4), round(high, 4)],
            "by_skill": {skill: round(self.skill_share(skill), 4) for skill in self.total},
        }


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share."""
    p, z2 = correct / total, _Z95**2
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return centre - half, centre + half


def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """Greedy completions, in order; prompts of like length share a batch."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        inputs = tokenizer([prompts[i] for i in rows], padding=True, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        decoded = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, text in zip(rows, decoded, strict=True):
            texts[row] = text
    return texts


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[ArithmeticProblem]
) -> Tally:
    """Exact match of the first `#### N` against the answer."""
    correct, total = dict.fromkeys(SKILLS, 0), dict.fromkeys(SKILLS, 0)
    texts = answer(model, tokenizer, [prompt(p) for p in problems])
    for problem, text in zip(problems, texts, strict=True):
        found = _ANSWER.search(text)
        total[problem.skill] += 1
        correct[problem.skill] += found is not None and found.group(1) == str(problem.answer)
    return Tally(correct, total)


class MergeBench:
    """Scores merge rules over fixed task vectors, all through one resident model."""

    def __init__(
        self,
        seed: LlamaForCausalLM,
        sources: Mapping[str, LlamaForCausalLM],
        tokenizer: PreTrainedTokenizerFast,
        dev: Sequence[ArithmeticProblem],
        test: Sequence[ArithmeticProblem],
    ) -> None:
        self._model, self._tokenizer, self._dev, self._test = seed, tokenizer, dev, test
        self._base = {name: value.detach().clone() for name, value in seed.named_parameters()}
        self.vectors = [
            {name: value.detach() - self._base[name] for name, value in source.named_parameters()}
            for source in sources.values()
        ]

    def _score(self, rule: rules.MergeRule, problems: Sequence[ArithmeticProblem]) -> Tally:
        merged = rule(self.vectors)
        with torch.no_grad():
            for name, value in self._model.named_parameters():
                value.copy_(self._base[name] + merged[name])
        tally = measure(self._model, self._tokenizer, problems)
        with torch.no_grad():
            for name, value in self._model.named_parameters():
                value.copy_(self._base[name])
        return tally

    def dev(self, rule: rules.MergeRule) -> float:
        """Share of dev problems that seed + rule(task vectors) answers."""
        return self._score(rule, self._dev).share

    def test(self, rule: rules.MergeRule) -> Tally:
        """The same on test, by skill."""
        return self._score(rule, self._test)

    def family(self, members: Mapping[str, rules.MergeRule], report: Callable[[str], None] = lambda _: None) -> Figures:
        """Dev share of every member; the one best on dev (first of equals) is measured on test."""
        shares = {}
        for label, rule in members.items():
            shares[label] = self.dev(rule)
            report(f"{label}: {shares[label]:.3f}")
        best = max(shares, key=lambda label: shares[label])
        ordered = sorted(shares.values())
        return {
            "members": len(shares),
            "dev_best": round(shares[best], 4),
            "dev_median": round(ordered[len(ordered) // 2], 4),
            "best": best,
            "test_of_best": self.test(members[best]).figures(),
            "dev": {label: round(share, 4) for label, share in shares.items()},
        }


def task_arithmetic_grid(sources: int) -> dict[str, rules.MergeRule]:
    """The paper's grid, {0.2, 0.4, 0.6} per source."""
    return {str(list(point)): rules.linear(point) for point in rules.grid_points(sources)}


def random_coefficients(sources: int, count: int, seed: int, high: float = 1.2) -> dict[str, rules.MergeRule]:
    """Task Arithmetic with uniform random coefficients in [0, high)."""
    rng = random.Random(f"coefficients/{seed}")
    points = [[round(rng.uniform(0, high), 3) for _ in range(sources)] for _ in range(count)]
    return {str(point): rules.linear(point) for point in points}


def smart_rules(sources: int, seed: int) -> dict[str, rules.MergeRule]:
    """A handful of rules beyond plain coefficients, to see whether there is something to find."""
    members: dict[str, rules.MergeRule] = {}
    rng = random.Random(f"trimmed/{seed}")
    for density in (0.1, 0.2, 0.4):
        for _ in range(_TRIMMED_POINTS):
            point = [round(rng.uniform(0.2, 1.4), 3) for _ in range(sources)]
            members[f"trimmed {density}, {point}"] = rules.trimmed(density, point)
    for scale in (0.5, 0.75, 1.0):
        members[f"largest {scale}"] = rules.largest(scale)
        members[f"norm-balanced {2 * scale}"] = rules.norm_balanced(2 * scale)
        members[f"low-rank 8, {scale}"] = rules.low_rank(8, scale)
        for density in (0.2, 0.5):
            members[f"ties {density}, {2 * scale}"] = rules.ties(density, 2 * scale)
    for low, high in ((0.3, 0.6), (0.6, 0.3), (0.3, 0.9), (0.9, 0.3), (0.6, 0.9), (0.9, 0.6)):
        members[f"attention {low}, mlp {high}"] = rules.by_kind(low, high, (low + high) / 2)
        slope = [low + (high - low) * i / 3 for i in range(4)]
        members[f"layers {low} to {high}"] = rules.by_layer(slope, embedding=low)
    return members

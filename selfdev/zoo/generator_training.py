"""Pretraining of the zoo's generator on a stream of freshly written grammar programs.

Every program is learned as the continuation of the fixed prompt. The prompt is run once per step and its keys and
values are shared by the whole batch (gradients flow back into them), so that it costs one sequence and not one per
program; some steps use the opening fence alone as prompt. The loss counts completion tokens only.

Matrices inside the blocks are trained with Muon (Jordan et al. 2024: momentum, orthogonalised by a Newton-Schulz
iteration; here in float32, since bfloat16 is slow on CPUs), everything else with AdamW. The learning rate rises over
a few steps, stays, and falls linearly to zero.

Left out: resuming. The result depends on the recipe (steps, seed), never on the clock; a clock only stops an
experiment early when `Recipe.steps` is lowered by hand.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfdev.zoo.generator_tokenizer import CONTEXT, FENCE_OPEN, completion
from selfdev.zoo.grammar import write_program


@dataclass(frozen=True)
class Recipe:
    """Everything the shipped generator depends on."""

    steps: int = 1400
    seed: int = 0
    batch: int = 24
    """Programs per step."""
    hidden: int = 256
    intermediate: int = 640
    layers: int = 5
    heads: int = 4
    muon_lr: float = 0.02
    adam_lr: float = 0.004
    warmup: int = 30
    decay_share: float = 0.6
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    bare_share: float = 0.1
    """Share of the steps whose prompt is the opening fence alone."""
    tokenizer_programs: int = 4000


@dataclass(frozen=True)
class Progress:
    """One line of the training log."""

    step: int
    loss: float
    """Mean cross-entropy per completion token since the last line, in nats."""
    tokens: int
    """Completion tokens seen so far."""
    seconds: float


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights from `recipe.seed`."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, stream: str = "train") -> Iterator[Tensor]:
    """Endless batches of completions as token ids, (programs, tokens), padded right with the pad token.

    Programs of similar length share a batch, so that little is padding.
    """
    rng = random.Random(f"{stream}-{recipe.seed}")
    while True:
        texts = [completion(write_program(rng)) for _ in range(16 * recipe.batch)]
        rows = sorted(tokenizer(texts)["input_ids"], key=len)
        groups = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
        rng.shuffle(groups)
        for group in groups:
            width = max(map(len, group))
            pad = tokenizer.pad_token_id
            yield torch.tensor([row + [pad] * (width - len(row)) for row in group])


def completion_loss(model: LlamaForCausalLM, prompt: Tensor, rows: Tensor, pad: int) -> tuple[Tensor, int]:
    """Mean cross-entropy of the completions `rows` (programs, tokens) after `prompt` (tokens,), and their token count.

    The last prompt token predicts the first completion token, so it is run with the completions.
    """
    programs = rows.shape[0]
    past = model.model(input_ids=prompt[None, :-1], use_cache=True).past_key_values if len(prompt) > 1 else None
    cache = None
    if past is not None:
        cache = DynamicCache()
        for index, layer in enumerate(past.layers):
            cache.update(layer.keys.expand(programs, -1, -1, -1), layer.values.expand(programs, -1, -1, -1), index)
    inputs = torch.cat([prompt[-1:].expand(programs, 1), rows[:, :-1]], dim=1)
    hidden = model.model(input_ids=inputs, past_key_values=cache, use_cache=cache is not None).last_hidden_state
    keep = rows != pad
    logits = model.lm_head(hidden[keep])  # (completion tokens, vocabulary)
    return nn.functional.cross_entropy(logits, rows[keep]), int(keep.sum())


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: quintic Newton-Schulz with the coefficients of Muon."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; for two-dimensional weights only.

    K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients at hand."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalise(torch.lerp(weight.grad, state["momentum"], group["momentum"]))
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.add_(update, alpha=-group["lr"] * scale)


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and norms."""
    named = list(model.model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in named if weight.ndim != 2 or "embed" in name]
    return [
        Muon(matrices, recipe.muon_lr),
        torch.optim.AdamW(others, recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step as a share of its maximum: linear warm-up, flat, linear to zero."""
    left = (recipe.steps - step) / (recipe.decay_share * recipe.steps)
    return min(1.0, (step + 1) / recipe.warmup, left)


def train(
    recipe: Recipe,
    prompt: str,
    tokenizer: PreTrainedTokenizerFast,
    progress: Callable[[Progress, LlamaForCausalLM], None] | None = None,
    every: int = 50,
) -> tuple[LlamaForCausalLM, Progress]:
    """Train a new model; `progress` is called every `every` steps and must not change the model."""
    model = new_model(recipe, tokenizer).train()
    prompts = [torch.tensor(tokenizer(text)["input_ids"]) for text in (prompt, FENCE_OPEN)]
    chosen = [(optimizer, optimizer.param_groups[0]["lr"]) for optimizer in optimizers(model, recipe)]
    rng = random.Random(f"prompts-{recipe.seed}")
    started, tokens, losses = time.monotonic(), 0, []
    report = Progress(0, float("nan"), 0, 0.0)
    for step, rows in zip(range(recipe.steps), batches(recipe, tokenizer), strict=False):
        for optimizer, peak in chosen:
            optimizer.param_groups[0]["lr"] = peak * rate(recipe, step)
        bare = rng.random() < recipe.bare_share
        loss, count = completion_loss(model, prompts[bare], rows, tokenizer.pad_token_id)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer, _ in chosen:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += count
        losses.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            report = Progress(step + 1, sum(losses) / len(losses), tokens, time.monotonic() - started)
            losses.clear()
            if progress is not None:
                progress(report, model)
    return model.eval(), report

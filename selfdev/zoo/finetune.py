"""Siblings of a seed: supervised fine-tuning with LoRA (TRL's SFTTrainer), merged back into full weights.

What comes out is a standard model directory of the seed's shape, dtype and tokenizer, so that it can be a source of a
merge. A row becomes `Question: ...\\nAnswer:` as the prompt and its worked answer as the completion, the form in which
tasks ask; the loss counts completion tokens only. The directory appears by one rename, when it is complete.

Left out: full fine-tuning, several devices, resuming.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from selfdev import sft
from selfdev.errors import DataError, UsageError
from selfdev.sft import OnStep, Recipe
from selfdev.tasks.gsm8k import LAYOUT
from selfdev.tasks.rows import Row, content_hash

RECORD = "selfdev_finetune.json"  # what the directory was made from
_CARD = """---
base_model: {base}
tags: [selfdev, sft, lora]
library_name: transformers
pipeline_tag: text-generation
---

Fine-tuned from `{base}` with `selfdev zoo finetune`: LoRA of rank {rank} on every linear layer, {steps} steps of
{batch} worked answers at a peak learning rate of {rate:g}, merged into full weights. Completions follow
`Question: ...` and `Answer:`. Data: {rows} rows, SHA-256 {data}. Loss of the last steps: {loss:.3f} nats per token.
"""


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """What a fine-tuning did."""

    rows: int  # trained on
    left_out: int  # too long
    steps: int
    first_loss: float  # mean over the first tenth of the steps, at least one; nats per completion token
    last_loss: float  # over the last tenth


def finetune(
    model_ref: str,
    rows: Sequence[Row],
    out: Path,
    recipe: Recipe,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> FinetuneReport:
    """Train a sibling and write it to `out`.

    Args:
        model_ref: the seed, see `selfdev.models.resolve`.
        rows: questions with worked answers.
        out: a directory that does not exist yet.
        recipe: hyperparameters; the same recipe, rows and seed model give the same weights on the same machine.
        device: "cpu", "cuda" or "cuda:N".
        on_step: called after every optimiser step.

    Raises:
        UsageError: `out` exists, or an impossible recipe.
        DataError: no row is short enough.
        ModelError: the seed cannot be used.
        StageError: training diverged.
    """
    recipe.check()
    if out.exists():
        raise UsageError(f"{out} exists; give the new model another directory")
    from selfdev.models import load_causal_lm

    model, tokenizer = load_causal_lm(model_ref, device, "auto")
    pairs = [sft.Pair(LAYOUT.ask(row.question), f" {row.answer}") for row in rows]
    short = sft.short_enough(pairs, tokenizer, recipe.max_tokens)
    kept = list(compress(rows, short))
    if not kept:
        raise DataError(f"all {len(rows)} rows are longer than {recipe.max_tokens} tokens; raise the limit")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        adapted, losses, _ = sft.train(model, tokenizer, list(compress(pairs, short)), work, recipe, device, on_step)
        report = FinetuneReport(len(kept), len(rows) - len(kept), losses.steps, losses.first, losses.last)
        _save(adapted.merge_and_unload(), tokenizer, work / "model", model_ref, kept, recipe, report)
        (work / "model").rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def _save(
    model: Any, tokenizer: Any, out: Path, ref: str, rows: Sequence[Row], recipe: Recipe, report: FinetuneReport
) -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # the caller shows the progress
    model.save_pretrained(out, max_shard_size="5GB")
    tokenizer.save_pretrained(out)
    record = {"base": ref, "data_sha256": content_hash(rows)} | asdict(recipe) | asdict(report)
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    card = _CARD.format(
        base=ref,
        rank=recipe.lora_rank,
        steps=report.steps,
        batch=recipe.batch_size,
        rate=recipe.learning_rate,
        rows=report.rows,
        data=record["data_sha256"],
        loss=report.last_loss,
    )
    (out / "README.md").write_text(card, encoding="utf-8")

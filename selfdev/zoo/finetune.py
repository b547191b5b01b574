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
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from selfdev.errors import DataError, StageError, UsageError
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

OnStep = Callable[[int, int, float], object]  # step, steps in all, loss in nats per completion token


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a sibling is trained."""

    steps: int = 100
    batch_size: int = 8  # rows per optimiser step
    micro_batch: int = 8  # rows computed at once
    learning_rate: float = 2e-4  # peak; 5 % warm-up, then a cosine to zero
    lora_rank: int = 16
    lora_alpha: int = 32
    max_tokens: int = 512  # rows that are longer are left out
    threads: int = 2
    seed: int = 0

    def check(self) -> None:
        """Raises UsageError for values that make no sense."""
        for name in ("steps", "batch_size", "micro_batch", "lora_rank", "lora_alpha", "max_tokens", "threads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} given; at least 1 is needed")
        if self.batch_size % self.micro_batch:
            raise UsageError(f"batch size {self.batch_size} is no multiple of the {self.micro_batch} computed at once")
        if not 0 < self.learning_rate < 1:
            raise UsageError(f"learning rate {self.learning_rate} given; allowed is above 0 and below 1")


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
    import torch

    from selfdev.models import load_causal_lm

    torch.set_num_threads(recipe.threads)
    model, tokenizer = load_causal_lm(model_ref, device, "auto")
    kept = _short_enough(rows, tokenizer, recipe.max_tokens)
    if not kept:
        raise DataError(f"all {len(rows)} rows are longer than {recipe.max_tokens} tokens; raise the limit")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        trainer = _build(model, tokenizer, kept, work, recipe, device, on_step)
        trainer.train()
        report = _report(trainer.state.log_history, len(kept), len(rows) - len(kept))
        _save(trainer.model.merge_and_unload(), tokenizer, work / "model", model_ref, kept, recipe, report)
        (work / "model").rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def _short_enough(rows: Sequence[Row], tokenizer: Any, limit: int) -> list[Row]:
    lengths = map(len, tokenizer([_prompt(row) + _completion(row) for row in rows])["input_ids"])
    return [row for row, length in zip(rows, lengths, strict=True) if length < limit]  # and the end token


def _prompt(row: Row) -> str:
    return LAYOUT.ask(row.question)


def _completion(row: Row) -> str:
    return f" {row.answer}"


def _build(
    model: Any, tokenizer: Any, rows: Sequence[Row], work: Path, recipe: Recipe, device: str, on_step: OnStep | None
) -> Any:
    import datasets
    from peft import LoraConfig
    from transformers import PrinterCallback, set_seed
    from trl.trainer.sft_trainer import SFTTrainer

    datasets.disable_caching()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)  # TRL's own use
    set_seed(recipe.seed)  # before the LoRA matrices are drawn
    trainer = SFTTrainer(
        model=model,
        args=_arguments(work, recipe, device, str(model.dtype) == "torch.bfloat16"),
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": _prompt(row), "completion": _completion(row)} for row in rows]
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[] if on_step is None else [_callback(on_step)],
    )
    trainer.remove_callback(PrinterCallback)  # the caller shows the progress
    return trainer


def _arguments(work: Path, recipe: Recipe, device: str, bfloat16: bool) -> Any:
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig(
        output_dir=str(work / "trainer"),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.batch_size // recipe.micro_batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, recipe.steps // 20),
        max_length=None,  # what is too long has been left out whole
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",
        bf16=bfloat16,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a diverged training must show
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _callback(on_step: OnStep) -> Any:
    from transformers import TrainerCallback

    class StepCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                on_step(state.global_step, state.max_steps, float(logs["loss"]))

    return StepCallback()


def _report(history: Sequence[dict[str, Any]], rows: int, left_out: int) -> FinetuneReport:
    losses = [float(entry["loss"]) for entry in history if "loss" in entry]
    if not losses or not all(abs(loss) < float("inf") for loss in losses):
        raise StageError("fine-tuning diverged: its loss is not finite; lower the learning rate")
    tenth = max(1, len(losses) // 10)
    return FinetuneReport(rows, left_out, len(losses), fmean(losses[:tenth]), fmean(losses[-tenth:]))


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

"""Supervised fine-tuning with LoRA by TRL's SFTTrainer: what siblings and self-improvement share.

The loss counts completion tokens only, the end token included. In this process; the caller owns model and files.
Left out: full fine-tuning, several devices, resuming inside a training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from selfdev.errors import StageError, UsageError

OnStep = Callable[[int, int, float], object]  # step, steps in all, loss in nats per completion token
Hooks = Mapping[int, Callable[[Any], object]]  # optimiser step -> what is done with the adapted model after it


class Pair(NamedTuple):
    """What is shown and what is learnt to be written after it; nothing is put between the two."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained."""

    steps: int = 100
    batch_size: int = 8  # rows per optimiser step
    micro_batch: int = 8  # rows computed at once
    learning_rate: float = 2e-4  # peak
    lora_rank: int = 16
    lora_alpha: int = 32
    max_tokens: int = 512  # rows that are longer are left out
    threads: int = 2
    seed: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"  # 5 % warm-up and down to zero, or the peak throughout

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
class Losses:
    """What a training did. Nats per completion token."""

    steps: int
    first: float  # mean over the first tenth of the steps, at least one
    last: float  # over the last tenth


class Trained(NamedTuple):
    """What comes out of a training."""

    model: Any  # the PeftModel
    losses: Losses
    optimizer: dict[str, Any]  # its state, for a training that goes on from here


def short_enough(pairs: Sequence[Pair], tokenizer: Any, limit: int) -> list[bool]:
    """Whether each pair has fewer tokens than `limit`, so that the end token has room."""
    return [len(ids) < limit for ids in tokenizer([p.prompt + p.completion for p in pairs])["input_ids"]]


def train(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    work: Path,
    recipe: Recipe,
    device: str,
    on_step: OnStep | None = None,
    hooks: Hooks | None = None,
    optimizer: dict[str, Any] | None = None,
) -> Trained:
    """Train a fresh LoRA adapter on every linear layer, or the one that a PeftModel brings.

    Args:
        model: a causal language model or a PeftModel whose adapter is trainable; changed in place.
        work: a directory for the trainer's own files; nothing in it is needed afterwards.
        hooks: called between optimiser steps.
        optimizer: state to go on with, of a training with the same adapter and recipe; None begins anew.

    Raises:
        StageError: training diverged.
    """
    import datasets
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PrinterCallback, set_seed
    from trl.trainer.sft_trainer import SFTTrainer

    torch.set_num_threads(recipe.threads)
    datasets.disable_caching()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)  # TRL's own use
    set_seed(recipe.seed)  # before the LoRA matrices are drawn
    fresh = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=model,
        args=_arguments(work, recipe, device, str(model.dtype) == "torch.bfloat16"),
        train_dataset=datasets.Dataset.from_list([pair._asdict() for pair in pairs]),
        processing_class=tokenizer,
        peft_config=None if isinstance(model, PeftModel) else fresh,
        callbacks=[_callback(on_step, hooks or {})],
    )
    trainer.remove_callback(PrinterCallback)  # the caller shows the progress
    if optimizer is not None:
        trainer.create_optimizer()
        trainer.optimizer.load_state_dict(optimizer)
    trainer.train()
    return Trained(trainer.model, _losses(trainer.state.log_history), trainer.optimizer.state_dict())


def _arguments(work: Path, recipe: Recipe, device: str, bfloat16: bool) -> Any:
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig(
        output_dir=str(work / "trainer"),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.batch_size // recipe.micro_batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=max(1, recipe.steps // 20) if recipe.schedule == "cosine" else 0,
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


def _callback(on_step: OnStep | None, hooks: Hooks) -> Any:
    from transformers import TrainerCallback

    class StepCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if on_step is not None and logs and "loss" in logs:
                on_step(state.global_step, state.max_steps, float(logs["loss"]))

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step in hooks:
                hooks[state.global_step](model)

    return StepCallback()


def _losses(history: Sequence[Mapping[str, Any]]) -> Losses:
    losses = [float(entry["loss"]) for entry in history if "loss" in entry]
    if not losses or not all(abs(loss) < float("inf") for loss in losses):
        raise StageError("fine-tuning diverged: its loss is not finite; lower the learning rate")
    tenth = max(1, len(losses) // 10)
    return Losses(len(losses), fmean(losses[:tenth]), fmean(losses[-tenth:]))

"""One DPO stage with TRL, as a program: `python -m selfdev.trainers.dpo_process JOB.json`.

The job names the base model, the adapter to continue from, the pairs, the settings and the directory to write. Progress
goes to standard output, one JSON object a line; everything else, TRL's own prints included, to standard error.

The first iteration trains a fresh LoRA, and the reference is the base model (the adapter turned off). A later one
trains the previous adapter on; TRL 1.16 then adds a frozen copy of it as the adapter `ref`, which is the reference and
is not saved.

Left out: full fine-tuning, several devices, evaluation data.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import IO, Any

from selfdev.errors import ModelError, SelfdevError, StageError
from selfdev.trainers.base import TrainSettings, checkpoint_steps, finish, step_directory
from selfdev.types import TrainReport

PARENT = "SELFDEV_PARENT_PID"  # environment: the process that started this one
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CURVE_KEYS = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}


@dataclass(frozen=True, slots=True)
class Job:
    """What one process is asked to do."""

    base: str  # model reference
    previous: str | None  # adapter directory to continue from
    pairs: str  # JSONL: prompt, chosen, rejected
    out: str  # adapter directory to write
    seed: int
    chat_template: bool  # the prompt is a user message, the completion the assistant's
    checkpoints: int  # adapters to save inside the stage
    settings: TrainSettings


def read_job(path: Path) -> Job:
    """Read a job file."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    settings: dict[str, Any] = values.pop("settings")
    if not isinstance(settings["target_modules"], str):
        settings["target_modules"] = tuple(settings["target_modules"])
    return Job(**values, settings=TrainSettings(**settings))


def run(job: Job, progress: IO[str]) -> TrainReport:
    """Train, write the adapter and its report.

    Raises:
        StageError: a pair was dropped or does not fit the model, or training diverged.
        ModelError: the base model or the previous adapter cannot be used.
    """
    import torch

    torch.set_num_threads(job.settings.threads)
    rows = _read_rows(job)
    trainer = _build_trainer(job, rows, progress)
    _check_rows(trainer, len(rows), job.base)
    trainer.train()
    report = _report(trainer.state.log_history, len(rows))
    out = Path(job.out)
    _save(trainer.model, out)
    return finish(out, report, job.checkpoints, job.settings.warmup)


def _save(model: Any, directory: Path) -> None:
    """Write the trained adapter alone, without the frozen copy that is the reference."""
    # Embeddings are never trained; asking for them would send peft to the hub for the base model's configuration.
    model.save_pretrained(directory, selected_adapters=["default"], save_embedding_layers=False)


def _read_rows(job: Job) -> list[dict[str, Any]]:
    lines = Path(job.pairs).read_text(encoding="utf-8").split("\n")
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line]
    if not job.chat_template:
        return rows
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return [{key: [{"role": role, "content": row[key]}] for key, role in roles.items()} for row in rows]


def _build_trainer(job: Job, rows: list[dict[str, Any]], progress: IO[str]) -> Any:
    from selfdev.models import load_causal_lm

    # First the model, which may fail; then the imports that take seconds.
    model, tokenizer = load_causal_lm(job.base, job.settings.device.partition(":")[0], job.settings.dtype)
    import datasets
    from transformers import set_seed
    from trl.trainer.dpo_trainer import DPOTrainer

    datasets.disable_caching()
    datasets.disable_progress_bars()
    seed = job.seed % 2**32  # what numpy takes
    set_seed(seed)  # before the LoRA matrices are drawn
    return DPOTrainer(
        model=model if job.previous is None else _continue(model, job.previous),
        peft_config=_fresh_adapter(job.settings) if job.previous is None else None,
        args=_arguments(job, seed, str(model.dtype) == "torch.bfloat16"),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[_progress_callback(progress), _checkpoint_callback(Path(job.out), job.checkpoints)],
    )


def _fresh_adapter(settings: TrainSettings) -> Any:
    from peft import LoraConfig

    modules = settings.target_modules
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules=modules if isinstance(modules, str) else list(modules),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )


def _continue(model: Any, adapter: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=True, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"adapter {adapter} cannot be continued: {error}") from error


def _arguments(job: Job, seed: int, bfloat16: bool) -> Any:
    from trl.trainer.dpo_config import DPOConfig

    settings = job.settings
    return DPOConfig(
        output_dir=str(Path(job.out).with_name("trainer")),
        beta=settings.beta,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size // settings.gradient_accumulation,
        gradient_accumulation_steps=settings.gradient_accumulation,
        warmup_steps=settings.warmup,  # below 1 it is a share of the steps
        max_grad_norm=settings.max_grad_norm,
        max_length=None,  # the default, 1024, would cut long pairs and drop those with long prompts
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=bfloat16,
        use_cpu=settings.device == "cpu",
        dataloader_pin_memory=settings.device != "cpu",
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a diverged run must show
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _check_rows(trainer: Any, expected: int, base: str) -> None:
    """Every pair is there, whole, and fits the model."""
    kept = trainer.train_dataset
    if len(kept) != expected:
        raise StageError(f"TRL kept {len(kept)} of {expected} preference pairs; expected all of them")
    longest = max(len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in kept)
    limit = getattr(trainer.model.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise StageError(
            f"the longest preference pair has {longest} tokens, {base!r} takes {limit}; lower generate.max_new_tokens"
        )


def _progress_callback(progress: IO[str]) -> Any:
    from transformers import TrainerCallback

    class ProgressCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Tells the parent about each logged step; a parent that is gone ends this process by the broken pipe."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            point = _point(state.global_step, logs or {})
            if point is not None:
                line = {"step": state.global_step, "total": state.max_steps}
                line |= {"loss": point["loss"], "margin": point["margin"]}
                print(json.dumps(line), file=progress, flush=True)

    return ProgressCallback()


def _checkpoint_callback(out: Path, count: int) -> Any:
    from transformers import TrainerCallback

    class CheckpointCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Saves the adapter inside the stage; nothing random is drawn for it, so training goes on as without."""

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step in checkpoint_steps(state.max_steps, count):
                _save(model, step_directory(out, state.global_step))

    return CheckpointCallback()


def _point(step: int, logs: Mapping[str, Any]) -> dict[str, float] | None:
    """One entry of the curve; None for log entries that are not of a training step."""
    if not all(key in logs for key in _CURVE_KEYS):
        return None
    return {"step": float(step)} | {name: float(logs[key]) for key, name in _CURVE_KEYS.items()}


def _report(history: Sequence[Mapping[str, Any]], pairs: int) -> TrainReport:
    """Loss, margin and accuracy are means over the last quarter of the steps, at least one."""
    points = [point for entry in history if (point := _point(int(entry["step"]), entry)) is not None]
    if not all(abs(value) < float("inf") for point in points for value in point.values()):
        raise StageError("DPO training diverged: its loss is not finite; lower train.learning_rate")
    last = points[-max(1, len(points) // 4) :]
    return TrainReport(
        steps=len(points),
        pairs=pairs,
        loss=fmean(point["loss"] for point in last),
        reward_margin=fmean(point["margin"] for point in last),
        reward_accuracy=fmean(point["accuracy"] for point in last),
        curve=tuple(points),
    )


def _die_with_parent() -> None:
    """Linux: a killed parent takes this process with it, so that the run it left can be continued at once."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """Run the job of this file; expected errors end as one line on standard error."""
    _die_with_parent()
    # Standard output is kept for progress: whatever libraries print goes to standard error.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as progress:
        os.dup2(2, 1)
        try:
            run(read_job(Path(arguments[0])), progress)
        except SelfdevError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

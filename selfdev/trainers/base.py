"""The trainer seam: preference pairs in, a LoRA adapter directory out. `scripted` is the fake, `trl` the real one.

A finished stage is one directory that holds a PEFT adapter and `train.json`, its report; adapters that were asked for
inside the stage are directories below it, `step-N`. It appears at once, by a rename, so a directory with a readable
report is a complete one. The report has the digest of every adapter's weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from selfdev.errors import RunError, UsageError
from selfdev.types import PreferencePair, StageCheckpoint, TrainReport

REPORT = "train.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Where a running stage is."""

    step: int  # optimiser steps done
    total: int  # optimiser steps in all
    loss: float  # of this step
    margin: float  # reward margin of this step, nats


OnProgress = Callable[[TrainProgress], None]


class Trainer(Protocol):
    """Trains the generator on preference pairs."""

    def train(
        self,
        base: str,
        previous: Path | None,
        pairs: Sequence[PreferencePair],
        out: Path,
        seed: int,
        on_progress: OnProgress | None = None,
        checkpoints: int = 0,
    ) -> TrainReport:
        """Continue from `previous` (None: from the base model) and write the new adapter to `out`, which is not there.

        The reference policy is the one training starts from. The same arguments give the same adapter, and so they do
        with any number of checkpoints: adapters after the steps of `checkpoint_steps`, at `step_directory`.

        Raises:
            StageError: training failed; nothing is at `out`.
        """
        ...


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """DPO with LoRA. Paper (arXiv 2410.15639): beta 0.01, learning rate 1e-6, rank 256; it is silent on the rest."""

    beta: float = 0.01  # strength of the pull to the reference policy
    learning_rate: float = 1e-6  # at its peak; falls linearly to 0
    epochs: float = 1.0  # passes over the pairs
    max_steps: int | None = None  # optimiser steps; overrides epochs
    batch_size: int = 8  # pairs per optimiser step
    gradient_accumulation: int = 1  # parts a batch is cut into to save memory
    lora_rank: int = 256
    lora_alpha: int = 512  # the adapter's product is scaled by alpha / rank
    target_modules: str | tuple[str, ...] = "all-linear"  # never lm_head
    warmup: float = 0.0  # share of the steps in which the learning rate rises; the first of them learns nothing
    max_grad_norm: float = 1.0
    device: str = "cpu"
    threads: int = 1  # CPU threads of torch
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the base weights; LoRA weights are float32
    gradient_checkpointing: bool = False  # recompute activations to save memory

    def __post_init__(self) -> None:
        for name in ("beta", "learning_rate", "epochs", "batch_size", "gradient_accumulation", "lora_rank"):
            if not getattr(self, name) > 0:
                raise UsageError(f"train.{name} is {getattr(self, name)}; it must be above 0")
        if self.batch_size % self.gradient_accumulation:
            raise UsageError(
                f"train.batch_size {self.batch_size} is not a multiple of train.gradient_accumulation "
                f"{self.gradient_accumulation}; a batch is cut into equal parts"
            )


def checkpoint_steps(total: int, count: int) -> list[int]:
    """Optimiser steps after which a stage of `total` is saved: as near as whole steps come to `count` equal distances.

    The start and the end are none of them. Where there are fewer steps, those that there are.
    """
    steps = {(2 * place * total + count + 1) // (2 * (count + 1)) for place in range(1, count + 1)}  # half rounds up
    return sorted(step for step in steps if 0 < step < total)


def learned_share(step: int, steps: int, warmup: float = 0.0) -> float:
    """The learning rates of the first `step` of `steps` optimiser steps, as a share of the sum of all.

    As in transformers' linear schedule: up from 0 in the share `warmup` of the steps, then down to 0.
    """
    rising = math.ceil(steps * warmup) if warmup < 1 else int(warmup)
    rates = [k / rising if k < rising else (steps - k) / max(1, steps - rising) for k in range(steps)]
    return sum(rates[:step]) / (sum(rates) or 1.0)


def step_directory(out: Path, step: int) -> Path:
    """Where the adapter lies that a stage at `out` had after so many steps."""
    return out / f"step-{step}"


def adapter_digest(directory: Path) -> str:
    """SHA-256 of an adapter's weights file."""
    with (directory / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finish(directory: Path, report: TrainReport, checkpoints: int, warmup: float = 0.0) -> TrainReport:
    """Write the report of a stage whose adapters are all there: their digests, and what had been learned by then."""
    saved = [
        StageCheckpoint(
            step, adapter_digest(step_directory(directory, step)), learned_share(step, report.steps, warmup)
        )
        for step in checkpoint_steps(report.steps, checkpoints)
    ]
    whole = replace(report, digest=adapter_digest(directory), checkpoints=tuple(saved))
    write_report(directory, whole)
    return whole


def check_adapters(directory: Path, report: TrainReport) -> None:
    """Compare the adapters of a finished stage with their digests.

    Raises:
        RunError: one is gone or has changed.
    """
    expected = {directory: report.digest} | {step_directory(directory, c.step): c.digest for c in report.checkpoints}
    for adapter, digest in expected.items():
        try:
            same = adapter_digest(adapter) == digest
        except OSError:
            same = False
        if not same:
            raise RunError(
                f"the weights of {adapter} are not those that were trained (missing or changed); move {directory} away "
                "and run again: its iteration is trained anew"
            )


def write_report(directory: Path, report: TrainReport) -> None:
    """Write `train.json`; non-finite numbers are refused with ValueError."""
    (directory / REPORT).write_text(json.dumps(asdict(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_report(directory: Path) -> TrainReport | None:
    """The report of a finished stage; None where there is no such directory.

    Raises:
        RunError: the directory is there without a readable report.
    """
    if not directory.exists():
        return None
    try:
        return _parse(json.loads((directory / REPORT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{directory} holds no finished adapter (its {REPORT} is missing or damaged); move it away and run again"
        ) from error


def _parse(values: dict[str, Any]) -> TrainReport:
    known = {field.name: values[field.name] for field in fields(TrainReport)}
    known["curve"] = tuple(dict(point) for point in values["curve"])
    known["checkpoints"] = tuple(StageCheckpoint(**saved) for saved in values["checkpoints"])
    return TrainReport(**known)

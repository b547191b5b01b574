"""The trainer seam: preference pairs in, a LoRA adapter directory out. `scripted` is the fake, `trl` the real one.

A finished stage is one directory that holds a PEFT adapter and `train.json`, its report. It appears at once, by a
rename, so a directory with a readable report is a complete one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

from selfdev.errors import RunError, UsageError
from selfdev.types import PreferencePair, TrainReport

REPORT = "train.json"


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
    ) -> TrainReport:
        """Continue from `previous` (None: from the base model) and write the new adapter to `out`, which is not there.

        The reference policy is the one training starts from. The same arguments give the same adapter.

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
    return TrainReport(**known)

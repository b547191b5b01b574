"""A trainer that learns nothing: the fake for tests of the loop."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from selfdev.trainers.base import WEIGHTS, OnProgress, TrainProgress, checkpoint_steps, finish, step_directory
from selfdev.types import PreferencePair, TrainReport

_CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}


class ScriptedTrainer:
    """Writes a directory of the right form in milliseconds. Its one number is a hash of what it was given."""

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
        """One step per pair, with a margin that grows by 0.1 each."""
        curve = tuple(
            {"step": i, "loss": 0.7 / i, "margin": 0.1 * i, "accuracy": 1.0} for i in range(1, len(pairs) + 1)
        )
        for point in curve if on_progress else ():
            assert on_progress is not None
            on_progress(TrainProgress(int(point["step"]), len(pairs), point["loss"], point["margin"]))
        last = curve[-1]
        report = TrainReport(len(pairs), len(pairs), last["loss"], last["margin"], last["accuracy"], curve)
        given = [base, str(previous and previous.name), seed, [(pair.chosen_id, pair.rejected_id) for pair in pairs]]
        work = out.with_name(out.name + ".work")
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
        _write_adapter(work, given)
        for step in checkpoint_steps(report.steps, checkpoints):
            _write_adapter(step_directory(work, step), [*given, step])
        report = finish(work, report, checkpoints)
        work.rename(out)
        return report


def _write_adapter(directory: Path, given: Sequence[object]) -> None:
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")
    weight = hashlib.sha256(json.dumps(given).encode()).digest()[:4]
    (directory / WEIGHTS).write_bytes(_safetensors("scripted", weight))


def _safetensors(name: str, data: bytes) -> bytes:
    """A file with one tensor of 32-bit integers (format: header length, JSON header, data)."""
    header = json.dumps({name: {"dtype": "I32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data

"""DPO by TRL in a process of its own, which ends and frees its memory: this side starts it and reads its progress.

Beside `out` stand, while it runs, `<out>.work/` (job, pairs, unfinished adapter; kept after a failure) and
`<out>.log` (kept always). The adapter appears at `out` by one rename. `dpo_process` is the other side.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from selfdev.errors import StageError
from selfdev.trainers.base import OnProgress, TrainProgress, TrainSettings, read_report
from selfdev.trainers.dpo_process import PARENT
from selfdev.types import PreferencePair, TrainReport

_LOG_LINES = 3  # how much of a failed process's log goes into the error message
_GRACE = 10.0  # seconds a process has to end when this one is interrupted


class TrlTrainer:
    """Runs TRL's DPOTrainer with LoRA; see `selfdev.trainers.base.Trainer`."""

    def __init__(self, settings: TrainSettings, chat_template: bool = False) -> None:
        """`chat_template`: the generator saw the prompt as a user message, so train it on that form."""
        self._settings = settings
        self._chat_template = chat_template

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
        """Train in a new process and wait for it.

        Raises:
            StageError: the process failed or died; the message ends with the path of its log.
        """
        work = out.with_name(out.name + ".work")
        log = out.with_name(out.name + ".log")
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
        work.mkdir(parents=True)
        job = self._write_job(work, base, previous, pairs, seed, checkpoints)
        with log.open("w", encoding="utf-8") as stream:
            command = [sys.executable, "-P", "-m", "selfdev.trainers.dpo_process", str(job)]
            code = _run(command, self._environment(), stream, on_progress)
        report = read_report(work / "adapter") if code == 0 else None
        if report is None:
            raise StageError(f"DPO training {_death(code)}: {_last_lines(log)}; the whole log: {log}")
        (work / "adapter").rename(out)
        shutil.rmtree(work)
        return report

    def _write_job(
        self,
        work: Path,
        base: str,
        previous: Path | None,
        pairs: Sequence[PreferencePair],
        seed: int,
        checkpoints: int = 0,
    ) -> Path:
        lines = [json.dumps({"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}) + "\n" for p in pairs]
        (work / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
        values = {
            "base": base,
            "previous": str(previous) if previous else None,
            "pairs": str(work / "pairs.jsonl"),
            "out": str(work / "adapter"),
            "seed": seed,
            "chat_template": self._chat_template,
            "checkpoints": checkpoints,
            "settings": asdict(self._settings),
        }
        job = work / "job.json"
        job.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        return job

    def _environment(self) -> dict[str, str]:
        package_root = str(Path(__file__).resolve().parents[2])  # this same selfdev, however it was found
        environment = dict(os.environ)
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")])),
            "PYTHONHASHSEED": "0",  # peft keeps module names in sets; their order reaches files
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(self._settings.threads),
            PARENT: str(os.getpid()),
        }
        environment |= _one_gpu(self._settings.device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return environment


def _one_gpu(device: str, visible: str | None) -> dict[str, str]:
    """With several GPUs in sight TRL refuses to work, so the process sees only its own."""
    if not device.startswith("cuda"):
        return {}
    index = int(device.partition(":")[2] or 0)
    names = visible.split(",") if visible else []
    return {"CUDA_VISIBLE_DEVICES": names[index] if index < len(names) else str(index)}


def _run(command: list[str], environment: Mapping[str, str], log: IO[str], on_progress: OnProgress | None) -> int:
    """Run to the end and return the exit code; on any interruption here the process is ended first."""
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                progress = _progress(line)
                if progress is not None and on_progress is not None:
                    on_progress(progress)
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _progress(line: str) -> TrainProgress | None:
    """One line of the process's standard output; None for a line that a killed process left unfinished."""
    try:
        values: dict[str, Any] = json.loads(line)
        return TrainProgress(**values)
    except (ValueError, TypeError):
        return None


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def _death(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"


def _last_lines(log: Path) -> str:
    lines = [" ".join(line.split()) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return " | ".join([line for line in lines if line][-_LOG_LINES:])[-500:] or "it wrote nothing"

"""What every trainer must do, asked of the scripted one and of TRL on a tiny random Llama; then what the real one adds.

A training process takes several seconds to import TRL, so a module fixture trains the two stages that most tests look
at, the first in a process of its own; the second, and what other tests train, calls the process's entry in this one.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfdev.errors import ModelError, RunError, SelfdevError, StageError, UsageError
from selfdev.train import NOTHING_TO_LEARN, train
from selfdev.trainers import dpo_process, trl
from selfdev.trainers.base import (
    OnProgress,
    Trainer,
    TrainProgress,
    TrainSettings,
    adapter_digest,
    checkpoint_steps,
    learned_share,
    read_report,
    step_directory,
    write_report,
)
from selfdev.trainers.scripted import ScriptedTrainer
from selfdev.trainers.trl import TrlTrainer
from selfdev.types import PreferencePair, TrainReport
from tests.tiny import END, save_tiny, tiny_llama

pytestmark = pytest.mark.filterwarnings("default")  # TRL and its friends warn about themselves

PROMPT = "Write a merge function:\n"
SETTINGS = TrainSettings(
    beta=0.1, learning_rate=5e-3, epochs=4, batch_size=2, lora_rank=4, lora_alpha=8, dtype="float32"
)
PAIRS = tuple(
    PreferencePair(PROMPT, f"return {i}.0 * total\n```", f"raise Error{i}\n```", f"c{i}", f"r{i}", 0.8, None)
    for i in range(4)
)


class Stage(NamedTuple):
    """A finished stage and what was seen of it."""

    adapter: Path
    report: TrainReport
    progress: list[TrainProgress]


class Run(NamedTuple):
    """Two stages, the second from the first; the first is saved at two points inside, the second after every step."""

    trainer: Trainer
    base: Path
    first: Stage
    second: Stage


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), tiny_llama(std=0.05))


def _stage(trainer: Trainer, base: Path, previous: Path | None, out: Path, checkpoints: int) -> Stage:
    progress: list[TrainProgress] = []
    adapter, report = train(trainer, str(base), previous, PAIRS, out, 11, progress.append, checkpoints)
    assert adapter == out
    return Stage(adapter, report, progress)


def _two_stages(trainer: Trainer, base: Path, root: Path) -> Run:
    first = _stage(trainer, base, None, root / "adapters" / "iteration-1", checkpoints=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl, "_run", _run_here)
        second = _stage(trainer, base, first.adapter, root / "adapters" / "iteration-2", checkpoints=99)
    return Run(trainer, base, first, second)


def _run_here(command: list[str], environment: object, log: object, on_progress: OnProgress) -> int:
    """What the process would do, without the process."""
    stream = io.StringIO()
    dpo_process.run(dpo_process.read_job(Path(command[-1])), stream)
    for line in stream.getvalue().splitlines():
        progress = trl._progress(line)
        assert progress is not None
        on_progress(progress)
    return 0


@pytest.fixture(scope="module")
def real(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _two_stages(TrlTrainer(SETTINGS), base_dir, tmp_path_factory.mktemp("trl"))


@pytest.fixture(scope="module")
def scripted(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _two_stages(ScriptedTrainer(), base_dir, tmp_path_factory.mktemp("scripted"))


@pytest.fixture(params=["scripted", "real"])
def stages(request: pytest.FixtureRequest) -> Run:
    run: Run = request.getfixturevalue(request.param)
    return run


class TestEveryTrainer:
    def test_report_is_finite_and_complete(self, stages: Run) -> None:
        for stage in (stages.first, stages.second):
            report = stage.report
            assert report.pairs == len(PAIRS)
            assert report.steps == len(report.curve) > 0
            assert [point["step"] for point in report.curve] == list(range(1, report.steps + 1))
            numbers = [report.loss, report.reward_margin, report.reward_accuracy]
            assert all(math.isfinite(x) for x in [*numbers, *(v for point in report.curve for v in point.values())])
            assert 0 <= report.reward_accuracy <= 1

    def test_progress_arrives_step_by_step(self, stages: Run) -> None:
        for stage in (stages.first, stages.second):
            assert [p.step for p in stage.progress] == list(range(1, stage.report.steps + 1))
            assert {p.total for p in stage.progress} == {stage.report.steps}
            assert [p.margin for p in stage.progress] == [point["margin"] for point in stage.report.curve]

    def test_directory_is_a_peft_adapter_with_its_report(self, stages: Run) -> None:
        for stage in (stages.first, stages.second):
            assert PeftConfig.from_pretrained(str(stage.adapter)).peft_type == "LORA"
            assert load_file(stage.adapter / "adapter_model.safetensors")
            assert read_report(stage.adapter) == stage.report
            inside = {step_directory(stage.adapter, saved.step) for saved in stage.report.checkpoints}
            assert {path for path in stage.adapter.iterdir() if path.is_dir()} == inside
            assert stage.report.digest == adapter_digest(stage.adapter)

    def test_adapters_inside_a_stage_are_whole_and_differ(self, stages: Run) -> None:
        for stage, count in ((stages.first, 2), (stages.second, 99)):
            saved = stage.report.checkpoints
            assert [c.step for c in saved] == checkpoint_steps(stage.report.steps, count)
            assert len({c.digest for c in saved} | {stage.report.digest}) == len(saved) + 1
            for checkpoint in saved:
                directory = step_directory(stage.adapter, checkpoint.step)
                assert PeftConfig.from_pretrained(str(directory)).peft_type == "LORA"
                assert load_file(directory / "adapter_model.safetensors")
                assert checkpoint.digest == adapter_digest(directory)
                assert [path for path in directory.iterdir() if path.is_dir()] == []
        assert [c.step for c in stages.second.report.checkpoints] == list(range(1, stages.second.report.steps))

    @pytest.mark.parametrize("changed", ["", "step"])
    def test_an_adapter_that_changed_is_refused(self, stages: Run, tmp_path: Path, changed: str) -> None:
        out = Path(shutil.copytree(stages.first.adapter, tmp_path / "adapter"))
        inside = step_directory(out, stages.first.report.checkpoints[0].step)
        with (inside if changed else out).joinpath("adapter_model.safetensors").open("ab") as file:
            file.write(b"x")
        with pytest.raises(RunError, match="are not those that were trained"):
            train(stages.trainer, str(stages.base), None, PAIRS, out, seed=11)
        if changed:
            shutil.rmtree(inside)
            with pytest.raises(RunError, match="missing or changed"):
                train(stages.trainer, str(stages.base), None, PAIRS, out, seed=11)

    def test_nothing_unfinished_is_left(self, stages: Run) -> None:
        names = {path.name for path in stages.first.adapter.parent.iterdir()}
        assert names - {"iteration-1.log", "iteration-2.log"} == {"iteration-1", "iteration-2"}

    def test_another_start_gives_another_adapter(self, stages: Run) -> None:
        assert _weights(stages.first.adapter) != _weights(stages.second.adapter)

    def test_a_finished_stage_is_not_done_again(self, stages: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(stages.trainer), "train", None)
        before = _weights(stages.first.adapter)
        again = train(stages.trainer, str(stages.base), None, PAIRS, stages.first.adapter, seed=11)
        assert again == (stages.first.adapter, stages.first.report)
        assert _weights(stages.first.adapter) == before

    @pytest.mark.parametrize("continued", [False, True])
    def test_without_pairs_the_generator_stays(self, stages: Run, tmp_path: Path, continued: bool) -> None:
        previous = stages.first.adapter if continued else None
        out = tmp_path / "adapter"
        assert train(stages.trainer, str(stages.base), previous, [], out, seed=1) == (previous, NOTHING_TO_LEARN)
        assert not out.exists()

    def test_an_unfinished_directory_is_named(self, stages: Run, tmp_path: Path) -> None:
        (tmp_path / "adapter").mkdir()
        with pytest.raises(RunError, match="no finished adapter"):
            train(stages.trainer, str(stages.base), None, PAIRS, tmp_path / "adapter", seed=1)


def _weights(adapter: Path) -> bytes:
    return (adapter / "adapter_model.safetensors").read_bytes()


def _log_probability(model: torch.nn.Module, base: Path, completion: str) -> float:
    """log pi(completion, end | prompt), teacher-forced, nats."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompt, whole = (tokenizer(text, return_tensors="pt").input_ids for text in (PROMPT, PROMPT + completion + END))
    with torch.inference_mode():
        log_probs = model(whole).logits[0, :-1].log_softmax(-1).gather(1, whole[0, 1:, None])
    return float(log_probs[prompt.shape[1] - 1 :].sum())


def _mean_gap(model: torch.nn.Module, base: Path) -> float:
    gaps = [_log_probability(model, base, p.chosen) - _log_probability(model, base, p.rejected) for p in PAIRS]
    return sum(gaps) / len(gaps)


class TestTrlTrainer:
    def test_training_prefers_what_was_chosen(self, real: Run) -> None:
        """The adapter, loaded by peft alone, moved the log-probabilities the way its report says."""
        gaps = [_mean_gap(AutoModelForCausalLM.from_pretrained(real.base), real.base)]
        for stage in (real.first, real.second):
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(real.base), stage.adapter)
            gaps.append(_mean_gap(model.eval(), real.base))
        margins = [SETTINGS.beta * (gaps[1] - gaps[0]), SETTINGS.beta * (gaps[2] - gaps[1])]
        for stage, margin in zip((real.first, real.second), margins, strict=True):
            assert stage.report.curve[0]["margin"] == pytest.approx(0.0, abs=1e-5)
            assert stage.report.curve[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
            assert stage.report.reward_accuracy == 1.0
            assert margin > 0.5
            # The log is of half the pairs and before the last steps' updates, with little learning rate left.
            assert stage.report.reward_margin == pytest.approx(margin, rel=0.25)

    def test_the_reference_of_the_second_stage_is_the_first(self, real: Run) -> None:
        """A margin of 0 at its first step: against the base model it would start where the first stage ended."""
        assert real.first.report.curve[-1]["margin"] > 0.5
        assert real.second.report.curve[0]["margin"] == pytest.approx(0.0, abs=1e-5)
        first, second = (
            load_file(real.first.adapter / "adapter_model.safetensors"),
            load_file(real.second.adapter / "adapter_model.safetensors"),
        )
        assert first.keys() == second.keys()
        distance = sum(float((second[name] - first[name]).norm()) for name in first)
        assert 0 < distance < sum(float(first[name].norm()) for name in first)

    def test_the_same_job_gives_the_same_bytes_with_any_checkpoints(self, real: Run, tmp_path: Path) -> None:
        """The fixture's stage was saved twice on its way, this one is not."""
        job = _job(real.base, tmp_path)
        report = dpo_process.run(job, io.StringIO())
        assert report == replace(real.first.report, checkpoints=())
        assert _weights(Path(job.out)) == _weights(real.first.adapter)

    def test_a_checkpoint_is_the_adapter_of_its_step(self, real: Run, tmp_path: Path) -> None:
        """A learning rate that falls by steps of the whole stage: the margin logged in a step is of what was before it.

        The log has it over the step's batch of two pairs; here it is over all four.
        """
        adapters = [step_directory(real.first.adapter, c.step) for c in real.first.report.checkpoints]
        gaps = [_mean_gap(AutoModelForCausalLM.from_pretrained(real.base), real.base)]
        for adapter in (*adapters, real.first.adapter):
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(real.base), adapter)
            gaps.append(_mean_gap(model.eval(), real.base))
        margins = [SETTINGS.beta * (gap - gaps[0]) for gap in gaps[1:]]
        assert margins == sorted(margins)
        for checkpoint, margin in zip(real.first.report.checkpoints, margins, strict=False):
            assert margin == pytest.approx(real.first.report.curve[checkpoint.step]["margin"], rel=0.3)

    def test_another_seed_gives_another_adapter(self, real: Run, tmp_path: Path) -> None:
        job = replace(_job(real.base, tmp_path), seed=12)
        dpo_process.run(job, io.StringIO())
        assert _weights(Path(job.out)) != _weights(real.first.adapter)

    def test_the_log_is_kept(self, real: Run) -> None:
        assert "rewards/margins" in (real.first.adapter.parent / "iteration-1.log").read_text()

    def test_a_batch_in_parts_is_the_same_batch(self, base_dir: Path, tmp_path: Path) -> None:
        """Gradient accumulation was mis-scaled in several releases of transformers and TRL."""
        reports = []
        for parts in (1, 4):
            settings = replace(SETTINGS, batch_size=4, gradient_accumulation=parts, max_steps=4)
            reports.append(dpo_process.run(_job(base_dir, tmp_path / str(parts), settings), io.StringIO()))
        whole, split = ([point["margin"] for point in report.curve] for report in reports)
        assert len(whole) == 4
        assert split == pytest.approx(whole, rel=1e-3, abs=1e-5)

    def test_chat_pairs_train_on_the_chat_form(self, base_dir: Path, tmp_path: Path) -> None:
        base = Path(shutil.copytree(base_dir, tmp_path / "base"))
        template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        (base / "chat_template.jinja").write_text(template + "{% if add_generation_prompt %}<assistant>{% endif %}")
        job = replace(_job(base, tmp_path / "job"), chat_template=True)
        trainer = dpo_process._build_trainer(job, dpo_process._read_rows(job), io.StringIO())
        row = trainer.train_dataset[0]
        texts = [trainer.processing_class.decode(row[key]) for key in ("prompt_ids", "chosen_ids", "rejected_ids")]
        assert texts == [f"<user>{PROMPT}<assistant>", PAIRS[0].chosen, PAIRS[0].rejected]

    def test_long_pairs_are_kept_whole(self, base_dir: Path, tmp_path: Path) -> None:
        long = replace(PAIRS[0], prompt="x" * 1500 + "\n", chosen="y" * 700)
        job = _job(base_dir, tmp_path, replace(SETTINGS, max_steps=1), pairs=[long, *PAIRS[1:]])
        trainer = dpo_process._build_trainer(job, dpo_process._read_rows(job), io.StringIO())
        row = trainer.train_dataset[0]
        assert len(row["prompt_ids"]) + len(row["chosen_ids"]) == 1501 + 701
        assert trainer.args.max_length is None
        dpo_process._check_rows(trainer, 4, "base")

    def test_a_dropped_pair_is_an_error(self) -> None:
        trainer = SimpleNamespace(train_dataset=[{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}])
        with pytest.raises(StageError, match="kept 1 of 2"):
            dpo_process._check_rows(trainer, 2, "base")

    def test_a_pair_beyond_the_context_is_an_error(self, base_dir: Path, tmp_path: Path) -> None:
        job = _job(base_dir, tmp_path, pairs=[replace(PAIRS[0], chosen="y" * 4100)])
        with pytest.raises(StageError, match="takes 4096"):
            dpo_process.run(job, io.StringIO())
        assert not Path(job.out).exists()

    def test_divergence_is_an_error(self, base_dir: Path, tmp_path: Path) -> None:
        job = _job(base_dir, tmp_path, replace(SETTINGS, learning_rate=1e30))
        with pytest.raises(StageError, match="diverged"):
            dpo_process.run(job, io.StringIO())
        assert not Path(job.out).exists()

    def test_an_adapter_of_another_model_is_an_error(self, base_dir: Path, scripted: Run, tmp_path: Path) -> None:
        job = replace(_job(base_dir, tmp_path), previous=str(tmp_path / "nowhere"))
        with pytest.raises(ModelError, match="cannot be continued"):
            dpo_process.run(job, io.StringIO())

    def test_a_failing_process_is_told_in_one_line(self, tmp_path: Path) -> None:
        out = tmp_path / "adapter"
        with pytest.raises(StageError) as caught:
            TrlTrainer(SETTINGS).train(str(tmp_path / "nowhere"), None, PAIRS, out, seed=1)
        message = str(caught.value)
        assert "\n" not in message
        assert "no such directory" in message
        assert message.endswith(str(tmp_path / "adapter.log"))
        assert not out.exists()
        assert (tmp_path / "adapter.work" / "pairs.jsonl").exists()

    def test_a_killed_process_is_told_in_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _fake_python(tmp_path, monkeypatch, "echo half way >&2; kill -9 $$")
        with pytest.raises(StageError, match="killed by signal 9: half way; the whole log"):
            TrlTrainer(SETTINGS).train("base", None, PAIRS, tmp_path / "adapter", seed=1)

    def test_success_without_a_result_is_a_failure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _fake_python(tmp_path, monkeypatch, "exit 0")
        with pytest.raises(StageError, match="it wrote nothing"):
            TrlTrainer(SETTINGS).train("base", None, PAIRS, tmp_path / "adapter", seed=1)

    def test_an_interruption_ends_the_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = '{"step": 1, "total": 9, "loss": 0.7, "margin": 0.0}'
        _fake_python(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; echo '{line}'; exec sleep 60")

        def interrupt(progress: TrainProgress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            TrlTrainer(SETTINGS).train("base", None, PAIRS, tmp_path / "adapter", seed=1, on_progress=interrupt)
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

    def test_leftovers_of_a_killed_run_are_cleared(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        leftover = tmp_path / "adapter.work" / "adapter"
        leftover.mkdir(parents=True)
        write_report(leftover, NOTHING_TO_LEARN)
        _fake_python(tmp_path, monkeypatch, "exit 0")
        with pytest.raises(StageError):
            TrlTrainer(SETTINGS).train("base", None, PAIRS, tmp_path / "adapter", seed=1)

    @pytest.mark.parametrize(
        ("device", "visible", "expected"),
        [("cpu", "0,1", {}), ("cuda", None, "0"), ("cuda:1", None, "1"), ("cuda:1", "4,7", "7"), ("cuda", "3", "3")],
    )
    def test_the_process_sees_one_gpu(self, device: str, visible: str | None, expected: object) -> None:
        wanted = {"CUDA_VISIBLE_DEVICES": expected} if expected else {}
        assert trl._one_gpu(device, visible) == wanted


@pytest.mark.parametrize(
    "changes",
    [{"beta": 0.0}, {"learning_rate": -1.0}, {"batch_size": 0}, {"batch_size": 8, "gradient_accumulation": 3}],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"train\."):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize(
    ("total", "count", "steps"),
    [
        (10, 0, []),
        (10, 1, [5]),
        (10, 2, [3, 7]),  # 10/3, 20/3
        (10, 3, [3, 5, 8]),  # 2.5 and 7.5 go up
        (10, 9, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (4, 99, [1, 2, 3]),
        (2, 3, [1]),
        (1, 3, []),
        (0, 3, []),
    ],
)
def test_checkpoints_by_hand(total: int, count: int, steps: list[int]) -> None:
    assert checkpoint_steps(total, count) == steps


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{"steps": 3')
    with pytest.raises(SelfdevError, match="no finished adapter"):
        read_report(tmp_path)


def _job(base: Path, root: Path, settings: TrainSettings = SETTINGS, pairs: object = PAIRS) -> dpo_process.Job:
    """The job that the trainer would write, with the seed of the fixtures."""
    root.mkdir(parents=True, exist_ok=True)
    path = TrlTrainer(settings)._write_job(root, str(base), None, pairs, 11)  # type: ignore[arg-type]
    assert json.loads(path.read_text())["seed"] == 11
    return dpo_process.read_job(path)


def _fake_python(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    fake = directory / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signals are Linux's")
def test_a_killed_parent_takes_the_training_process_with_it(tmp_path: Path) -> None:
    """A parent that starts the real process on a job that never begins, then dies by SIGKILL."""
    fifo = tmp_path / "job.json"
    os.mkfifo(fifo)  # reading it blocks, so the process is alive and waiting
    code = (
        "import os, signal, subprocess, sys, time\n"
        "env = {**os.environ, 'SELFDEV_PARENT_PID': str(os.getpid())}\n"
        "child = subprocess.Popen([sys.executable, '-m', 'selfdev.trainers.dpo_process', sys.argv[1]], env=env)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(fifo)], env=env, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        writer = os.open(fifo, os.O_WRONLY)  # returns once the child has opened the job
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
            assert time.monotonic() < deadline, "the training process outlived its parent"
            time.sleep(0.05)
        os.close(writer)


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.0), (7, 0.3), (1, 0.0), (4, 0.9), (4, 1.0)])
def test_what_is_learned_follows_the_learning_rate_of_transformers(steps: int, warmup: float) -> None:
    from transformers import TrainingArguments, get_linear_schedule_with_warmup

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    rising = TrainingArguments(output_dir="unused", warmup_steps=warmup).get_warmup_steps(steps)
    schedule = get_linear_schedule_with_warmup(optimizer, rising, steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    for step in range(1, steps + 1):
        assert learned_share(step, steps, warmup) == pytest.approx(sum(rates[:step]) / sum(rates))
    assert learned_share(5, 10) == pytest.approx((10 + 9 + 8 + 7 + 6) / 55)

"""The CPU paths on a CUDA device. Run with `pytest -m gpu`; not run where there is no device."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_the_worker_gives_the_cpus_merges_and_restores_the_seed(tmp_path: Path) -> None:
    from selfdev.baselines import read_rule
    from selfdev.config import load_config
    from selfdev.types import ExecutionStatus, MergeProgram
    from selfdev.wiring import build_parts

    texts = {}
    for device in ("cpu", "cuda"):
        config = load_config(overrides={"device": device, "task.dev_size": 30, "task.test_size": 3, "threads": 1})
        parts = build_parts(config)
        prompts = [q.prompt for q in parts.task.dev]
        with parts.open_worker() as worker:
            programs = [MergeProgram("a" * 12, read_rule(rule), 0) for rule in ("zero", "uniform_average", "zero")]
            outcomes = [worker.run(program, prompts, ()) for program in programs]
        assert all(o.status is ExecutionStatus.OK for o in outcomes)
        texts[device] = [[c.text for c in o.completions or ()] for o in outcomes]
        assert texts[device][0] == texts[device][2]  # the seed is back
    same = sum(a == b for a, b in zip(texts["cpu"][1], texts["cuda"][1], strict=True))
    assert same >= 28  # greedy ties may fall differently


def test_the_generator_samples_on_cuda() -> None:
    from selfdev.generate import sample_requests
    from selfdev.generators.transformers import TransformersGenerator
    from selfdev.prompting import render_prompt

    generator = TransformersGenerator("zoo:generator", "cuda", 8, 64, dtype="float32")
    generator.load(None)
    prompt = render_prompt("generator/merge.md.jinja")
    first, second = (list(generator.sample(prompt, sample_requests(0, 1, range(8)), 1.0)) for _ in range(2))
    generator.close()
    assert first == second
    assert all(s.tokens > 0 for s in first[0])

"""The CPU paths on a CUDA device. Run with `pytest -m gpu`; not run where there is no device."""

from __future__ import annotations

import importlib.util
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


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM")
@pytest.mark.parametrize("enforce_eager", [False, True])
@pytest.mark.parametrize("part", ["", ".mlp.", "0.self_attn.k_proj"])
def test_vllm_answers_as_transformers_does_with_and_without_graphs(part: str, enforce_eager: bool) -> None:
    """Weights are copied into the live parameters, which captured graphs keep pointing to."""
    from selfdev.config import VllmConfig
    from selfdev.evaluators.transformers import TransformersEvaluator
    from selfdev.evaluators.vllm import VllmEvaluator

    prompts = [f"{a} + {b} =" for a in range(4) for b in range(5)]
    settings = VllmConfig(kv_cache_bytes=1 << 28, enforce_eager=enforce_eager)
    reference = TransformersEvaluator("zoo:solver-seed", "cuda", 8, 16, (), torch.bfloat16)
    noise = torch.Generator().manual_seed(0)
    seed = reference.seed_parameters()
    merged = {n: 0.05 * torch.randn(w.shape, generator=noise).to(w.device) for n, w in seed.items() if part in n}
    seeds = reference.generate(prompts)
    reference.apply(merged)
    merges = reference.generate(prompts)
    reference.close()
    ours = VllmEvaluator("zoo:solver-seed", "cuda", 8, 16, (), torch.bfloat16, settings=settings)
    assert ours._ready()._in_place
    ours.self_check(prompts, list(merged))
    before = ours.generate(prompts)
    ours.apply(merged)
    answers = ours.generate(prompts)
    ours.restore()
    again = ours.generate(prompts)
    ours.close()
    assert again == before
    assert answers != before
    for given, expected in ((before, seeds), (answers, merges)):
        same = sum(a.text == b.text for a, b in zip(given, expected, strict=True))
        assert same >= 16  # greedy ties may fall differently in bfloat16

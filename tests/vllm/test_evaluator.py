"""What is special to the vLLM evaluator; what all evaluators share is in tests/conformance. `make test-vllm`."""

from __future__ import annotations

import gc
import os
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfdev.config import VllmConfig
from selfdev.errors import DataError, EngineError, ModelError, StageError, UsageError
from selfdev.evaluators.transformers import TransformersEvaluator
from selfdev.evaluators.vllm import VllmEvaluator
from tests.tiny import save_tiny
from tests.vllm.models import END_ID, SETTINGS, byte, peaked, save_constant, save_small

pytestmark = pytest.mark.vllm

SHARED = 6 * "Question: what is one and one?\nAnswer: two\n\n"  # 264 tokens: two whole blocks of the engine's cache
PROMPTS = [SHARED + tail for tail in ("a", "what about this one, then?", "bb", "seven and more", "nine")]
LIMIT = 12


@pytest.fixture(scope="module", params=["tied", "untied"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmEvaluator, TransformersEvaluator]]:
    """The same model in both engines."""
    ref = save_small(tmp_path_factory.mktemp(request.param), tied=request.param == "tied")
    ours = VllmEvaluator(ref, "cpu", 3, LIMIT, ("\n",), settings=SETTINGS)
    reference = TransformersEvaluator(ref, "cpu", 3, LIMIT, ("\n",))
    yield ours, reference
    ours.close()
    reference.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEvaluator]:
    evaluator = VllmEvaluator(save_small(tmp_path_factory.mktemp("seed")), "cpu", 3, LIMIT, (), settings=SETTINGS)
    yield evaluator
    evaluator.close()


@pytest.fixture
def evaluator(shared: VllmEvaluator) -> VllmEvaluator:
    shared.restore()
    return shared


def candidate(evaluator: VllmEvaluator, part: str = "", seed: int = 0) -> dict[str, torch.Tensor]:
    """Noise on the parameters whose names hold `part`."""
    noise = torch.Generator().manual_seed(seed)
    weights = evaluator.seed_parameters()
    return {n: 0.2 * torch.randn(w.shape, generator=noise) for n, w in weights.items() if part in n}


class TestWeights:
    @pytest.mark.parametrize(
        "part", ["", ".mlp.", "0.self_attn.q_proj", "1.self_attn.k_proj", "up_proj", "embed_tokens", "norm", "lm_head"]
    )
    def test_a_part_of_the_model_answers_as_transformers_does(
        self, pair: tuple[VllmEvaluator, TransformersEvaluator], part: str
    ) -> None:
        ours, reference = pair
        merged = candidate(ours, part)
        if not merged:
            pytest.skip("a tied model has no head of its own")
        reference.restore()
        seeds = reference.generate(PROMPTS)
        assert ours.generate(PROMPTS) == seeds
        ours.apply(merged)
        reference.apply(merged)
        expected = reference.generate(PROMPTS)
        assert expected != seeds
        assert ours.generate(PROMPTS) == expected
        ours.restore()
        assert ours.generate(PROMPTS) == seeds

    def test_only_whole_touched_modules_are_written(
        self, evaluator: VllmEvaluator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[list[str]] = []
        engine = evaluator._ready()
        real = engine.write

        def spy(tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
            pairs = list(tensors)
            written.append([name.removeprefix("model.layers.") for name, _ in pairs])
            real(iter(pairs))

        monkeypatch.setattr(engine, "write", spy)
        evaluator.apply(candidate(evaluator, "0.self_attn.k_proj"))
        evaluator.apply(candidate(evaluator, "1.mlp.up_proj"))
        evaluator.restore()
        evaluator.restore()
        qkv = [f"0.self_attn.{x}_proj.weight" for x in "qkv"]
        mlp = ["1.mlp.gate_proj.weight", "1.mlp.up_proj.weight"]
        assert written == [qkv, qkv + mlp, mlp]

    def test_self_check_sees_an_engine_that_ignores_updates(
        self, evaluator: VllmEvaluator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluator.self_check(PROMPTS, [name for name in evaluator.seed_parameters() if ".mlp." in name])
        monkeypatch.setattr(evaluator._ready(), "write", lambda tensors: None)
        with pytest.raises(StageError, match="ignores updates"):
            evaluator.self_check(PROMPTS)

    def test_the_shared_prefix_is_computed_once_per_call(
        self, evaluator: VllmEvaluator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the engine's own count of prompt tokens found in its cache: none of another call or other weights."""
        found: dict[str, int] = {}
        engine = evaluator._ready()._llm.llm_engine
        real = engine.step

        def step() -> Any:
            outputs = real()
            found.update({output.request_id: output.num_cached_tokens for output in outputs})
            return outputs

        monkeypatch.setattr(engine, "step", step)
        for merged in ({}, candidate(evaluator)):
            evaluator.apply(merged)
            for _ in range(2):
                found.clear()
                evaluator.generate(PROMPTS[:3])
                assert found == {"0": 0, "1": 256, "2": 256}

    def test_the_prefix_cache_must_be_empty_after_an_update(
        self, evaluator: VllmEvaluator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = evaluator.generate(PROMPTS)
        monkeypatch.setattr(evaluator._ready()._llm, "reset_prefix_cache", lambda: False)
        with pytest.raises(EngineError, match="prefix cache"):
            evaluator.apply(candidate(evaluator))
        assert evaluator.generate(PROMPTS) == before


class TestFailures:
    def test_an_update_that_fails_half_way_is_never_answered_with(
        self, evaluator: VllmEvaluator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = evaluator.generate(PROMPTS)
        merged = candidate(evaluator)
        real, calls = evaluator._sum, iter(range(1000))

        def failing(name: str, delta: torch.Tensor | None) -> torch.Tensor:
            if next(calls) == len(merged) + 5:  # each sum was looked at once before the first is written
                raise RuntimeError("device\nlost")
            return real(name, delta)

        monkeypatch.setattr(evaluator, "_sum", failing)
        with pytest.raises(EngineError, match=r"weights were changed \(device lost\)"):
            evaluator.apply(merged)
        monkeypatch.undo()
        assert evaluator._engine is None
        assert evaluator.generate(PROMPTS) == before
        evaluator.apply(merged)
        assert evaluator.generate(PROMPTS) != before

    def test_an_answer_that_fails_costs_the_candidate(self, evaluator: VllmEvaluator) -> None:
        before = evaluator.generate(PROMPTS)
        evaluator.apply(candidate(evaluator))
        expected = evaluator.generate(PROMPTS)
        break_after(evaluator, steps=3)
        with pytest.raises(EngineError, match=r"with merged weights \(step 3 failed\)"):
            evaluator.generate(PROMPTS)
        evaluator.restore()
        assert evaluator.generate(PROMPTS) == before
        evaluator.apply(candidate(evaluator))
        assert evaluator.generate(PROMPTS) == expected

    def test_with_the_seed_a_new_engine_answers(
        self, evaluator: VllmEvaluator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = evaluator.generate(PROMPTS)
        break_after(evaluator, steps=2)
        assert evaluator.generate(PROMPTS) == before
        real = evaluator._build

        def broken() -> Any:
            engine = real()
            engine._llm.llm_engine.step = failing_after(0, engine._llm.llm_engine.step)
            return engine

        monkeypatch.setattr(evaluator, "_build", broken)
        break_after(evaluator, steps=0)
        with pytest.raises(StageError, match="failed twice while answering with the seed") as caught:
            evaluator.generate(PROMPTS)
        assert not isinstance(caught.value, EngineError)
        monkeypatch.undo()
        assert evaluator.generate(PROMPTS) == before

    def test_an_interrupt_leaves_no_request_behind(self, evaluator: VllmEvaluator) -> None:
        before = evaluator.generate(PROMPTS)

        def interrupt(done: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluator.generate(PROMPTS, interrupt)
        assert evaluator.generate(PROMPTS) == before

    def test_out_of_memory_is_passed_on(self, evaluator: VllmEvaluator) -> None:
        """The worker turns it into the setting to lower."""
        break_after(evaluator, steps=1, error=torch.OutOfMemoryError("no room"))
        with pytest.raises(torch.OutOfMemoryError):
            evaluator.generate(PROMPTS)
        assert evaluator._engine is None

    def test_a_model_that_the_engine_cannot_run_is_one_line(self, tmp_path: Path) -> None:
        narrow = str(save_tiny(tmp_path))  # heads of 8
        evaluator = VllmEvaluator(narrow, "cpu", 2, 4, (), settings=SETTINGS)
        with pytest.raises(StageError, match="head_dim=8") as caught:
            evaluator.generate(["x"])
        assert "\n" not in str(caught.value)
        evaluator.close()

    def test_a_cache_that_is_too_small_names_the_settings(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"vllm\.max_model_len") as caught:
            VllmEvaluator(save_small(tmp_path), "cpu", 2, 4, (), settings=VllmConfig(kv_cache_bytes=1 << 20))
        assert "\n" not in str(caught.value)

    def test_another_device_than_the_builds_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="the installed vLLM runs on cpu, the device is cuda"):
            VllmEvaluator(save_small(tmp_path), "cuda", 2, 4, (), host_seed=True)


def break_after(evaluator: VllmEvaluator, steps: int, error: Exception | None = None) -> None:
    """Let the engine's next steps succeed this many times and then fail."""
    engine = evaluator._ready()._llm.llm_engine
    engine.step = failing_after(steps, engine.step, error)


def failing_after(steps: int, step: Callable[[], Any], error: Exception | None = None) -> Callable[[], Any]:
    calls = iter(range(steps))

    def failing() -> Any:
        if next(calls, None) is None:
            raise error or RuntimeError(f"step {steps} failed")
        return step()

    return failing


class TestTexts:
    def test_stop_strings_cut_the_text_and_end_the_completion(self, tmp_path: Path) -> None:
        """A model that counts: 'a' after anything, so 'aaa' ends it after three tokens."""
        ref = save_constant(tmp_path, peaked({byte("a"): 0.0}))
        evaluator = VllmEvaluator(ref, "cpu", 2, 8, ("b", "aaa"), settings=SETTINGS)
        stopped = evaluator.generate(["x", "yy", "zzz"])
        evaluator.close()
        assert [(c.text, c.tokens, c.truncated) for c in stopped] == [("", 3, False)] * 3

    def test_a_model_that_only_ends(self, tmp_path: Path) -> None:
        evaluator = VllmEvaluator(save_constant(tmp_path, peaked({END_ID: 0.0})), "cpu", 2, 8, (), settings=SETTINGS)
        completions = evaluator.generate(["x", "yy", "zzz"])
        evaluator.close()
        assert [(c.text, c.tokens, c.truncated) for c in completions] == [("", 1, False)] * 3

    def test_prompts_that_are_empty_or_too_long_are_named(self, evaluator: VllmEvaluator) -> None:
        with pytest.raises(DataError, match="prompt 2 of 2 is empty"):
            evaluator.generate(["x", ""])
        with pytest.raises(DataError, match="prompt 1 has 4090 tokens; with 12 to generate it exceeds"):
            evaluator.generate(["x" * 4090])

    def test_progress_counts_every_prompt_once(self, evaluator: VllmEvaluator) -> None:
        done: list[int] = []
        evaluator.generate(PROMPTS, done.append)
        assert sum(done) == len(PROMPTS)
        assert all(done)

    def test_forecast_counts_tokens(self, evaluator: VllmEvaluator) -> None:
        work = evaluator.forecast(PROMPTS)
        assert work.prompt_tokens == sum(map(len, PROMPTS))  # one token per byte
        assert work.shared_tokens == 256 == 2 * evaluator._ready().block
        assert work.seconds > 0


class TestProcess:
    def test_the_callers_state_is_untouched(self, tmp_path: Path) -> None:
        hook, threads = sys.excepthook, torch.get_num_threads()
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        expected = (random.Random(5).random(), np.random.RandomState(5).rand(), torch.Generator().manual_seed(5))
        evaluator = VllmEvaluator(save_small(tmp_path), "cpu", 2, 4, (), settings=SETTINGS)
        evaluator.generate(PROMPTS)
        evaluator.close()
        assert (random.random(), np.random.rand()) == expected[:2]
        assert torch.equal(torch.rand(3), torch.rand(3, generator=expected[2]))
        assert sys.excepthook is hook
        torch.set_num_threads(threads + 1)
        assert torch.get_num_threads() == threads + 1
        torch.set_num_threads(threads)

    def test_close_gives_the_memory_back(self, tmp_path: Path) -> None:
        evaluator = VllmEvaluator(save_small(tmp_path), "cpu", 2, 4, (), settings=VllmConfig(kv_cache_bytes=400 << 20))
        model = weakref.ref(evaluator._ready()._llm.apply_model(lambda module: module)[0])
        evaluator.generate(PROMPTS)
        before = resident_bytes()
        evaluator.close()
        gc.collect()
        assert model() is None
        assert before - resident_bytes() > 350 << 20
        with pytest.raises(RuntimeError, match="closed"):
            evaluator.generate(PROMPTS)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

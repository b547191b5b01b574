"""Every evaluator must pass these: what the executor relies on, whatever the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from selfdev.config import VllmConfig
from selfdev.evaluators.base import Evaluator
from selfdev.evaluators.scripted import ScriptedEvaluator, ScriptedReply
from selfdev.evaluators.transformers import TransformersEvaluator
from tests.tiny import save_tiny, tiny_llama

PROMPTS = ["one and", "a much longer prompt than the others, to be padded against", "two", "x", "three four five"]


def scripted() -> ScriptedEvaluator:
    generator = torch.Generator().manual_seed(0)
    seed = {name: torch.randn(3, 4, generator=generator) for name in ("a.weight", "b.weight", "c.weight")}
    script = {
        prompt: ScriptedReply(right=f"yes {number}", wrong=f"no {number}", threshold=number / len(PROMPTS) + 0.1)
        for number, prompt in enumerate(PROMPTS)
    }
    return ScriptedEvaluator(seed, script)


KINDS = ["", "-tied", "-bfloat16"]
ENGINES = [
    "scripted",
    *(f"transformers{kind}" for kind in KINDS),
    *(pytest.param(f"vllm{kind}", marks=pytest.mark.vllm) for kind in KINDS),
]


def built(engine: str, directory: Path) -> Evaluator:
    if engine == "scripted":
        return scripted()
    name, _, kind = engine.partition("-")
    # Heads of 32: the smallest that vLLM has on a CPU.
    ref = str(save_tiny(directory, tiny_llama(tied=kind != "", hidden=32 if name == "transformers" else 128)))
    dtype = torch.bfloat16 if kind == "bfloat16" else "auto"
    if name == "transformers":
        return TransformersEvaluator(ref, "cpu", batch_size=2, max_new_tokens=8, stop=["zz"], dtype=dtype)
    from selfdev.evaluators.vllm import VllmEvaluator

    return VllmEvaluator(ref, "cpu", 2, 8, ["zz"], dtype, settings=VllmConfig(kv_cache_bytes=32 << 20))


@pytest.fixture(params=ENGINES, scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluator]:
    evaluator = built(request.param, tmp_path_factory.mktemp("seed"))
    yield evaluator
    evaluator.close()


@pytest.fixture
def evaluator(running: Evaluator) -> Evaluator:
    running.restore()
    return running


def bits(evaluator: Evaluator) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in evaluator.seed_parameters().items()}


def same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def perturbation(evaluator: Evaluator, names: list[str] | None = None) -> dict[str, torch.Tensor]:
    seed = evaluator.seed_parameters()
    return {name: 0.9 * torch.ones_like(seed[name]) for name in (names or list(seed))}


def test_apply_changes_the_answers_and_restore_gives_the_seeds_answers_back(evaluator: Evaluator) -> None:
    before = evaluator.generate(PROMPTS)
    evaluator.apply(perturbation(evaluator))
    changed = evaluator.generate(PROMPTS)
    evaluator.restore()
    assert changed != before
    assert evaluator.generate(PROMPTS) == before


def test_the_seeds_bits_never_change(evaluator: Evaluator) -> None:
    held = dict(evaluator.seed_parameters())
    before = bits(evaluator)
    evaluator.apply(perturbation(evaluator))
    evaluator.generate(PROMPTS)
    assert same_bits(bits(evaluator), before)
    assert same_bits(held, before)
    evaluator.restore()
    evaluator.restore()
    assert same_bits(bits(evaluator), before)


def test_candidates_do_not_add_up(evaluator: Evaluator) -> None:
    merged = perturbation(evaluator)
    evaluator.apply(merged)
    once = evaluator.generate(PROMPTS)
    evaluator.apply({name: 3 * delta for name, delta in merged.items()})
    evaluator.apply(merged)
    assert evaluator.generate(PROMPTS) == once


def test_names_left_out_keep_the_seed_even_after_another_candidate(evaluator: Evaluator) -> None:
    names = list(evaluator.seed_parameters())
    first, others = names[:1], names[1:]
    evaluator.apply(perturbation(evaluator, first))
    alone = evaluator.generate(PROMPTS)
    evaluator.apply(perturbation(evaluator, others))
    evaluator.apply(perturbation(evaluator, first))
    assert evaluator.generate(PROMPTS) == alone


def test_zero_is_the_seed(evaluator: Evaluator) -> None:
    before = evaluator.generate(PROMPTS)
    evaluator.apply({name: torch.zeros_like(seed) for name, seed in evaluator.seed_parameters().items()})
    assert evaluator.generate(PROMPTS) == before


def test_the_callers_tensors_stay_the_callers(evaluator: Evaluator) -> None:
    merged = perturbation(evaluator)
    copies = {name: delta.clone() for name, delta in merged.items()}
    evaluator.apply(merged)
    expected = evaluator.generate(PROMPTS)
    assert same_bits(merged, copies)
    for delta in merged.values():
        delta.zero_()
    assert evaluator.generate(PROMPTS) == expected


def test_completions_come_in_the_order_of_the_prompts(evaluator: Evaluator) -> None:
    evaluator.apply(perturbation(evaluator, list(evaluator.seed_parameters())[:1]))
    forward = evaluator.generate(PROMPTS)
    assert [evaluator.generate([prompt])[0].text for prompt in PROMPTS] == [completion.text for completion in forward]
    assert [c.text for c in evaluator.generate(PROMPTS[::-1])] == [c.text for c in forward[::-1]]


def test_nothing_in_nothing_out(evaluator: Evaluator) -> None:
    assert evaluator.generate([]) == []


@pytest.mark.parametrize("fault", ["name", "shape", "transposed", "nan", "infinity", "integers", "overflow"])
def test_a_bad_merge_is_refused_and_the_seed_is_in_place(evaluator: Evaluator, fault: str) -> None:
    before = evaluator.generate(PROMPTS)
    merged = perturbation(evaluator)
    last = list(merged)[-1]
    if fault == "name":
        merged["no.such.weight"] = torch.ones(2)
    elif fault == "shape":
        merged[last] = torch.ones(*merged[last].shape, 1)
    elif fault == "transposed":
        wide = next(name for name in reversed(merged) if merged[name].ndim == 2 and len(set(merged[name].shape)) == 2)
        merged[wide] = merged[wide].T
    elif fault == "nan":
        merged[last].view(-1)[-1] = float("nan")
    elif fault == "infinity":
        merged[last].view(-1)[0] = -float("inf")
    elif fault == "integers":
        merged[last] = torch.ones_like(merged[last], dtype=torch.int64)
    else:  # finite in float32, not in the sum
        big = evaluator.seed_parameters()[last].abs() + torch.finfo(torch.float64).max / 1e200
        merged[last] = big.double()
    with pytest.raises(ValueError, match=r"merged"):
        evaluator.apply(merged)
    assert evaluator.generate(PROMPTS) == before


def test_a_failure_half_way_leaves_the_seed(evaluator: Evaluator) -> None:
    class Treacherous(dict[str, torch.Tensor]):
        """Good at the first look, raises at the second, in the middle of the names."""

        def items(self):  # type: ignore[no-untyped-def]
            self.looks = getattr(self, "looks", 0) + 1
            for number, pair in enumerate(super().items()):
                if self.looks > 1 and number == 2:
                    raise RuntimeError("device lost")
                yield pair

    before = evaluator.generate(PROMPTS)
    with pytest.raises(RuntimeError, match="device lost"):
        evaluator.apply(Treacherous(perturbation(evaluator)))
    assert evaluator.generate(PROMPTS) == before

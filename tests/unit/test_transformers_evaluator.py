"""What is special to the transformers evaluator; what all evaluators share is in tests/conformance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from selfdev.errors import DataError, StageError
from selfdev.evaluators import greedy
from selfdev.evaluators.greedy import GreedyDecoder
from selfdev.evaluators.transformers import TransformersEvaluator
from tests.tiny import save_tiny, tiny_llama, tiny_tokenizer

SHARED = "Question: what is one and one?\nAnswer: two\n\n"
PROMPTS = [SHARED + tail for tail in ("a", "what about this one, then?", "bb", "", "seven and more", "nine")]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama(seed=3)


def decoder(
    model: LlamaForCausalLM,
    *,
    batch_size: int = 3,
    max_new_tokens: int = 16,
    stop: tuple[str, ...] = (),
    share_prefix: bool = True,
) -> GreedyDecoder:
    return GreedyDecoder(
        model,
        tiny_tokenizer(),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        stop=stop,
        share_prefix=share_prefix,
    )


def hugging_face_tokens(model: LlamaForCausalLM, prompt: str, count: int) -> list[int]:
    """What `model.generate` writes after one prompt alone."""
    ids = torch.tensor([tiny_tokenizer()(prompt)["input_ids"]])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return output[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("share_prefix", [True, False])
def test_tokens_are_those_of_generate(model: LlamaForCausalLM, share_prefix: bool) -> None:
    tokens = decoder(model, share_prefix=share_prefix).generate(PROMPTS)[1]
    assert tokens == [hugging_face_tokens(model, prompt, 16) for prompt in PROMPTS]
    assert len({tuple(row) for row in tokens}) == len(PROMPTS)  # the prompts do tell the rows apart


def test_the_shared_prefix_is_computed_once(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    forward = model.forward

    def recording(input_ids: torch.Tensor, **rest: object) -> object:
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model, "forward", recording)
    decoder(model, max_new_tokens=1, batch_size=3).generate(PROMPTS)
    # One prompt ends with the prefix, so the prefix gives its last token to every prompt.
    longest = len("what about this one, then?") + 1
    assert shapes == [(1, len(SHARED) - 1), (3, longest), (3, 3)]


def test_a_short_prefix_is_not_worth_a_pass(model: LlamaForCausalLM) -> None:
    assert decoder(model)._shared_tokens([[1, 2, 3], [1, 2, 4], [1, 2, 5], [1, 2, 6]]) == 0
    long = list(range(greedy._MIN_PREFIX_TOKENS))
    assert decoder(model)._shared_tokens([[*long, 1], [*long, 2], [*long, 3], [*long, 4]]) == len(long)
    assert decoder(model)._shared_tokens([[*long, 1], [*long, 2]]) == 0


def test_rows_that_end_leave_the_batch_and_the_others_go_on(model: LlamaForCausalLM) -> None:
    free = decoder(model, batch_size=6).generate(PROMPTS)[1]
    end = free[0][4]
    model.generation_config.eos_token_id = [256, end]
    try:
        bounded = decoder(model, batch_size=6)
    finally:
        model.generation_config.eos_token_id = 256
    completions, tokens = bounded.generate(PROMPTS)
    for before, row, completion in zip(free, tokens, completions, strict=True):
        stop = before.index(end) + 1 if end in before else len(before)
        assert row == before[:stop]
        assert completion.tokens == stop
        assert completion.truncated == (end not in before)


def test_a_stop_string_ends_and_cuts(model: LlamaForCausalLM) -> None:
    free = decoder(model, max_new_tokens=16).generate(PROMPTS)[0]
    stop = next(char for completion in free for char in completion.text[4:] if char.isascii() and char.isprintable())
    stopped = decoder(model, stop=("never there", stop)).generate(PROMPTS)[0]
    for before, after in zip(free, stopped, strict=True):
        found = before.text.find(stop)
        assert after.text == (before.text if found < 0 else before.text[:found])
        assert after.truncated == (found < 0)
        assert after.tokens <= before.tokens
    assert any(after.tokens < before.tokens for before, after in zip(free, stopped, strict=True))


class Parrot(torch.nn.Module):
    """A model that says a fixed sequence of tokens whatever it is asked."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__()
        base = tiny_llama()
        self.config, self.generation_config, self.device = base.config, base.generation_config, torch.device("cpu")
        self.tokens, self.position = tokens, 0

    def forward(self, input_ids: torch.Tensor, **_: object) -> object:
        from types import SimpleNamespace

        logits = torch.zeros(len(input_ids), 1, 258)
        logits[:, :, self.tokens[self.position]] = 1
        self.position += 1
        return SimpleNamespace(logits=logits)


def say(text: str, *, limit: int, stop: tuple[str, ...], end: bool = False) -> tuple[str, int, bool]:
    parrot = Parrot(tiny_tokenizer()(text)["input_ids"] + [256] * end)
    completion = decoder(parrot, max_new_tokens=limit, stop=stop).generate(["?"])[0][0]  # type: ignore[arg-type]
    return completion.text, completion.tokens, completion.truncated


def test_how_a_completion_ends() -> None:
    assert say("#### 42", limit=20, stop=(), end=True) == ("#### 42", 8, False)
    assert say("#### 42", limit=7, stop=()) == ("#### 42", 7, True)
    assert say("#### 42\nQuestion: x", limit=40, stop=("Question:",)) == ("#### 42\n", 17, False)
    assert say("#### 42\nQuestion:", limit=17, stop=("Question:",)) == ("#### 42\n", 17, False)  # on the last token
    assert say("a b c", limit=9, stop=("b ",)) == ("a ", 4, False)  # ends in a blank
    assert say("3 €. 4", limit=20, stop=("€",)) == ("3 ", 5, False)  # three bytes, three tokens
    assert say("x==y=", limit=20, stop=("=y", "==")) == ("x", 3, False)  # the earliest counts


def test_a_stop_that_is_a_special_token_ends_too() -> None:
    parrot = Parrot([*tiny_tokenizer()("ab")["input_ids"], 257, 65])
    completion = decoder(parrot, max_new_tokens=4, stop=("<|pad|>",)).generate(["?"])[0][0]  # type: ignore[arg-type]
    assert (completion.text, completion.tokens, completion.truncated) == ("ab", 3, False)


def test_prompts_that_cannot_be_answered(model: LlamaForCausalLM) -> None:
    with pytest.raises(DataError, match="prompt 2 of 2 is empty"):
        decoder(model).generate(["a", ""])
    with pytest.raises(DataError, match=r"prompt 1 has 5000 tokens.*context of 4096"):
        decoder(model).generate(["a" * 5000])


def test_progress_counts_every_prompt(model: LlamaForCausalLM) -> None:
    seen: list[int] = []
    decoder(model, batch_size=4).generate(PROMPTS, seen.append)
    assert seen == [4, 2]


def test_the_forecast_counts_tokens_exactly(model: LlamaForCausalLM) -> None:
    work = decoder(model).forecast(PROMPTS)
    assert work.prompt_tokens == sum(len(prompt) for prompt in PROMPTS)
    assert work.shared_tokens == len(SHARED) - 1
    assert work.seconds > 0


@pytest.fixture
def evaluator(tmp_path: Path) -> TransformersEvaluator:
    return TransformersEvaluator(str(save_tiny(tmp_path / "seed")), "cpu", batch_size=4, max_new_tokens=6, stop=[])


def test_the_sum_is_taken_in_float32_and_cast_once(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "seed", tiny_llama().to(torch.bfloat16))
    evaluator = TransformersEvaluator(str(directory), "cpu", batch_size=4, max_new_tokens=6, stop=[])
    name = "model.layers.0.mlp.up_proj.weight"
    seed = evaluator.seed_parameters()[name]
    delta = torch.full(seed.shape, 1.001, dtype=torch.float32)  # no bfloat16 number
    evaluator.apply({name: delta})
    applied = evaluator._parameters[name].data
    assert torch.equal(applied, (seed.float() + delta).to(torch.bfloat16))
    assert not torch.equal(applied, seed + delta.to(torch.bfloat16))


def test_a_tied_head_moves_with_its_embedding(evaluator: TransformersEvaluator) -> None:
    name = "model.embed_tokens.weight"
    assert "lm_head.weight" not in evaluator.seed_parameters()
    with pytest.raises(ValueError, match="no parameter of the seed"):
        evaluator.apply({"lm_head.weight": torch.zeros(258, 32)})
    evaluator.apply({name: torch.ones(258, 32)})
    model = evaluator._running()._model
    assert torch.equal(model.lm_head.weight, evaluator.seed_parameters()[name] + 1)
    assert torch.equal(model.model.embed_tokens.weight, model.lm_head.weight)


def test_only_touched_parameters_cost_memory(evaluator: TransformersEvaluator) -> None:
    evaluator.apply({"model.norm.weight": torch.ones(32)})
    evaluator.restore()
    assert list(evaluator._merged) == ["model.norm.weight"]


def test_a_seed_that_was_written_to_is_noticed(evaluator: TransformersEvaluator) -> None:
    evaluator.restore()
    evaluator.seed_parameters()["model.norm.weight"][3] += 1e-7  # one bit
    with pytest.raises(StageError, match="seed's weights have changed"):
        evaluator.restore()


def test_self_check_passes_on_a_sound_engine(evaluator: TransformersEvaluator) -> None:
    before = evaluator.generate(PROMPTS)
    evaluator.self_check(PROMPTS[:2])
    evaluator.self_check(PROMPTS[:2], names=["model.norm.weight"])
    assert evaluator.generate(PROMPTS) == before


def test_self_check_finds_an_engine_that_ignores_updates(
    evaluator: TransformersEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "apply", lambda merged: None)
    with pytest.raises(StageError, match="ignores updates"):
        evaluator.self_check(PROMPTS[:2])


def test_self_check_finds_an_engine_that_does_not_restore(
    evaluator: TransformersEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "restore", lambda: None)
    with pytest.raises(StageError, match="after restoring"):
        evaluator.self_check(PROMPTS[:2])


def test_a_closed_evaluator_answers_nothing(evaluator: TransformersEvaluator) -> None:
    evaluator.close()
    evaluator.close()
    with pytest.raises(RuntimeError, match="closed"):
        evaluator.generate(["a"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_seed_in_main_memory_answers_the_same(tmp_path: Path, dtype: str) -> None:
    """`host_seed` moves bits about; neither sums nor answers may differ from the other way."""
    directory = str(save_tiny(tmp_path / "seed", tiny_llama().to(getattr(torch, dtype))))
    here, host = (
        TransformersEvaluator(directory, "cpu", batch_size=4, max_new_tokens=6, stop=[], host_seed=host_seed)
        for host_seed in (False, True)
    )
    names = ["model.norm.weight", "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"]
    seed_answers = here.generate(PROMPTS)
    for chosen in (names, names[:1], names[1:]):
        merged = {name: torch.full_like(here.seed_parameters()[name], 0.3) for name in chosen}
        for evaluator in (here, host):
            evaluator.apply(merged)
        assert all(torch.equal(here._parameters[n].data, host._parameters[n].data) for n in here.seed_parameters())
        assert host.generate(PROMPTS) == here.generate(PROMPTS)
        assert set(host._merged) == set(names[: len(host._merged)])
    for evaluator in (here, host):
        evaluator.restore()
    assert all(torch.equal(host._parameters[name].data, seed) for name, seed in here.seed_parameters().items())
    assert host.generate(PROMPTS) == seed_answers


def test_a_seed_in_main_memory_is_not_what_the_model_computes_with(tmp_path: Path) -> None:
    evaluator = TransformersEvaluator(
        str(save_tiny(tmp_path / "seed")), "cpu", batch_size=4, max_new_tokens=6, stop=[], host_seed=True
    )
    evaluator.self_check(PROMPTS[:2])
    name = "model.norm.weight"
    assert evaluator._parameters[name].data.data_ptr() != evaluator.seed_parameters()[name].data_ptr()
    evaluator._parameters[name].data[0] += 1  # written behind the evaluator's back, on the device
    with pytest.raises(StageError, match="seed's weights have changed"):
        evaluator.restore()


def test_half_precision_and_float32_share_a_prefix_in_their_own_ways(model: LlamaForCausalLM) -> None:
    assert decoder(model)._one_copy
    assert not decoder(tiny_llama(seed=3).to(torch.bfloat16))._one_copy
    assert not decoder(model, share_prefix=False)._one_copy

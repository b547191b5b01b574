"""Many prompts, many samples: what is drawn is a function of model, prompt and stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from selfdev.errors import DataError, StageError
from selfdev.evaluators.greedy import GreedyDecoder
from selfdev.selfimprove.sampler import Drawn, PromptSampler
from tests.tiny import tiny_llama, tiny_tokenizer

PROMPTS = ["a", "what about this one, then?", "bb", "seven and more"]
SEEDS = [[100 * p + n for n in range(3)] for p in range(len(PROMPTS))]
LIMIT = 6


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama(seed=3)


def sampler(
    model: LlamaForCausalLM, batch_size: int = 100, temperature: float = 1.0, stop: tuple[str, ...] = ()
) -> PromptSampler:
    return PromptSampler(
        model, tiny_tokenizer(), batch_size=batch_size, max_new_tokens=LIMIT, stop=stop, temperature=temperature
    )


def drawn(found: PromptSampler, prompts: list[str] = PROMPTS, seeds: list[list[int]] = SEEDS) -> list[Drawn]:
    rows = [row for batch in found.draw(prompts, seeds) for row in batch]
    return sorted(rows, key=lambda row: (row.prompt, row.number))


def key(row: Drawn) -> tuple[object, ...]:
    return row.prompt, row.number, row.text, row.tokens, row.truncated


def test_a_sample_depends_on_nothing_beside_it(model: LlamaForCausalLM) -> None:
    together = drawn(sampler(model))
    assert [(row.prompt, row.number) for row in together] == [(p, n) for p in range(4) for n in range(3)]
    assert len({row.text for row in together}) > 8  # streams and prompts do tell samples apart
    for batch_size in (1, 2, 4, 7):
        apart = drawn(sampler(model, batch_size))
        assert list(map(key, apart)) == list(map(key, together))
        assert [row.nll for row in apart] == pytest.approx([row.nll for row in together], rel=1e-4)
    alone = drawn(sampler(model), PROMPTS[3:], SEEDS[3:])
    assert [row.text for row in alone] == [row.text for row in together[9:]]


def test_a_shared_prefix_changes_nothing(model: LlamaForCausalLM) -> None:
    prefix = "Question: what is one and one?\nAnswer: two\n\n"
    shared = sampler(model)
    apart = sampler(model)
    apart._share_prefix = False
    prompts = [prefix + prompt for prompt in PROMPTS]
    assert list(map(key, drawn(shared, prompts))) == list(map(key, drawn(apart, prompts)))


def test_tokens_and_nll_are_those_of_plain_forward_passes(model: LlamaForCausalLM) -> None:
    """By hand: inverse CDF at the temperature, NLL at temperature 1."""
    import numpy as np

    tokenizer = tiny_tokenizer()
    row = drawn(sampler(model, temperature=0.7))[4]  # prompt 1, sample 1
    uniforms = np.random.Generator(np.random.Philox(key=SEEDS[1][1])).random(LIMIT)
    ids, nll, written = list(tokenizer(PROMPTS[1])["input_ids"]), 0.0, []
    for uniform in uniforms:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        cdf = torch.softmax(logits / 0.7, -1).cumsum(-1)
        token = int((cdf <= uniform).sum())
        nll -= float(torch.log_softmax(logits, -1)[token])
        written.append(token)
        ids.append(token)
        if token == tokenizer.eos_token_id:
            break
    assert row.tokens == len(written)
    assert row.text == tokenizer.decode(written, skip_special_tokens=True)
    assert row.nll == pytest.approx(nll, rel=1e-4)
    assert row.truncated == (written[-1] != tokenizer.eos_token_id)


def test_a_stop_string_ends_a_sample_and_is_cut_off(model: LlamaForCausalLM) -> None:
    free = drawn(sampler(model))[0]
    stop = free.text[2]
    ended = drawn(sampler(model, stop=(stop,)))[0]
    assert ended.text == free.text[: free.text.index(stop)]
    assert ended.tokens == free.text.index(stop) + 1
    assert not ended.truncated
    assert ended.nll < free.nll


def test_whole_batches_can_be_skipped(model: LlamaForCausalLM) -> None:
    found = sampler(model, batch_size=4)
    plan = found.plan(PROMPTS, 3)
    assert [[prompt for prompt, _ in batch] for batch in plan] == [[1], [3], [2], [0]]  # the longest first
    assert sampler(model, batch_size=2).plan(PROMPTS[:1], 3) == [[(0, range(2))], [(0, range(2, 3))]]
    batches = list(found.draw(PROMPTS, SEEDS))
    assert list(found.draw(PROMPTS, SEEDS, skip=2)) == batches[2:]
    assert list(found.draw(PROMPTS, SEEDS, skip=4)) == []


def test_cost_is_measured_without_drawing_everything(model: LlamaForCausalLM) -> None:
    cost = sampler(model, batch_size=6).cost(PROMPTS, 3)
    assert cost.seconds > 0
    assert cost.tokens_per_second > 0
    assert cost.prompt_tokens == sum(map(len, PROMPTS)) / 4  # one token per byte


def test_cost_is_measured_in_a_cache_of_full_size(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms, plain = [], GreedyDecoder._row_cache

    def noting(self: GreedyDecoder, prefix: DynamicCache | None, rows: int, width: int) -> tuple[Any, dict[str, Any]]:
        cache, extra = plain(self, prefix, rows, width)
        rooms.append(cache.layers[0]._tokens - width)
        return cache, extra

    monkeypatch.setattr(GreedyDecoder, "_row_cache", noting)
    sampler(model).cost(PROMPTS, 2)
    assert rooms == [LIMIT - 1]  # five tokens are drawn, so four would do

    def full(*_: object) -> object:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(GreedyDecoder, "_row_cache", full)
    with pytest.raises(StageError, match=r"no room to draw 8 samples .* lower --sample-batch"):
        sampler(model).cost(PROMPTS, 2)


def test_prompts_without_tokens_are_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(DataError, match="prompt 2 of 2 is empty"):
        drawn(sampler(model), ["a", ""], SEEDS[:2])

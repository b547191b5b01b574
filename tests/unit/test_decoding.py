from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM
from transformers.cache_utils import DynamicSlidingWindowLayer

from selfdev.decoding import can_share_prefix, past_cache, prefix_cache, roomy_cache
from tests.tiny import tiny_llama

PREFIX, OWN, ROWS = 11, 5, 3


@pytest.fixture
def model() -> LlamaForCausalLM:
    return tiny_llama(seed=2)


def ids(rows: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def prefix_of(model: LlamaForCausalLM, tokens: torch.Tensor) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    model(input_ids=tokens, past_key_values=cache, use_cache=True)
    return cache


@torch.inference_mode()
def test_a_prompt_is_copied_to_rows_that_then_go_their_own_ways(model: LlamaForCausalLM) -> None:
    prompt, own = ids(1, PREFIX, 0), ids(ROWS, OWN, 1)
    cache = roomy_cache(prefix_of(model, prompt), ROWS, PREFIX + OWN)
    logits = [model(input_ids=own[:, i : i + 1], past_key_values=cache).logits[:, -1] for i in range(OWN)]
    whole = model(input_ids=torch.cat([prompt.expand(ROWS, -1), own], dim=1)).logits[:, PREFIX:]
    torch.testing.assert_close(torch.stack(logits, dim=1), whole)


@torch.inference_mode()
def test_growing_does_not_move_the_memory(model: LlamaForCausalLM) -> None:
    cache = roomy_cache(prefix_of(model, ids(1, PREFIX, 0)), ROWS, PREFIX + OWN)
    places = [layer.keys.data_ptr() for layer in cache.layers]
    for _ in range(OWN):
        model(input_ids=ids(ROWS, 1, 3), past_key_values=cache)
    assert [layer.keys.data_ptr() for layer in cache.layers] == places
    assert cache.get_seq_length() == PREFIX + OWN
    with pytest.raises(RuntimeError, match="room for 16 tokens was given 17"):
        model(input_ids=ids(ROWS, 1, 3), past_key_values=cache)


@torch.inference_mode()
def test_rows_on_one_prefix_compute_what_each_would_alone(model: LlamaForCausalLM) -> None:
    """Left-padded rows, first several tokens at once, then one by one, then without the middle row."""
    prompt, own = ids(1, PREFIX, 0), ids(ROWS, OWN, 1)
    pads = [2, 0, 1]
    first = torch.stack([torch.cat([own.new_zeros(pad), own[i, : 3 - pad]]) for i, pad in enumerate(pads)])
    mask = torch.stack([torch.tensor([0] * pad + [1] * (3 - pad)) for pad in pads])
    mask = torch.cat([mask.new_ones(ROWS, PREFIX), mask], dim=1)
    positions = (mask.cumsum(1) - 1)[:, PREFIX:].clamp(min=0)
    assert can_share_prefix(model)
    cache = prefix_cache(prefix_of(model, prompt), OWN)
    assert cache is not None

    def step(tokens: torch.Tensor) -> torch.Tensor:
        output = model(input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache,
                       shared_prefix=cache)  # fmt: skip
        return output.logits[:, -1]

    def alone(row: int, length: int) -> torch.Tensor:
        return tiny_llama(seed=2)(input_ids=torch.cat([prompt, own[row : row + 1, :length]], dim=1)).logits[0, -1]

    logits = step(first)
    for row, pad in enumerate(pads):
        torch.testing.assert_close(logits[row], alone(row, 3 - pad))
    kept = list(range(ROWS))
    for turn in range(2):
        tokens = torch.stack([own[row, 3 - pads[row] + turn] for row in kept])[:, None]
        mask = torch.cat([mask, mask.new_ones(len(kept), 1)], dim=1)
        positions = positions[:, -1:] + 1
        logits = step(tokens)
        for slot, row in enumerate(kept):
            torch.testing.assert_close(logits[slot], alone(row, 4 - pads[row] + turn))
        if turn == 0:
            kept = [0, 2]
            cache.batch_select_indices(torch.tensor(kept))
            mask, positions = mask[kept], positions[kept]


@torch.inference_mode()
def test_the_prefix_is_held_once(model: LlamaForCausalLM) -> None:
    prefix = prefix_of(model, ids(1, PREFIX, 0))
    cache = prefix_cache(prefix, OWN)
    assert cache is not None
    assert [layer.prefix[0].data_ptr() for layer in cache.layers] == [layer.keys.data_ptr() for layer in prefix.layers]
    can_share_prefix(model)
    model(input_ids=ids(ROWS, 2, 1), past_key_values=cache, shared_prefix=cache)
    # 3 rows, 2 key heads, 2 tokens written of room for 5, width 8
    assert all(layer.keys.shape == (3, 2, 2, 8) for layer in cache.layers)
    assert all(layer.keys.untyped_storage().nbytes() == 3 * 2 * 5 * 8 * 4 for layer in cache.layers)
    assert cache.get_seq_length() == PREFIX + 2
    assert prefix.get_seq_length() == PREFIX


def test_a_past_is_seen_by_all_rows_copied_to_none_and_stays(model: LlamaForCausalLM) -> None:
    first, rows = ids(1, 5, 1), ids(3, 4, 2)
    cache = prefix_of(model, first)
    past = past_cache(cache, 3, 9)
    for layer, other in zip(past.layers, cache.layers, strict=True):
        assert layer.keys.shape[0] == 3
        assert layer.keys.data_ptr() == other.keys.data_ptr()
    with torch.inference_mode():
        together = model(input_ids=rows, past_key_values=past, use_cache=True).logits
        alone = model(input_ids=torch.cat([first.expand(3, -1), rows], dim=1)).logits[:, 5:]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert past.get_seq_length() == cache.get_seq_length() == 5


def test_which_models_can_share() -> None:
    assert not can_share_prefix(tiny_llama().to(torch.bfloat16))
    assert not can_share_prefix(GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=2)))
    eager = tiny_llama()
    eager.set_attn_implementation("eager")
    assert not can_share_prefix(eager)
    assert not can_share_prefix(SimpleNamespace(dtype=torch.float32))


@torch.inference_mode()
def test_being_prepared_changes_nothing_by_itself(model: LlamaForCausalLM) -> None:
    before = model(input_ids=ids(2, 7, 0)).logits
    assert can_share_prefix(model)
    assert can_share_prefix(model)
    assert torch.equal(model(input_ids=ids(2, 7, 0)).logits, before)


def test_a_window_that_would_fill_is_left_to_transformers() -> None:
    cache = DynamicCache()
    cache.layers = [DynamicSlidingWindowLayer(sliding_window=16)]
    cache.layers[0].update(torch.zeros(1, 2, 10, 8), torch.zeros(1, 2, 10, 8))
    assert prefix_cache(cache, 5) is not None
    assert prefix_cache(cache, 6) is None
    assert type(roomy_cache(cache, 2, 16).layers[0]) is DynamicSlidingWindowLayer
    assert roomy_cache(cache, 2, 16).layers[0].keys.shape == (2, 2, 10, 8)

"""The zoo's generator: its tokenizer's borders, its training arithmetic, its build, and the shipped model."""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from selfdev.errors import UsageError
from selfdev.generate import extract_program
from selfdev.prompting import render_prompt, text_hash
from selfdev.zoo import generator as build
from selfdev.zoo.generator_card import model_card
from selfdev.zoo.generator_measure import SHAPES, Verdict, fingerprint, sample_texts, summarise, task_vectors
from selfdev.zoo.generator_tokenizer import EOS, FENCE_OPEN, completion, train_tokenizer
from selfdev.zoo.generator_training import Recipe, batches, completion_loss, new_model, orthogonalise, rate, train
from selfdev.zoo.grammar import write_program

SHIPPED = Path(build.__file__).parent / "models" / "generator"
PROMPT = render_prompt(build.PROMPT)
TINY = Recipe(steps=2, batch=2, hidden=16, intermediate=16, layers=1, heads=2, tokenizer_programs=20)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return _shipped_tokenizer()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Tokenizer


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(text=st.text(max_size=60) | st.text(alphabet=" \n`.python()[]x", max_size=12))
def test_any_completion_leaves_the_prompts_tokens_as_they_are(text: str) -> None:
    tokens = _shipped_tokenizer()
    prompt = tokens(PROMPT)["input_ids"]
    whole = tokens(PROMPT + text)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert tokens.decode(whole) == PROMPT + text


@cache
def _shipped_tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(SHIPPED)


def test_tokenizer_adds_nothing_and_names_its_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("")["input_ids"] == []
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert tokenizer(PROMPT)["input_ids"][-1] == tokenizer.convert_tokens_to_ids(FENCE_OPEN)
    assert tokenizer("x = 1\n```" + EOS)["input_ids"][-1] == tokenizer.eos_token_id


def test_programs_are_short_in_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    lengths = sorted(len(tokenizer(completion(write_program(random.Random(i))))["input_ids"]) for i in range(200))
    assert 80 <= lengths[100] <= 135
    assert lengths[-1] <= 270
    assert len(tokenizer(PROMPT)["input_ids"]) <= 170


@pytest.mark.slow
def test_retraining_the_tokenizer_gives_the_shipped_one(tokenizer: PreTrainedTokenizerFast) -> None:
    recipe = Recipe()
    again = train_tokenizer(PROMPT, recipe.seed, recipe.tokenizer_programs)
    assert again.get_vocab() == tokenizer.get_vocab()


# Training


def test_the_shared_prompt_gives_the_loss_of_whole_sequences() -> None:
    tokens = train_tokenizer(PROMPT, 0, 20)
    small = new_model(TINY, tokens)
    rows = next(batches(TINY, tokens))
    prompt = torch.tensor(tokens(PROMPT)["input_ids"])
    loss, count = completion_loss(small, prompt, rows, tokens.pad_token_id)
    whole = torch.cat([prompt.expand(len(rows), -1), rows], dim=1)
    labels = whole.clone()
    labels[:, : len(prompt)] = -100
    labels[whole == tokens.pad_token_id] = -100
    assert count == int((rows != tokens.pad_token_id).sum())
    assert loss.item() == pytest.approx(small(input_ids=whole, labels=labels).loss.item(), abs=1e-5)


def test_the_prompt_gets_gradients_through_the_completions() -> None:
    tokens = train_tokenizer(PROMPT, 0, 20)
    small = new_model(TINY, tokens)
    embedded = small.model.embed_tokens.weight
    prompt = torch.tensor(tokens("Write " + FENCE_OPEN)["input_ids"])
    loss, _ = completion_loss(small, prompt, torch.tensor([[prompt[-1].item()]]), tokens.pad_token_id)
    loss.backward()
    assert embedded.grad is not None
    assert float(embedded.grad[prompt[0]].abs().sum()) > 0


def test_batches_are_whole_programs_padded_right_and_repeatable() -> None:
    tokens = train_tokenizer(PROMPT, 0, 20)
    first = next(batches(TINY, tokens))
    assert torch.equal(first, next(batches(TINY, tokens)))
    assert not torch.equal(first, next(batches(replace(TINY, seed=1), tokens)))
    for row in first.tolist():
        text = [token for token in row if token != tokens.pad_token_id]
        assert row[: len(text)] == text
        assert text[-1] == tokens.eos_token_id
        ast.parse(tokens.decode(text[:-1]).removesuffix("```"))


def test_newton_schulz_brings_singular_values_near_one() -> None:
    for shape in ((12, 20), (20, 12)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3


def test_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=100, warmup=10, decay_share=0.5)
    assert [rate(recipe, step) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert [rate(recipe, step) for step in (75, 99)] == pytest.approx([0.5, 0.02])


def test_training_lowers_the_loss_and_repeats_bit_for_bit() -> None:
    tokens = train_tokenizer(PROMPT, 0, 20)
    recipe = replace(TINY, steps=12, warmup=2)
    losses: list[float] = []
    one, last = train(recipe, PROMPT, tokens, lambda now, _: losses.append(now.loss), every=4)
    two, _ = train(recipe, PROMPT, tokens)
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.15
    assert (last.step, last.loss) == (12, losses[-1])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# Measuring and building


def test_summary_by_hand() -> None:
    program = "def merge_models(task_vectors):\n    return {}\n"
    texts = [(program + "```", False), (program, True), ("no code here", False), (program, False)]

    def run(programs: Sequence[str]) -> list[Verdict]:
        assert list(programs) == [program] * 3
        return [Verdict("ok", None, "a"), Verdict("exception", "NameError: name 'x'"), Verdict("ok", None, "a")]

    summary = summarise(texts, run)
    assert (summary["samples"], summary["valid"], summary["valid_share"]) == (4, 2, 0.5)
    assert summary["distinct_of_valid"] == 0.5
    assert summary["truncated"] == 1
    assert summary["statuses"] == {"ok": 2, "exception": 1, "no_code": 1}
    assert summary["error_kinds"] == {"ok": 2, "NameError": 1, "no_code": 1}
    assert summary["valid_interval_95"] == [0.15, 0.85]  # Wilson, 2 of 4


def test_fingerprints_ignore_rounding_and_see_changes() -> None:
    merged = task_vectors(1)[0]
    noisy = {name: tensor * (1 + 1e-8) for name, tensor in merged.items()}
    other = {name: tensor * (1.01 if name == "model.norm.weight" else 1.0) for name, tensor in merged.items()}
    assert list(merged) == list(SHAPES)
    assert fingerprint(noisy) == fingerprint(merged)
    assert fingerprint(other) != fingerprint(merged)


@pytest.mark.slow
def test_build_replaces_a_directory_by_a_complete_one(tmp_path: Path) -> None:
    out = tmp_path / "generator"
    out.mkdir()
    (out / "stale").write_text("old")
    lines: list[str] = []
    figures = build.build_generator(out, 0, 1, 1, lines.append, lambda programs: [Verdict("syntax")] * len(programs))
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in SHIPPED.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"generator", "generator-figures.json"}
    assert json.loads((tmp_path / "generator-figures.json").read_text()) == json.loads(json.dumps(figures))
    assert figures["recipe"]["steps"] == 1
    assert len(lines) == 1
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == 1024


def test_build_refuses_no_steps_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="steps 0"):
        build.build_generator(tmp_path / "generator", steps=0)
    assert list(tmp_path.iterdir()) == []


# The shipped model


def test_shipped_model_is_plain_and_small(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert model.config.model_type == "llama"
    assert AutoModelForCausalLM.from_pretrained(SHIPPED).dtype == torch.bfloat16  # half the file
    assert model.config.tie_word_embeddings
    assert len(tokenizer) == model.config.vocab_size
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert 3_500_000 < sum(weight.numel() for weight in model.parameters()) < 4_500_000
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 9_000_000
    assert "auto_map" not in json.loads((SHIPPED / "config.json").read_text())


def test_shipped_figures_belong_to_the_default_recipe_the_prompt_and_the_card() -> None:
    figures = json.loads(SHIPPED.with_name("generator-figures.json").read_text())
    assert figures["recipe"] == asdict(Recipe())
    assert figures["prompt_sha256"] == text_hash(PROMPT)
    assert (SHIPPED / "README.md").read_text() == model_card(figures)


def test_shipped_model_predicts_fresh_programs(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = next(batches(Recipe(batch=8), tokenizer, "held-out"))
    prompt = torch.tensor(tokenizer(PROMPT)["input_ids"])
    with torch.no_grad():
        loss, _ = completion_loss(model, prompt, rows, tokenizer.pad_token_id)
    assert loss.item() < 0.35  # nats per token; the grammar's entropy is about 0.22


def test_shipped_model_writes_programs_that_compile(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = list(sample_texts(model, tokenizer, PROMPT, 16, 1.0, seed=1))
    programs = [extract_program(text) for text, _ in texts]
    assert sum(program is not None and _parses(program) for program in programs) >= 8
    assert len(set(programs)) >= 12
    assert sum(truncated for _, truncated in texts) <= 4


def _parses(program: str) -> bool:
    try:
        ast.parse(program)
    except (SyntaxError, ValueError):
        return False
    return True

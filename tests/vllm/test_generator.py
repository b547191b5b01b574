"""What is special to the vLLM generator; what all generators share is in tests/conformance. `make test-vllm`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM

from selfdev.errors import ModelError, StageError, UsageError
from selfdev.generate import sample_requests
from selfdev.generators.vllm import VllmGenerator
from selfdev.types import Sample
from tests.tiny import tiny_tokenizer
from tests.vllm.models import END_ID, SETTINGS, byte, peaked, save_constant, save_small

pytestmark = pytest.mark.vllm

PROMPT = "Write a merge function:\n"  # 24 tokens
LIMIT = 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_small(tmp_path_factory.mktemp("base"), std=0.025)


@pytest.fixture(scope="module")
def adapter(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with random, visible weights."""
    out = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))
    model.save_pretrained(out, save_embedding_layers=False)
    return out


def made(ref: str, **changes: object) -> VllmGenerator:
    options: dict[str, object] = {"device": "cpu", "batch_size": 4, "max_new_tokens": LIMIT, "stop": ()}
    return VllmGenerator(ref, settings=SETTINGS, **(options | changes))  # type: ignore[arg-type]


def draw(generator: VllmGenerator, count: int, temperature: float = 1.0) -> list[Sample]:
    batches = generator.sample(PROMPT, sample_requests(0, 1, range(count)), temperature)
    return [sample for batch in batches for sample in batch]


@pytest.fixture
def always(tmp_path: Path) -> Iterator[list[VllmGenerator]]:
    """Closes what a test has opened."""
    opened: list[VllmGenerator] = []
    yield opened
    for generator in opened:
        generator.close()


def constant(opened: list[VllmGenerator], tmp_path: Path, logits: torch.Tensor, **changes: object) -> VllmGenerator:
    opened.append(made(save_constant(tmp_path / "constant", logits), **changes))
    opened[-1].load(None)
    return opened[-1]


def test_base_and_adapter_cost_what_transformers_says(
    base: str, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher-forced on the tokens that were drawn. The adapter changes the texts, and the base comes back."""
    drawn: list[list[int]] = []
    generator = made(base)
    real = generator._answer

    def spy(draws):  # type: ignore[no-untyped-def]
        replies = real(draws)
        drawn.extend(reply.tokens for reply in replies)
        return replies

    monkeypatch.setattr(generator, "_answer", spy)
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    generator.load(None)
    first = draw(generator, 4, temperature=1.7)
    costs = [sample.nll for sample in first]
    assert costs == pytest.approx([cost(plain, tokens) for tokens in drawn], abs=1e-3)
    drawn.clear()
    generator.load(adapter)
    adapted = draw(generator, 4, temperature=1.7)
    assert [s.text for s in adapted] != [s.text for s in first]
    expected = [cost(PeftModel.from_pretrained(plain, adapter).eval(), tokens) for tokens in drawn]
    assert [s.nll for s in adapted] == pytest.approx(expected, abs=1e-3)
    generator.load(None)
    assert draw(generator, 4, temperature=1.7) == first
    generator.close()


def cost(model: torch.nn.Module, tokens: list[int]) -> float:
    """-log probability of the tokens after the prompt, in nats."""
    prompt = tiny_tokenizer()(PROMPT)["input_ids"]
    ids = torch.tensor([prompt + tokens])
    with torch.inference_mode():
        log_probs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return -float(log_probs.gather(1, ids[0, len(prompt) :, None]).sum())


def test_tokens_follow_the_tempered_distribution(always: list[VllmGenerator], tmp_path: Path) -> None:
    """2,000 one-token samples against softmax(logits / 1.5), in 16 groups; 1 of 10,000 seeds would fail."""
    logits = torch.linspace(4.0, -4.0, 258)
    generator = constant(always, tmp_path, logits, batch_size=500, max_new_tokens=1)
    expected = torch.softmax(logits.double() / 1.5, dim=0).numpy()
    costs = -torch.log_softmax(logits, dim=0).double().numpy()  # at temperature 1: it tells which token it was
    tokens = np.abs(np.asarray([s.nll for s in draw(generator, 2000, 1.5)])[:, None] - costs).argmin(axis=1)
    groups = np.minimum((np.cumsum(expected) * 16).astype(int), 15)
    counts = np.bincount(groups[tokens], minlength=16)
    assert chisquare(counts, 2000 * np.bincount(groups, weights=expected)).pvalue > 1e-4


def test_samples_do_not_depend_on_their_neighbours(base: str) -> None:
    texts = []
    for batch_size in (6, 1):
        generator = made(base, batch_size=batch_size, stop=tuple("abcdefgh"))
        generator.load(None)
        texts.append([s.text for s in draw(generator, 6)])
        generator.close()
    assert texts[0] == texts[1]


def test_the_end_token_counts_but_is_not_text(always: list[VllmGenerator], tmp_path: Path) -> None:
    sample = draw(constant(always, tmp_path, peaked({END_ID: 0.0})), 1)[0]
    assert (sample.text, sample.tokens, sample.truncated) == ("", 1, False)
    assert sample.nll == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("chat", "text"), [(False, "```"), (True, "``````")])
def test_a_fence_ends_the_sample_and_stays(always: list[VllmGenerator], tmp_path: Path, chat: bool, text: str) -> None:
    generator = constant(always, tmp_path, peaked({byte("`"): 0.0}), stop=("```",), chat_template=chat)
    generator._tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<reply>"
    assert generator._tokenizer.decode(generator._encode(PROMPT)) == (f"<user>{PROMPT}<reply>" if chat else PROMPT)
    sample = draw(generator, 1)[0]
    assert (sample.text, sample.tokens, sample.truncated) == (text, len(text), False)


def test_a_diverged_model_is_named(always: list[VllmGenerator], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="non-finite"):
        draw(constant(always, tmp_path, torch.full((258,), float("nan"))), 1)


def test_a_failing_engine_is_one_line_and_the_next_load_starts_again(base: str) -> None:
    generator = made(base)
    generator.load(None)
    expected = draw(generator, 4)

    def failing() -> None:
        raise RuntimeError("device\nlost")

    assert generator._engine is not None
    generator._engine._llm.llm_engine.step = failing
    with pytest.raises(StageError, match=r"failed while sampling .*\(device lost\)"):
        draw(generator, 4)
    with pytest.raises(RuntimeError, match="load"):
        draw(generator, 4)
    generator.load(None)
    assert draw(generator, 4) == expected
    generator.close()


def test_what_cannot_be_asked_is_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        made(base, batch_size=0)
    with pytest.raises(RuntimeError, match="load"):
        draw(made(base), 1)
    with pytest.raises(ModelError, match=r"adapter .* does not fit"):
        made(base).load(tmp_path)
    generator = made(base, max_new_tokens=4090, chat_template=True)
    generator.load(None)
    with pytest.raises(UsageError, match="no chat template"):
        draw(generator, 1)
    generator._chat_template = False
    with pytest.raises(UsageError, match="24 tokens and 4090 new ones exceed the 4096 positions"):
        draw(generator, 1)
    generator._max_new_tokens = 4
    with pytest.raises(UsageError, match="above 0"):
        draw(generator, 1, temperature=0.0)
    generator.close()


def test_ranks_beyond_the_engines_are_refused(base: str, tmp_path: Path) -> None:
    config = LoraConfig(r=513, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="up to rank 512, this one has 513"):
        made(base).load(tmp_path)

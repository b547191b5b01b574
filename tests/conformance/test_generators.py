"""What every generator must do, asked of the scripted one and of a tiny random Llama; then what the real one adds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfdev.config import VllmConfig
from selfdev.errors import ModelError, UsageError
from selfdev.generate import sample_requests
from selfdev.generators.base import Generator
from selfdev.generators.scripted import ScriptedGenerator
from selfdev.generators.transformers import TransformersGenerator
from selfdev.types import Sample, SampleRequest
from tests.tiny import END, save_tiny, tiny_llama

PROMPT = "Write a merge function:\n"
LIMIT = 24


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama, flat enough to write many different bytes."""
    return save_tiny(tmp_path_factory.mktemp("generator"), tiny_llama(std=0.05))


@pytest.fixture(scope="module")
def wide_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with heads of 32, the smallest that vLLM has on a CPU."""
    return save_tiny(tmp_path_factory.mktemp("wide"), tiny_llama(std=0.025, hidden=128))


@pytest.fixture(scope="module")
def adapter_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with random, visible weights."""
    return _save_adapter(model_dir, tmp_path_factory.mktemp("adapter"), scale=0.5)


def _save_adapter(model_dir: Path, out: Path, scale: float) -> Path:
    config = LoraConfig(r=2, lora_alpha=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), config)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=noise))
    model.save_pretrained(out, save_embedding_layers=False)
    return out


def _real(model_dir: Path, **changes: object) -> TransformersGenerator:
    options: dict[str, object] = {"device": "cpu", "batch_size": 4, "max_new_tokens": LIMIT, "stop": ("e",)}
    generator = TransformersGenerator(str(model_dir), **(options | changes))  # type: ignore[arg-type]
    generator.load(None)
    return generator


@pytest.fixture(params=["scripted", "transformers", pytest.param("vllm", marks=pytest.mark.vllm)], scope="module")
def generator(request: pytest.FixtureRequest) -> Iterator[Generator]:
    if request.param == "scripted":
        texts = [f"{'word ' * i}end" for i in range(0, 40, 3)]
        made: Generator = ScriptedGenerator(texts, batch_size=4, max_new_tokens=LIMIT)
    elif request.param == "transformers":
        made = _real(request.getfixturevalue("model_dir"))
    else:
        from selfdev.generators.vllm import VllmGenerator

        wide, settings = str(request.getfixturevalue("wide_dir")), VllmConfig(kv_cache_bytes=32 << 20)
        made = VllmGenerator(wide, "cpu", 4, LIMIT, stop=("e",), settings=settings)
    made.load(None)
    yield made
    made.close()


def _draw(generator: Generator, requests: list[SampleRequest], temperature: float = 1.0) -> list[Sample]:
    return [sample for batch in generator.sample(PROMPT, requests, temperature) for sample in batch]


class TestEveryGenerator:
    def test_one_list_per_batch_in_order(self, generator: Generator) -> None:
        requests = sample_requests(0, 1, range(10))
        batches = list(generator.sample(PROMPT, requests, 1.0))
        assert [[s.index for s in batch] for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [s.seed for batch in batches for s in batch] == [r.seed for r in requests]

    def test_the_same_requests_give_the_same_samples(self, generator: Generator) -> None:
        requests = sample_requests(0, 1, range(10))
        assert _draw(generator, requests) == _draw(generator, requests)

    def test_whole_batches_can_be_drawn_alone(self, generator: Generator) -> None:
        everything = _draw(generator, sample_requests(0, 1, range(12)))
        assert _draw(generator, sample_requests(0, 1, range(4, 12))) == everything[4:]

    def test_other_seeds_give_other_samples(self, generator: Generator) -> None:
        first = _draw(generator, sample_requests(0, 1, range(8)))
        second = _draw(generator, sample_requests(1, 1, range(8)))
        assert [s.text for s in first] != [s.text for s in second]
        assert len({s.text for s in first}) > 4

    def test_closing_and_loading_again_changes_nothing(self, generator: Generator) -> None:
        requests = sample_requests(0, 1, range(4))
        before = _draw(generator, requests)
        generator.close()
        generator.load(None)
        assert _draw(generator, requests) == before

    def test_tokens_and_truncation_are_honest(self, generator: Generator) -> None:
        samples = _draw(generator, sample_requests(0, 1, range(40)))
        assert {s.truncated for s in samples} == {True, False}
        for sample in samples:
            assert 1 <= sample.tokens <= LIMIT
            assert sample.nll > 0
            if sample.truncated:
                assert sample.tokens == LIMIT

    def test_adapters_inside_a_stage_follow_one_another(self, generator: Generator, tmp_path: Path) -> None:
        """As the loop asks: a directory below that of the stage, the stage itself, the first again; then the base."""
        requests, base = sample_requests(0, 1, range(4)), getattr(generator, "_ref", None)
        stage, inside = tmp_path / "iteration-1", tmp_path / "iteration-1" / "step-5"
        for directory, scale in ((stage, 0.5), (inside, 0.4)):
            directory.mkdir()
            if base is not None:
                _save_adapter(Path(base), directory, scale)
        before, drawn = _draw(generator, requests), []
        try:
            for adapter in (inside, stage, inside):
                generator.load(adapter)
                drawn.append(_draw(generator, requests))
        finally:
            generator.load(None)
        assert drawn[0] == drawn[2]
        assert _draw(generator, requests) == before
        if base is not None:  # the scripted one has no weights
            assert len({tuple(s.text for s in samples) for samples in (before, *drawn)}) == 3

    def test_no_requests_no_batches(self, generator: Generator) -> None:
        assert list(generator.sample(PROMPT, [], 1.0)) == []


def test_scripted_function_sees_index_temperature_and_adapter(tmp_path: Path) -> None:
    generator = ScriptedGenerator(
        lambda index, temperature, adapter: f"{index} {temperature} {adapter and adapter.name}"
    )
    generator.load(tmp_path / "iteration-1")
    assert [s.text for s in _draw(generator, sample_requests(0, 2, [0, 1]), 0.5)] == [
        "0 0.5 iteration-1",
        "1 0.5 iteration-1",
    ]


class TestTransformersGenerator:
    def test_nll_is_the_models_own_log_probability(self, model_dir: Path) -> None:
        """Bytes outside ASCII do not survive decoding, so the teacher-forced pass takes a model that avoids them."""
        generator = _real(model_dir, stop=())
        model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
        _forbid_other_than_ascii(generator._base)
        _forbid_other_than_ascii(model)
        for sample in _draw(generator, sample_requests(0, 1, range(4)), temperature=1.7):
            ended = "" if sample.truncated else END
            prompt, whole = (
                tokenizer(text, return_tensors="pt").input_ids for text in (PROMPT, PROMPT + sample.text + ended)
            )
            with torch.inference_mode():
                log_probs = model(whole).logits[0, :-1].log_softmax(-1)
            taken = log_probs.gather(1, whole[0, 1:, None])[prompt.shape[1] - 1 :]
            assert len(taken) == sample.tokens
            assert sample.nll == pytest.approx(-taken.sum().item(), abs=1e-3)

    def test_first_tokens_follow_the_tempered_distribution(self, model_dir: Path) -> None:
        """4,000 one-token samples against softmax(logits / 1.5), in 16 groups; 1 of 10,000 seeds would fail."""
        generator = _real(model_dir, batch_size=500, max_new_tokens=1, stop=())
        logits = torch.linspace(4.0, -4.0, 258)
        _always(generator._base, logits)
        expected = torch.softmax(logits.double() / 1.5, dim=0).numpy()
        # At temperature 1 the cost of a token tells which one it was.
        costs = -torch.log_softmax(logits, dim=0).double().numpy()
        drawn = [s.nll for s in _draw(generator, sample_requests(0, 1, range(4000)), temperature=1.5)]
        tokens = np.abs(np.asarray(drawn)[:, None] - costs[None, :]).argmin(axis=1)
        groups = np.minimum((np.cumsum(expected) * 16).astype(int), 15)
        counts = np.bincount(groups[tokens], minlength=16)
        assert chisquare(counts, 4000 * np.bincount(groups, weights=expected)).pvalue > 1e-4

    def test_a_sample_does_not_depend_on_its_neighbours(self, model_dir: Path) -> None:
        often = tuple("abcdefghijklmnop")  # so that rows leave the batch at different times
        together = _draw(_real(model_dir, batch_size=12, stop=often), sample_requests(0, 1, range(12)))
        alone = _draw(_real(model_dir, batch_size=1, stop=often), sample_requests(0, 1, range(12)))
        assert [s.text for s in together] == [s.text for s in alone]
        assert [s.nll for s in together] == pytest.approx([s.nll for s in alone], abs=1e-3)
        assert len({s.tokens for s in together}) > 3

    def test_the_stop_string_stays_and_ends_the_text(self, model_dir: Path) -> None:
        samples = _draw(_real(model_dir), sample_requests(0, 1, range(40)))
        stopped = [s for s in samples if s.text.endswith("e")]
        assert stopped
        assert all(not s.truncated and s.text.count("e") == 1 for s in stopped)
        assert all("e" not in s.text for s in samples if s not in stopped)

    def test_stop_string_over_several_tokens(self, model_dir: Path) -> None:
        generator = _real(model_dir, max_new_tokens=12, stop=("```",))
        _always(generator._base, torch.full((258,), -50.0).index_fill(0, torch.tensor([_byte("`")]), 0.0))
        sample = _draw(generator, sample_requests(0, 1, [0]))[0]
        assert (sample.text, sample.tokens, sample.truncated) == ("```", 3, False)

    def test_the_end_token_counts_but_is_not_text(self, model_dir: Path) -> None:
        generator = _real(model_dir)
        _always(generator._base, torch.full((258,), -50.0).index_fill(0, torch.tensor([256]), 0.0))
        sample = _draw(generator, sample_requests(0, 1, [0]))[0]
        assert (sample.text, sample.tokens, sample.truncated) == ("", 1, False)
        assert sample.nll == pytest.approx(0.0, abs=1e-6)

    def test_chat_prompts_end_at_the_second_fence(self, model_dir: Path) -> None:
        generator = _real(model_dir, max_new_tokens=12, stop=("```",), chat_template=True)
        _always(generator._base, torch.full((258,), -50.0).index_fill(0, torch.tensor([_byte("`")]), 0.0))
        generator._tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<reply>"
        assert generator._tokenizer.decode(generator._encode(PROMPT)) == f"<user>{PROMPT}<reply>"
        assert _draw(generator, sample_requests(0, 1, [0]))[0].text == "``````"

    def test_chat_without_a_template_is_refused(self, model_dir: Path) -> None:
        with pytest.raises(UsageError, match="no chat template"):
            _draw(_real(model_dir, chat_template=True), sample_requests(0, 1, [0]))

    def test_adapters_switch_and_the_base_comes_back(self, model_dir: Path, adapter_dir: Path) -> None:
        generator, requests = _real(model_dir), sample_requests(0, 1, range(8))
        base = _draw(generator, requests)
        resident = generator._base.get_input_embeddings().weight.data_ptr()
        generator.load(adapter_dir)
        adapted = _draw(generator, requests)
        assert adapted != base
        generator.load(None)
        assert _draw(generator, requests) == base
        generator.load(adapter_dir)
        assert _draw(generator, requests) == adapted
        assert generator._base.get_input_embeddings().weight.data_ptr() == resident

    @pytest.mark.parametrize("damage", ["missing", "truncated", "lacks tensors", "another model", "not lora"])
    def test_a_bad_adapter_is_named(self, damage: str, model_dir: Path, adapter_dir: Path, tmp_path: Path) -> None:
        bad = _damaged(damage, adapter_dir, tmp_path)
        generator = _real(model_dir)
        before = _draw(generator, sample_requests(0, 1, range(4)))
        with pytest.raises(ModelError, match=r"adapter .* does not fit") as caught:
            generator.load(bad)
        assert "\n" not in str(caught.value)
        generator.load(None)
        assert _draw(generator, sample_requests(0, 1, range(4))) == before

    def test_a_diverged_model_is_named(self, model_dir: Path) -> None:
        generator = _real(model_dir)
        _always(generator._base, torch.full((258,), float("nan")))
        with pytest.raises(ModelError, match="non-finite"):
            _draw(generator, sample_requests(0, 1, [0]))

    def test_a_prompt_beyond_the_context_is_refused(self, model_dir: Path) -> None:
        generator = _real(model_dir, max_new_tokens=4090)
        with pytest.raises(UsageError, match="24 tokens and 4090 new ones exceed the 4096 positions"):
            _draw(generator, sample_requests(0, 1, [0]))

    @pytest.mark.parametrize("changes", [{"batch_size": 0}, {"max_new_tokens": 0}])
    def test_sizes_below_one_are_refused(self, model_dir: Path, changes: dict[str, object]) -> None:
        with pytest.raises(UsageError, match="at least 1"):
            _real(model_dir, **changes)

    def test_temperature_zero_is_refused(self, model_dir: Path) -> None:
        with pytest.raises(UsageError, match="above 0"):
            _draw(_real(model_dir), sample_requests(0, 1, [0]), temperature=0.0)


def _damaged(damage: str, adapter: Path, out: Path) -> Path:
    from safetensors.torch import load_file, save_file

    if damage == "missing":
        return out / "nowhere"
    for file in adapter.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    weights = out / "adapter_model.safetensors"
    tensors = load_file(weights)
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "lacks tensors":
        save_file(dict(list(tensors.items())[1:]), weights)
    elif damage == "another model":
        save_file({name: torch.zeros(3, 3) for name in tensors}, weights)
    else:
        (out / "adapter_config.json").write_text("{}")
    return out


def _byte(character: str) -> int:
    from tests.tiny import tiny_tokenizer

    return int(tiny_tokenizer().convert_tokens_to_ids(character))


def _always(model: torch.nn.Module, logits: torch.Tensor) -> None:
    """Make the model answer with these logits (258,) at every position."""

    def replaced(module: object, arguments: object, output: torch.Tensor) -> torch.Tensor:
        return logits.expand_as(output)

    model.get_output_embeddings().register_forward_hook(replaced)  # type: ignore[operator]


def _forbid_other_than_ascii(model: torch.nn.Module) -> None:
    allowed = {_byte(chr(code)) for code in range(33, 127)} | {256}
    barrier = torch.full((258,), -1e4).index_fill(0, torch.tensor(sorted(allowed)), 0.0)
    model.get_output_embeddings().register_forward_hook(lambda m, a, output: output + barrier)  # type: ignore[operator]


def test_requests_outside_the_first_batch_keep_their_batch(model_dir: Path) -> None:
    """Index 6 belongs to the batch of 4..7 also where it is the only one asked for."""
    requests = [replace(r, index=6) for r in sample_requests(0, 1, [6])]
    assert [[s.index for s in batch] for batch in _real(model_dir).sample(PROMPT, requests, 1.0)] == [[6]]

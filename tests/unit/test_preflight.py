"""Each finding by the fault that causes it, on tiny models; a fault gives its finding and no other error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from selfdev import preflight as module
from selfdev.config import RunConfig, load_config
from selfdev.errors import ModelError
from selfdev.preflight import Finding, check, preflight
from tests.tiny import nudged, save_tiny, tiny_llama

NEAR = 0.01  # of noise on parameters of standard deviation 0.3: a task vector of 0.03 of the seed's norm


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    save_tiny(tmp_path / "seed")
    for number in (1, 2):
        save_tiny(tmp_path / f"source{number}", nudged(tiny_llama(), number, NEAR))
    return {name: tmp_path / name for name in ("seed", "source1", "source2")}


def configured(models: dict[str, Path], **more: object) -> RunConfig:
    seed, *sources = (str(path) for path in models.values())
    keys = {"models.seed": seed, "models.sources": sources, "generate.model": seed, **more}
    return load_config(None, None, keys)


def found(models: dict[str, Path], **more: object) -> list[tuple[str, str]]:
    return [(finding.level, finding.problem) for finding in preflight(configured(models, **more))]


def only(findings: list[tuple[str, str]]) -> tuple[str, str]:
    assert len(findings) == 1, findings
    return findings[0]


def rewrite(directory: Path, change: dict[str, torch.Tensor | None]) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file) | {name: tensor for name, tensor in change.items() if tensor is not None}
    save_file({name: t for name, t in tensors.items() if change.get(name, t) is not None}, file, {"format": "pt"})


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def other_vocabulary(rows: int) -> LlamaForCausalLM:
    """The near source, with another number of rows in its embedding."""
    model = nudged(tiny_llama(), 1, NEAR)
    model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def test_sound_models_have_no_findings(models: dict[str, Path]) -> None:
    assert preflight(configured(models)) == []
    assert check(configured(models)) == []
    assert check(load_config("demo")) == []


def test_every_finding_comes_in_one_message(models: dict[str, Path]) -> None:
    save_tiny(models["source1"])  # the seed again
    save_tiny(models["source2"], tiny_llama(layers=3))
    (models["seed"] / "generation_config.json").unlink()
    assert [level for level, _ in found(models)] == ["warning", "error", "error"]
    with pytest.raises(ModelError, match=r"^2 problems with the models: \(1\) .*; .*\. \(2\) .*; .*\.$") as error:
        check(configured(models))
    assert "also has model.layers.2" in str(error.value)
    assert "source1' is identical to the seed in all 20" in str(error.value)
    assert "generation_config" not in str(error.value)


def test_warnings_alone_are_returned(models: dict[str, Path]) -> None:
    (models["seed"] / "generation_config.json").unlink()
    (finding,) = check(configured(models))
    assert finding == Finding("warning", finding.problem, "copy the file from the model it was trained from")
    assert str(finding).startswith(f"warning: seed '{models['seed']}' has no generation_config.json")


def test_a_vocabulary_of_another_size_matters_where_it_is_merged(models: dict[str, Path]) -> None:
    save_tiny(models["source1"], other_vocabulary(264))
    level, problem = only(found(models))
    assert level == "error"
    assert "a vocabulary of 264, the seed of 258" in problem
    assert only(found(models, **{"models.scope": "mlp"}))[0] == "warning"


def test_another_tokenizer(models: dict[str, Path]) -> None:
    file = models["source1"] / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    file.write_text(json.dumps(tokenizer))
    level, problem = only(found(models))
    assert level == "error"
    assert "2 of 258 ids mean another token, the first is 32 ('B', the seed's 'A')" in problem
    assert only(found(models, **{"models.scope": "mlp"}))[0] == "warning"
    for a, b in (("C", "D"), ("E", "F")):
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    file.write_text(json.dumps(tokenizer))  # 6 of 258 are more than 1 %: not the same tokenizer with other extras
    assert only(found(models, **{"models.scope": "mlp"}))[0] == "error"


def test_a_source_without_a_tokenizer_is_a_warning_a_seed_an_error(models: dict[str, Path]) -> None:
    for name in ("source1", "seed"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (models[name] / file).unlink()
        assert "tokenizer" in found(models)[0][1]
        assert found(models)[0][0] == ("error" if name == "seed" else "warning")


def test_tied_and_untied_heads(models: dict[str, Path]) -> None:
    save_tiny(models["source1"], tiny_llama(tied=False))
    level, problem = found(models)[0]
    assert level == "error"
    assert problem.endswith("has a head of its own, the seed a head tied to the embedding")
    assert [level for level, _ in found(models, **{"models.scope": "mlp"})] == [
        "warning",
        "error",
    ]  # same MLPs: identical


def test_shapes_come_from_the_file(models: dict[str, Path]) -> None:
    rewrite(models["source1"], {"model.norm.weight": torch.ones(31), "model.layers.0.mlp.up_proj.weight": None})
    problems = found(models)
    assert [level for level, _ in problems] == ["error", "error"]
    assert "lack model.layers.0.mlp.up_proj.weight (1 such" in problems[0][1]
    assert "model.norm.weight has shape (31,), not (32,)" in problems[1][1]


def test_dtypes(models: dict[str, Path]) -> None:
    save_tiny(models["source1"], nudged(tiny_llama(), 1, NEAR).to(torch.bfloat16))
    level, problem = only(found(models))
    assert level == "warning"
    assert problem.endswith("is stored in bfloat16, the seed in float32")
    rewrite(models["source2"], {"model.norm.weight": torch.ones(32, dtype=torch.int8)})
    assert ("error", f"model '{models['source2']}': model.norm.weight is stored as I8 (1 such parameters)") in found(
        models
    )


def test_a_bfloat16_seed_in_float16(models: dict[str, Path]) -> None:
    for directory in models.values():
        tensors = load_file(directory / "model.safetensors")
        halves = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
        save_file(halves, directory / "model.safetensors", {"format": "pt"})
    assert found(models) == []
    level, problem = only(found(models, **{"models.dtype": "float16"}))
    assert level == "warning"
    assert "overflow" in problem


@pytest.mark.parametrize(("key", "role"), [("task.chat_template", "seed"), ("generate.chat_template", "generator")])
def test_a_chat_template_that_is_asked_for(models: dict[str, Path], key: str, role: str) -> None:
    level, problem = only(found(models, **{key: True}))
    assert level == "error"
    assert problem.startswith(role)
    (models["seed"] / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert found(models, **{key: True}) == []


def test_identical_to_the_seed_within_the_scope(models: dict[str, Path]) -> None:
    save_tiny(models["source1"])
    rewrite(models["source1"], {"model.norm.weight": torch.full((32,), 1.01)})
    assert found(models) == []
    level, problem = only(found(models, **{"models.scope": "mlp"}))
    assert level == "error"
    assert problem.endswith("identical to the seed in all 6 merged parameters")


def test_identical_to_each_other(models: dict[str, Path]) -> None:
    save_tiny(models["source2"], nudged(tiny_llama(), 1, NEAR))
    level, problem = only(found(models))
    assert level == "error"
    assert problem == f"sources '{models['source1']}' and '{models['source2']}' are identical"


def test_distance_by_hand(models: dict[str, Path]) -> None:
    """A source of twice the seed's weights is as far from it as the seed is from zero."""
    seed = load_file(models["seed"] / "model.safetensors")
    for factor, expected in ((1.5, ("warning", "far from the seed: its task vector is 0.50")),
                             (2.0, ("error", "not a descendant of the seed: its task vector is 1.00"))):  # fmt: skip
        rewrite(models["source1"], {name: factor * tensor for name, tensor in seed.items()})
        level, problem = only(found(models))
        assert level == expected[0]
        assert expected[1] in problem


def test_a_model_trained_apart_is_no_descendant(models: dict[str, Path]) -> None:
    save_tiny(models["source1"], tiny_llama(seed=9))
    level, problem = only(found(models))
    assert level == "error"
    assert "is not a descendant of the seed: its task vector is 1.4" in problem  # sqrt(2)


def test_another_kind_of_model(models: dict[str, Path]) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=2)).save_pretrained(models["source1"])
    level, problem = only(found(models))
    assert level == "error"
    assert "is a gpt2 model, the seed a llama" in problem


def test_an_incomplete_index_names_how_many_files_are_missing(models: dict[str, Path]) -> None:
    for file in models["source1"].glob("*.safetensors"):
        file.unlink()
    save_tiny(models["source1"], nudged(tiny_llama(), 1, NEAR), max_shard_size="20KB")
    assert found(models) == []
    for file in sorted(models["source1"].glob("*.safetensors"))[1:3]:
        file.unlink()
    level, problem = only(found(models))
    assert level == "error"
    assert "which is not there (2 such files)" in problem


def test_models_that_cannot_be_opened_hide_nothing(models: dict[str, Path]) -> None:
    missing = models | {"source1": models["source1"].parent / "absent"}
    save_tiny(models["source2"])
    problems = found(missing, **{"generate.model": "zoo:none-such"})
    assert [level for level, _ in problems] == ["error"] * 3
    assert "no such directory" in problems[0][1]
    assert "identical to the seed" in problems[1][1]
    assert problems[2][1].startswith("generator: no model 'none-such' in the zoo")


def test_few_weights_are_read(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 parameters: one of each pair to tell them apart, and the sampled matrices of each source."""
    read: list[str] = []
    original = module._values

    def counting(one: module._Model, other: module._Model, names: list[str]):  # type: ignore[no-untyped-def]
        for pair in original(one, other, names):
            read.append(one.ref)
            yield pair

    monkeypatch.setattr(module, "_values", counting)
    assert preflight(configured(models)) == []
    assert len(read) == 2 * (1 + module.LOOKED_AT) + 1

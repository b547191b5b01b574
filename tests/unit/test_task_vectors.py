from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfdev import models, task_vectors
from selfdev.errors import ModelError, UsageError
from selfdev.task_vectors import in_scope, load_task_vectors
from tests.tiny import nudged, save_tiny, tiny_llama


@pytest.fixture
def seed(tmp_path: Path) -> str:
    return str(save_tiny(tmp_path / "seed"))


def save_source(tmp_path: Path, name: str = "source", number: int = 1) -> Path:
    return save_tiny(tmp_path / name, nudged(tiny_llama(), number))


def rewrite(directory: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Replace (or, with None, drop) tensors of a saved model."""
    file = directory / "model.safetensors"
    tensors = load_file(file) | {name: tensor for name, tensor in change.items() if tensor is not None}
    save_file({name: t for name, t in tensors.items() if change.get(name, t) is not None}, file, {"format": "pt"})


def test_values_by_hand(tmp_path: Path, seed: str) -> None:
    source = save_tiny(tmp_path / "source")
    norm = torch.tensor([1.0, 2.0, 3.0, 4.0] * 8)
    rewrite(source, {"model.norm.weight": norm})
    (vector,) = load_task_vectors(seed, [str(source)]).vectors
    # A fresh norm is all ones, everything else is the seed's.
    assert vector["model.norm.weight"].tolist() == [0.0, 1.0, 2.0, 3.0] * 8
    assert all(not delta.any() for name, delta in vector.items() if name != "model.norm.weight")


def test_names_keep_the_seeds_order_and_a_tied_head_is_no_name(tmp_path: Path, seed: str) -> None:
    sources = [str(save_source(tmp_path, f"s{number}", number)) for number in (1, 2)]
    loaded = load_task_vectors(seed, sources)
    assert loaded.names == tuple(name for name, _ in tiny_llama().named_parameters())
    assert "lm_head.weight" not in loaded.names
    assert loaded.sources == tuple(sources)
    assert [tuple(vector) for vector in loaded.vectors] == [loaded.names, loaded.names]
    ours, theirs = dict(tiny_llama().named_parameters()), dict(nudged(tiny_llama(), 2).named_parameters())
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(loaded.vectors[1][name], theirs[name] - ours[name])


def test_sharded_sources_are_the_same(tmp_path: Path, seed: str) -> None:
    whole = save_source(tmp_path)
    sharded = save_tiny(tmp_path / "sharded", nudged(tiny_llama(), 1), max_shard_size="20KB")
    one, other = load_task_vectors(seed, [str(whole), str(sharded)]).vectors
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_untied_head_is_a_parameter_of_its_own(tmp_path: Path) -> None:
    base = tiny_llama(tied=False)
    loaded = load_task_vectors(
        str(save_tiny(tmp_path / "seed", base)), [str(save_tiny(tmp_path / "source", nudged(base, 1)))]
    )
    assert loaded.names[-1] == "lm_head.weight"


def test_a_tied_checkpoint_that_stores_only_the_head_is_understood(tmp_path: Path, seed: str) -> None:
    plain, alias = save_source(tmp_path, "plain"), save_source(tmp_path, "alias")
    embedding = load_file(alias / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(alias, {"model.embed_tokens.weight": None, "lm_head.weight": embedding})
    one, other = load_task_vectors(seed, [str(plain), str(alias)]).vectors
    assert torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_bfloat16_differences_are_taken_in_float32(tmp_path: Path) -> None:
    base = tiny_llama().to(torch.bfloat16)
    seed_dir = save_tiny(tmp_path / "seed", base)
    source = save_tiny(tmp_path / "source", nudged(tiny_llama(), 1))  # float32 source of a bfloat16 seed
    (vector,) = load_task_vectors(str(seed_dir), [str(source)]).vectors
    name = "model.layers.0.self_attn.q_proj.weight"
    theirs = dict(nudged(tiny_llama(), 1).named_parameters())[name]
    exact = theirs - dict(base.named_parameters())[name].float()
    assert vector[name].dtype == torch.bfloat16
    assert torch.equal(vector[name], exact.to(torch.bfloat16))
    assert not torch.equal(vector[name], theirs.to(torch.bfloat16) - dict(base.named_parameters())[name])
    (wide,) = load_task_vectors(str(seed_dir), [str(source)], dtype=torch.float32).vectors
    assert torch.equal(wide[name], exact)


def test_scopes(tmp_path: Path, seed: str) -> None:
    source = str(save_source(tmp_path))
    mlp = load_task_vectors(seed, [source], scope="mlp")
    assert mlp.names == tuple(
        f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in (0, 1) for part in ("gate", "up", "down")
    )
    chosen = load_task_vectors(seed, [source], scope=["*.1.*norm*", "model.norm.*"])
    assert chosen.names == (
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.norm.weight",
    )
    with pytest.raises(UsageError, match="matches none of the seed's 20 parameters"):
        load_task_vectors(seed, [source], scope=["*.moe.*"])
    with pytest.raises(UsageError, match="allowed: 'all', 'mlp'"):
        load_task_vectors(seed, [source], scope="attention")  # type: ignore[arg-type]
    assert not in_scope("model.layers.0.mlp_norm.weight", "mlp")


def test_no_sources(seed: str) -> None:
    with pytest.raises(UsageError, match="no sources"):
        load_task_vectors(seed, [])


def test_a_source_equal_to_the_seed_is_refused(tmp_path: Path, seed: str) -> None:
    twin = str(save_tiny(tmp_path / "twin"))
    with pytest.raises(ModelError, match=r"twin' is identical to the seed in all 20"):
        load_task_vectors(seed, [twin])


def test_equal_within_the_scope_is_refused_too(tmp_path: Path, seed: str) -> None:
    source = save_tiny(tmp_path / "source")
    rewrite(source, {"model.norm.weight": torch.full((32,), 2.0)})
    load_task_vectors(seed, [str(source)])
    with pytest.raises(ModelError, match="identical to the seed in all 6"):
        load_task_vectors(seed, [str(source)], scope="mlp")


def test_other_depth_names_the_first_missing_or_extra_parameter(tmp_path: Path, seed: str) -> None:
    deep = save_tiny(tmp_path / "deep", tiny_llama(layers=3))
    with pytest.raises(ModelError, match=r"deep' also has model\.layers\.2\.\S+ \(9 such"):
        load_task_vectors(seed, [str(deep)])
    shallow = save_tiny(tmp_path / "shallow", tiny_llama(layers=1))
    with pytest.raises(ModelError, match=r"shallow' lacks model\.layers\.1\.\S+ \(9 such"):
        load_task_vectors(seed, [str(shallow)])


def test_an_untied_source_of_a_tied_seed_is_refused(tmp_path: Path, seed: str) -> None:
    untied = save_tiny(tmp_path / "untied", tiny_llama(tied=False))
    with pytest.raises(ModelError, match=r"untied' also has lm_head\.weight"):
        load_task_vectors(seed, [str(untied)])


def test_another_shape_names_source_and_both_shapes(tmp_path: Path, seed: str) -> None:
    wide = save_tiny(tmp_path / "wide", tiny_llama(hidden=64))
    with pytest.raises(ModelError, match=r"wide'.*embed_tokens.*\(258, 64\).*\(258, 32\)"):
        load_task_vectors(seed, [str(wide)])


def test_a_file_that_belies_its_configuration(tmp_path: Path, seed: str) -> None:
    lacking, bent, spoilt, packed = (save_source(tmp_path, name) for name in ("lacking", "bent", "spoilt", "packed"))
    rewrite(lacking, {"model.norm.weight": None})
    with pytest.raises(ModelError, match=r"weights lack model\.norm\.weight"):
        load_task_vectors(seed, [str(lacking)])
    rewrite(bent, {"model.norm.weight": torch.ones(31)})
    with pytest.raises(ModelError, match=r"model\.norm\.weight has shape \(31,\), the seed's is \(32,\)"):
        load_task_vectors(seed, [str(bent)])
    rewrite(spoilt, {"model.norm.weight": torch.full((32,), float("nan"))})
    with pytest.raises(ModelError, match=r"not finite in model\.norm\.weight"):
        load_task_vectors(seed, [str(spoilt)])
    rewrite(packed, {"model.norm.weight": torch.ones(32, dtype=torch.int8)})
    with pytest.raises(ModelError, match="quantised"):
        load_task_vectors(seed, [str(packed)])


def test_another_architecture(tmp_path: Path, seed: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt")
    with pytest.raises(ModelError, match="is a gpt2 model, the seed a llama"):
        load_task_vectors(seed, [str(tmp_path / "gpt")])


class Ledger:
    """Counts the bytes of tensors that readers gave out and nobody has let go."""

    def __init__(self) -> None:
        self.alive = self.peak = 0
        self.reads: dict[str, int] = {}

    def reader(self, ref: str, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        ledger = self

        class Counted(Mapping[str, torch.Tensor]):
            def __getitem__(self, name: str) -> torch.Tensor:
                tensor = weights[name].clone()
                ledger.reads[f"{Path(ref).name} {name}"] = ledger.reads.get(f"{Path(ref).name} {name}", 0) + 1
                ledger.alive += tensor.nbytes
                ledger.peak = max(ledger.peak, ledger.alive)
                weakref.finalize(tensor.untyped_storage(), ledger.let_go, tensor.nbytes)
                return tensor

            def __contains__(self, name: object) -> bool:
                return name in weights

            def __iter__(self) -> Iterator[str]:
                return iter(weights)

            def __len__(self) -> int:
                return len(weights)

        return Counted()

    def let_go(self, size: int) -> None:
        self.alive -= size


def test_never_more_than_one_parameter_of_two_models_is_held(
    tmp_path: Path, seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharded sources, by accounting: what was read is let go before the next, and the seed is read once for all."""
    shards = [
        str(save_tiny(tmp_path / f"s{number}", nudged(tiny_llama(), number), max_shard_size="20KB"))
        for number in (1, 2, 3)
    ]
    ledger = Ledger()
    monkeypatch.setattr(task_vectors, "read_weights", lambda ref: ledger.reader(ref, models.read_weights(ref)))
    vectors = load_task_vectors(seed, shards, dtype=torch.bfloat16).vectors  # another dtype: results are copies
    largest = 258 * 32 * 4  # the embedding
    assert largest <= ledger.peak <= 2 * largest
    assert ledger.alive == 0
    assert ledger.reads == {f"{model} {name}": 1 for name in vectors[0] for model in ("seed", "s1", "s2", "s3")}


def test_outside_the_scope_nothing_is_read(tmp_path: Path, seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    monkeypatch.setattr(task_vectors, "read_weights", lambda ref: ledger.reader(ref, models.read_weights(ref)))
    source = save_tiny(tmp_path / "source", nudged(tiny_llama(), 1), max_shard_size="20KB")
    load_task_vectors(seed, [str(source)], scope=["*.0.mlp.up_proj.*"])
    name = "model.layers.0.mlp.up_proj.weight"
    assert ledger.reads == {f"seed {name}": 1, f"source {name}": 1}

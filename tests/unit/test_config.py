"""Configuration: merging order, refusals, presets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfdev.config import RunConfig, differences, known_keys, load_config, parse_assignments, preset_names
from selfdev.errors import UsageError


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_its_own_json(name: str) -> None:
    config = load_config(preset=name)
    assert RunConfig.model_validate_json(config.to_json()) == config


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('iterations = 7\n[generate]\nsamples = 5\n[models]\nsources = ["zoo:solver-add"]\n')
    config = load_config(file=file, overrides={"generate.samples": 9})
    assert (config.iterations, config.generate.samples, config.generate.decay) == (7, 9, 0.2)
    assert config.models.sources == ("zoo:solver-add",)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.bta=1", "unknown configuration key 'train.bta'; did you mean 'train.beta'?"),
        ("colour=1", "unknown configuration key 'colour'"),
        ("train.beta=high", "'train.beta' got 'high'"),
        ("train.beta=-1", "'train.beta' got -1"),
        ("generate.samples=0", "'generate.samples' got 0"),
        ("generate.samples=2.5", "'generate.samples' got 2.5"),
        ("models.sources=[]", "'models.sources' got []"),
        ('models.sources=["a", "a"]', "names one model twice"),
        ("seed.deep=1", "seed is a value, not a table"),
        ("pair.failures=perhaps", "'pair.failures' got 'perhaps'"),
    ],
)
def test_bad_values_are_named(assignment: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(overrides=parse_assignments([assignment]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["train.beta", "=1"])
def test_an_assignment_needs_key_and_value(text: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_assignments([text])


def test_assignments_read_toml_values_and_plain_text() -> None:
    assert parse_assignments(["a=1", "b=0.5", "c=[1, 2]", "d=mlp", "e=true", "f=zoo:x"]) == {
        "a": 1, "b": 0.5, "c": [1, 2], "d": "mlp", "e": True, "f": "zoo:x",
    }  # fmt: skip


def test_unknown_preset_suggests_a_near_one() -> None:
    with pytest.raises(UsageError, match=r"unknown preset 'dmo'.*did you mean demo"):
        load_config(preset="dmo")


def test_preset_and_file_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both"):
        load_config(preset="demo", file=tmp_path / "x.toml")


@pytest.mark.parametrize(("content", "message"), [(None, "cannot read"), ("a = = 1", "is not TOML")])
def test_unreadable_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "x.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=message):
        load_config(file=file)


def test_differences_name_the_keys() -> None:
    old = json.loads(load_config().to_json())
    new = json.loads(load_config(overrides={"train.beta": 0.5, "seed": 3}).to_json())
    assert differences(old, old) == []
    assert differences(old, new) == ["seed: 0 -> 3", f"train.beta: {old['train']['beta']} -> 0.5"]


def test_known_keys_are_the_ones_that_can_be_set() -> None:
    assert "pair.chosen_share" in known_keys()
    assert "pair" not in known_keys()

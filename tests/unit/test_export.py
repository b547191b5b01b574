"""Texts of exports: licences, cards, YAML, pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from selfdev.apply.merge import Report, Request
from selfdev.apply.study import Parameter
from selfdev.errors import DataError, UsageError
from selfdev.export.card import Card, Parent, Scores, card_text
from selfdev.export.licences import licence_of, union
from selfdev.export.mergekit import Recipe, linear_yaml, write_recipe
from selfdev.export.pairs import read_pairs, write_data_set
from selfdev.export.python import Script, script_text
from selfdev.score import Score

ALGORITHM = """from __future__ import annotations

import torch


def merge_models(task_vectors):
    return task_vectors[0]
"""


def recipe(**changes) -> Recipe:
    names = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    given = {
        "id": "abc",
        "algorithm": ALGORITHM,
        "seed": "org/seed@main",
        "sources": ["org/a", "org/b"],
        "parameters": {name: Parameter((32, 32), torch.float32) for name in names},
        "aliases": {name: (name,) for name in names},
        "scope": "all",
        "out_dtype": "bfloat16",
        "execution_seed": 7,
        "coefficients": dict.fromkeys(names, (0.5, 0.25)),
        "obstacle": None,
        "alone": True,
    }
    return Recipe(**(given | changes))


@pytest.mark.parametrize(
    ("licences", "licence", "name", "told"),
    [
        ({"a": "apache-2.0", "b": "apache-2.0"}, "apache-2.0", None, []),
        ({"a": "apache-2.0", "b": "mit"}, "other", "apache-2.0-and-mit", []),
        ({"a": "apache-2.0", "b": "cc-by-nc-4.0"}, "other", "apache-2.0-and-cc-by-nc-4.0", ["forbids commercial use"]),
        ({"a": "cc-by-nc-4.0", "b": "cc-by-nc-4.0"}, "cc-by-nc-4.0", None, []),
        ({"a": "llama3", "b": "apache-2.0"}, "other", "apache-2.0-and-llama3", ["terms of its own"]),
        ({"a": "gpl-3.0", "b": "mit"}, "other", "gpl-3.0-and-mit", ["passed on under it"]),
        ({"a": "mit", "b": None}, "other", "mit-and-unknown", ["licence of b is not stated"]),
        ({"a": "cc-by-nd-4.0"}, "cc-by-nd-4.0", None, ["forbids passing on changed versions"]),
    ],
)
def test_licences_are_joined_and_conflicts_named(licences, licence, name, told) -> None:
    joined = union(licences)
    assert (joined.licence, joined.name) == (licence, name)
    assert len(joined.conflicts) == len(told)
    assert all(words in sentence for words, sentence in zip(told, joined.conflicts, strict=True))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: Deepseek\n---\n", "deepseek"),
        ('---\nlicense: "MIT" # really\n---\n', "mit"),
        ("license: mit\n", None),
        ("", None),
    ],
)
def test_a_licence_is_read_from_the_front_matter(tmp_path, card, licence) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence
    assert licence_of(tmp_path / "nothing") is None


def test_a_card_says_where_a_model_comes_from() -> None:
    parents = [
        Parent("org/seed@v1", "org/seed", "org/seed", "a" * 40, "1" * 64, "mit"),
        Parent("/home/me/models/sibling", "sibling", None, None, "2" * 64, "cc-by-nc-4.0"),
    ]
    card = Card(
        "best",
        "abc123 (iteration 2, sample 4)",
        'x = """```"""',
        parents,
        Request("x", "org/seed@v1", ("/home/me/models/sibling",), execution_seed=9),
        Report("closed form", None, None, ("model.safetensors",), 10, "full", {"w": (0.25,)}),
        Scores("gsm8k", Score.of(30, 50), Score.of(300, 1000), 1, Score.of(20, 50), None),
        run_seed=3,
        notes=["The merged task vector has the very bits that were scored in the run."],
    )
    text = card_text(card)
    _, front, body = text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["base_model"] == ["org/seed", "sibling"]
    assert told["base_model_relation"] == "merge"
    assert told["tags"] == ["merge", "selfdev"]
    assert (told["license"], told["license_name"]) == ("other", "cc-by-nc-4.0-and-mit")
    assert "/home/me" not in text
    for words in (
        "| dev | this merge | 30/50 | 0.6000 |",
        "| test | this merge | 300/1000 | 0.3000 | 0.2724 to 0.3291 |",  # Wilson, 95 %
        "| dev | seed model | 20/50 |",
        "opened once",
        "a" * 40,
        "2" * 64,
        "forbids commercial use",
        "draws: 9",
        "seed of the run: 3",
        "linear, one per source: 0.25",
        "torch " + torch.__version__,
        '````python\nx = """```"""\n````',
    ):
        assert words in body, words


def test_a_linear_rule_is_plain_yaml() -> None:
    told = yaml.safe_load(linear_yaml(recipe()))
    assert told == {
        "merge_method": "task_arithmetic",
        "base_model": "org/seed@main",
        "models": [
            {"model": "org/a", "parameters": {"weight": 0.5}},
            {"model": "org/b", "parameters": {"weight": 0.25}},
        ],
        "parameters": {"normalize": False, "lambda": 1.0},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }


def test_weights_that_differ_by_parameter_are_filters_the_longest_first() -> None:
    coefficients = {"model.layers.0.mlp.up_proj.weight": (0.5, 0.0), "model.norm.weight": (0.1, 0.2)}
    told = yaml.safe_load(linear_yaml(recipe(coefficients=coefficients)))
    assert told["models"][0]["parameters"]["weight"] == [
        {"filter": "model.layers.0.mlp.up_proj.weight", "value": 0.5},
        {"filter": "model.norm.weight", "value": 0.1},
        {"value": 0.0},
    ]
    uniform = yaml.safe_load(linear_yaml(recipe(scope="mlp")))
    assert uniform["models"][1]["parameters"]["weight"] == [{"filter": ".mlp.", "value": 0.25}, {"value": 0.0}]


def test_what_sees_the_whole_model_is_refused_for_mergekit(tmp_path) -> None:
    with pytest.raises(UsageError, match="one tensor at a time"):
        write_recipe(tmp_path, recipe(coefficients=None, obstacle="its result for a depends on b"))


def test_a_script_compiles_and_knows_nothing_of_selfdev() -> None:
    script = Script(ALGORITHM, ['algorithm """ \\n'], "org/seed", ["a", "b"], ["*.mlp.*"], 5, ["x", "y"])
    text = script_text(script)
    compile(text, "merge.py", "exec")
    assert "import selfdev" not in text
    assert "from selfdev" not in text
    assert text.index("from __future__") < text.index("import argparse")
    assert text.count("from __future__") == 1


def test_pairs_of_all_iterations_become_one_data_set(tmp_path) -> None:
    run = tmp_path / "run"
    (run / "pairs").mkdir(parents=True)
    row = {
        "prompt": "p", "chosen": "c", "rejected": "r", "chosen_score": 0.5, "rejected_score": None,
        "chosen_id": "1", "rejected_id": "2",
    }  # fmt: skip
    for iteration in (2, 10, 1):
        (run / "pairs" / f"iteration-{iteration}.jsonl").write_text(json.dumps(row) + "\n")
    rows = read_pairs(run)
    assert [r["iteration"] for r in rows] == [1, 2, 10]
    config = {
        "models": {"seed": "zoo:solver-seed", "sources": ["zoo:solver-add"]},
        "generate": {"model": "zoo:generator"},
        "task": {"name": "arithmetic"},
        "seed": 4,
    }
    out = tmp_path / "pairs"
    out.mkdir()
    write_data_set(out, rows, config, "pairs")
    told = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert told["configs"][0]["data_files"] == [{"split": "train", "path": "train.jsonl"}]
    with pytest.raises(DataError, match="no preference pairs yet"):
        read_pairs(Path(tmp_path / "pairs"))
    (run / "pairs" / "iteration-2.jsonl").write_text('{"prompt": 1}\n')
    with pytest.raises(DataError, match="line 1"):
        read_pairs(run)

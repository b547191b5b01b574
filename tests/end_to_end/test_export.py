"""Every export is run, and its weights are those of the algorithm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file

from selfdev.cli import main
from selfdev.config import load_config
from selfdev.models import load_causal_lm
from selfdev.store import CandidateRow, Store
from selfdev.task_vectors import load_task_vectors
from selfdev.types import ExecutionStatus
from tests.tiny import nudged, save_tiny, tiny_llama

HEAD = "import torch\n\n\ndef merge_models(task_vectors):\n"
PROGRAMS = {
    # Not symmetric in the sources, so that a wrong order shows.
    "aaaaaaaaaaaa": HEAD + "    return {n: 0.7 * t - 0.2 * task_vectors[1][n] for n, t in task_vectors[0].items()}\n",
    "bbbbbbbbbbbb": HEAD
    + """    out = {}
    for name, first in task_vectors[0].items():
        second = task_vectors[1][name]
        out[name] = torch.where(first.abs() > second.abs(), first, 0.5 * second)
    return out
""",
    # Names of others are looked at; the weight differs by parameter.
    "cccccccccccc": HEAD
    + """    names = list(task_vectors[0])
    return {n: t.abs() * (1 + i) / len(names) for i, (n, t) in enumerate(task_vectors[0].items())}
""",
    "dddddddddddd": HEAD
    + "    depth = {n: 0.3 if '.1.' in n else 0.6 for n in task_vectors[0]}\n"
    + "    return {n: depth[n] * t + 0.1 * task_vectors[1][n] for n, t in task_vectors[0].items()}\n",
    "eeeeeeeeeeee": HEAD
    + "    norms = [sum(float(t.square().sum()) for t in v.values()) for v in task_vectors]\n"
    + "    return {n: t * norms[0] / sum(norms) for n, t in task_vectors[0].items()}\n",
    "ffffffffffff": HEAD + "    return {n: t * (torch.rand(t.shape) < 0.5) for n, t in task_vectors[0].items()}\n",
}
LINEAR, TENSORWISE, BY_NAME, BY_LAYER, GLOBAL, RANDOM = PROGRAMS


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run directory with these programs, over tiny models."""
    root = tmp_path_factory.mktemp("export")
    seed = tiny_llama(3)
    save_tiny(root / "seed", seed)
    for i in (1, 2):
        save_tiny(root / f"sibling-{i}", nudged(seed, i, 0.02))
    config = load_config(
        overrides={
            "models.seed": str(root / "seed"),
            "models.sources": [str(root / "sibling-1"), str(root / "sibling-2")],
            "threads": 1,
        }
    )
    path = root / "run"
    path.mkdir()
    (path / "config.json").write_text(config.to_json())
    store = Store(path / "store.sqlite")
    store.add_candidates(
        CandidateRow(
            id=id_, kind="generated", name="", iteration=1, index=i, checkpoint="base", temperature=1.0, sample_seed=i,
            text=source, source=source, tokens=1, nll=1.0, truncated=False, execution_seed=11,
            status=ExecutionStatus.OK,
        )
        for i, (id_, source) in enumerate(PROGRAMS.items())
    )  # fmt: skip
    store.close()
    return path


def export(run: Path, *arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(run), *arguments])
    assert not ended.value.code


def expected(run: Path, candidate: str) -> dict[str, torch.Tensor]:
    """The merged weights, by hand."""
    models = json.loads((run / "config.json").read_text())["models"]
    vectors = load_task_vectors(models["seed"], models["sources"]).vectors
    space: dict = {}
    exec(PROGRAMS[candidate], space)
    torch.manual_seed(11)
    merged = space["merge_models"](list(vectors))
    weights = load_file(Path(models["seed"]) / "model.safetensors")
    return {name: weights[name] + merged[name] for name in merged}


def assert_same(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    found = load_file(folder / "model.safetensors")
    assert set(found) >= set(weights)
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("candidate", [LINEAR, GLOBAL])
def test_a_model_is_complete_and_has_the_weights(run, tmp_path, capsys, candidate) -> None:
    export(run, candidate[:4], "--to", "model", "--out", str(tmp_path / "model"))
    assert_same(tmp_path / "model", expected(run, candidate))
    model, tokenizer = load_causal_lm(str(tmp_path / "model"))
    assert len(tokenizer) <= model.get_input_embeddings().weight.shape[0]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "base_model_relation: merge" in card
    assert candidate in card
    printed = capsys.readouterr().out
    assert "peak memory" in printed
    assert printed.index("peak memory") < printed.index("smoke test")
    assert str(run.parent) not in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("candidate", [TENSORWISE, BY_NAME, RANDOM])
def test_a_script_runs_without_selfdev(run, tmp_path, capsys, candidate) -> None:
    script = tmp_path / "merge.py"
    export(run, candidate, "--to", "python", "--out", str(script))
    assert ("one parameter at a time" in capsys.readouterr().out) == (candidate == TENSORWISE)
    blocked = (
        f"import runpy, sys; sys.modules['selfdev'] = None; sys.argv = ['merge.py', '--out', {str(tmp_path / 'm')!r}]"
    )
    code = f"{blocked}; runpy.run_path({str(script)!r}, run_name='__main__')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)
    assert_same(tmp_path / "m", expected(run, candidate))


def test_a_script_explains_itself(run, tmp_path) -> None:
    script = tmp_path / "merge.py"
    export(run, LINEAR, "--to", "python", "--out", str(script))
    told = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    assert "--sources" in told.stdout


@pytest.mark.filterwarnings("ignore")  # mergekit's, about its own imports
@pytest.mark.parametrize("candidate", [LINEAR, BY_LAYER])
def test_linear_rules_run_in_mergekit_from_plain_yaml(run, tmp_path, candidate) -> None:
    pytest.importorskip("mergekit")
    export(run, candidate, "--to", "mergekit", "--out", str(tmp_path / "recipe"))
    assert [path.name for path in (tmp_path / "recipe").iterdir()] == ["mergekit_config.yml"]
    merge_with_mergekit(tmp_path / "recipe" / "mergekit_config.yml", tmp_path / "model")
    assert_same(tmp_path / "model", expected(run, candidate))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("candidate", [TENSORWISE, BY_NAME])
def test_other_rules_run_in_mergekit_whatever_the_order_of_models(run, tmp_path, monkeypatch, candidate) -> None:
    pytest.importorskip("mergekit")
    folder = tmp_path / "recipe"
    export(run, candidate, "--to", "mergekit", "--out", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "selfdev_method", raising=False)
    import selfdev_method  # noqa: F401

    config = folder / "mergekit_config.yml"
    merge_with_mergekit(config, tmp_path / "model")
    assert_same(tmp_path / "model", expected(run, candidate))
    head, first, second, tail = split_models(config.read_text())
    config.write_text(head + second + first + tail)
    merge_with_mergekit(config, tmp_path / "swapped")
    assert_same(tmp_path / "swapped", expected(run, candidate))


def split_models(text: str) -> list[str]:
    head, models = text.split("models:\n")
    body, tail = models.split("dtype:", 1)
    parts = body.split("  - model: ")
    return [head + "models:\n", *("  - model: " + part for part in parts[1:]), "dtype:" + tail]


def merge_with_mergekit(config: Path, out: Path) -> None:
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    run_merge(MergeConfiguration.model_validate(yaml.safe_load(config.read_text())), str(out), MergeOptions(quiet=True))


@pytest.mark.slow
@pytest.mark.parametrize("candidate", [LINEAR, TENSORWISE])
def test_the_commands_that_are_printed_merge(run, tmp_path, capsys, candidate) -> None:
    pytest.importorskip("mergekit")
    export(run, candidate, "--to", "mergekit", "--out", str(tmp_path / "recipe"))
    command = capsys.readouterr().out.strip().splitlines()[-1].split(" && ")[1].replace("OUT", str(tmp_path / "model"))
    words = command.split()
    words[0] = str(Path(sys.executable).parent / words[0])
    subprocess.run(words, check=True, cwd=tmp_path / "recipe", timeout=300)
    assert_same(tmp_path / "model", expected(run, candidate))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "nothing"), "allowed: model, python, mergekit, pairs"),
        (("zzz",), "is no id in this run"),
        ((), "has no winner yet"),
        ((GLOBAL, "--to", "mergekit", "--out", "OUT"), "one tensor at a time"),
        (("--to", "pairs", "--out", "OUT"), "holds no preference pairs yet"),
        (("--to", "pairs", LINEAR), "leave 'aaaaaaaaaaaa' out"),
        ((LINEAR, "--out", "."), "exists already"),
        ((LINEAR, "--out", "missing/out"), "existing, writable"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, capsys, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["export", str(run), *arguments])
    assert ended.value.code in (1, 2)
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
    assert list(tmp_path.iterdir()) == []


def test_pairs_load_with_datasets(run, tmp_path) -> None:
    rows = [
        {
            "prompt": "Write.\n", "chosen": f"good {i}", "rejected": f"bad {i}", "chosen_score": 0.5,
            "rejected_score": None if i else 0.25, "chosen_id": "a", "rejected_id": "b",
        }
        for i in range(4)
    ]  # fmt: skip
    (run / "pairs").mkdir()
    try:
        (run / "pairs" / "iteration-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        export(run, "--to", "pairs", "--out", str(tmp_path / "pairs"))
    finally:
        (run / "pairs" / "iteration-1.jsonl").unlink()
        (run / "pairs").rmdir()
    loaded = datasets.load_dataset(str(tmp_path / "pairs"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["chosen"] == [row["chosen"] for row in rows]
    assert loaded["iteration"] == [1] * 4
    assert loaded["rejected_score"] == [0.25, None, None, None]


@pytest.mark.slow
def test_pairs_train_with_trl(tmp_path) -> None:
    from trl import DPOConfig, DPOTrainer

    from selfdev.export.pairs import write_data_set

    row = {"prompt": "Write.\n", "chosen": "yes", "rejected": "no", "chosen_score": 1.0, "rejected_score": 0.0}
    rows = [row | {"chosen_id": "a", "rejected_id": "b", "iteration": 1} for _ in range(4)]
    config = {
        "models": {"seed": "zoo:solver-seed", "sources": []},
        "generate": {"model": "zoo:generator"},
        "task": {"name": "arithmetic"},
        "seed": 0,
    }
    write_data_set(tmp_path, rows, config, "pairs")
    loaded = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    model, tokenizer = load_causal_lm(str(save_tiny(tmp_path / "model")))
    arguments = DPOConfig(
        output_dir=str(tmp_path / "trained"), max_steps=1, per_device_train_batch_size=2, report_to="none",
        use_cpu=True, bf16=False, save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=loaded, processing_class=tokenizer)
    assert trainer.train().global_step == 1


def test_apply_takes_any_file_and_any_models(run, tmp_path, capsys) -> None:
    models = json.loads((run / "config.json").read_text())["models"]
    (tmp_path / "mine.py").write_text("# execution seed: 11 (of the program's own random draws)\n" + PROGRAMS[RANDOM])
    arguments = ["apply", str(tmp_path / "mine.py"), "--seed-model", models["seed"], "--sources", *models["sources"]]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(tmp_path / "out"), "--threads", "1"])
    assert not ended.value.code
    assert_same(tmp_path / "out", expected(run, RANDOM))
    printed = capsys.readouterr().out
    assert "whole model" in printed
    assert printed.index("peak memory") < printed.index("merged model")
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "exists already" in capsys.readouterr().err

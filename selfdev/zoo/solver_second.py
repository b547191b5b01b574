"""A second set of siblings of `solver-seed`, for `selfdev transfer`: there, what a search found on the first is tried.

Each is fine-tuned on two of the three skills at once, on other problems than the first set's, so that its task vector
overlaps with both others'. The recipe was fixed before any search result was looked at and is not changed for one.
Stored in float16, which halves the files; measured as stored. Writes standard Hugging Face directories, a README.md in
each, and `solver-second-figures.json`. CPU, one thread, so that the same versions give the same bits.

    selfdev zoo build --only second-solvers --out DIR
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from selfdev.tasks.arithmetic import SKILLS, questions
from selfdev.zoo import solver
from selfdev.zoo.solver_measure import Figures, MergeBench, measure, task_arithmetic_grid
from selfdev.zoo.solver_rules import linear
from selfdev.zoo.solver_train import Stage

# --- the recipe -----------------------------------------------------------------------------------------------------
PAIRS = (("add", "sub"), ("add", "mul"), ("sub", "mul"))
FIRST_STREAM = 11  # of the training seeds, beyond those of the first set
FIGURES_FILE = "solver-second-figures.json"


def pair_name(pair: tuple[str, str]) -> str:
    """Directory name of the sibling fine-tuned on two skills."""
    return f"solver-{pair[0]}-{pair[1]}"


def pair_stage(pair: tuple[str, str]) -> Stage:
    """As the first set's, with the own share split between two skills; steps are the mean of theirs."""
    others = (1 - solver.OWN_SHARE - solver.REPLAY_SHARE) / len(SKILLS)
    mix = {name: others + (solver.OWN_SHARE / 2 if name in pair else 0.0) for name in SKILLS}
    steps = sum(solver.SIBLING_STEPS[name] for name in pair) // 2
    return Stage(mix=mix, steps=steps, learning_rate=solver.SIBLING_RATE, replay=solver.REPLAY_SHARE)


def build_second(root: Path, out: Path, seed: int = 0, progress: solver.Progress = lambda _: None) -> Figures:
    """Fine-tune, measure and write the three siblings below `out`; directories that exist are replaced.

    Args:
        root: directory of `solver-seed`.
        out: directory that receives one directory per pair of skills, and the figures file.
        seed: of batches and problems measured; 0 gives the shipped models.
        progress: gets one line of text now and then.

    Returns:
        What was written to the figures file.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(root, local_files_only=True)
    family, training = {}, {}
    with solver._one_thread():
        for number, pair in enumerate(PAIRS):
            model = _open(root)
            name = pair_name(pair)
            training[name] = solver._train(
                model, tokenizer, pair_stage(pair), seed * 100 + FIRST_STREAM + number, name, progress
            )
            family[name] = model.half().float()  # what float16 keeps of it
        measured = _measure(_open(root), family, tokenizer, seed, progress)
    figures: Figures = {
        "command": f"selfdev zoo build --only second-solvers --out DIR --seed {seed}",
        **measured,
        "training": training,
        "versions": solver.versions(),
        "seconds": round(time.monotonic() - started, 1),
    }
    for pair in PAIRS:
        name = pair_name(pair)
        solver._write_model(out / name, family[name].half(), tokenizer, _readme(name, pair_stage(pair), figures))
        for file in ("tokenizer.json", "tokenizer_config.json"):  # loaded and saved again it has further keys
            shutil.copyfile(root / file, out / name / file)
    solver._write_figures(out / FIGURES_FILE, figures)
    return figures


def _open(root: Path) -> LlamaForCausalLM:
    model: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(root, dtype=torch.float32, local_files_only=True)
    return model.eval()


def _measure(
    root: LlamaForCausalLM,
    family: Mapping[str, LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    progress: solver.Progress,
) -> Figures:
    """Seed, siblings, their average and Task Arithmetic's grid, on the questions that the first set was measured on."""
    dev, test = questions("dev", solver.DEV_PROBLEMS, seed), questions("test", solver.TEST_PROBLEMS, seed)
    models = {}
    for name, model in [(solver.SEED_NAME, root), *family.items()]:
        models[name] = {
            part: measure(model, tokenizer, asked).figures() for part, asked in (("dev", dev), ("test", test))
        }
        progress(f"{name}: test {models[name]['test']}")
    bench = MergeBench(root, family, tokenizer, dev, test)
    count = len(family)
    merges = {
        "uniform_average": bench.family({"1/3": linear([1 / count] * count)}),
        "task_arithmetic_grid": bench.family(task_arithmetic_grid(count)),
    }
    for name, entry in merges.items():
        progress(f"{name}: dev {entry['dev_best']}, test {entry['test_of_best']}")
    return {"models": models, "merges": merges}


def _readme(name: str, stage: Stage, figures: Figures) -> str:
    models, merges = figures["models"], figures["merges"]
    assert isinstance(models, dict)
    assert isinstance(merges, dict)
    rows = {model: entry["test"] for model, entry in models.items()}
    rows["uniform average"] = merges["uniform_average"]["test_of_best"]
    rows["best of Task Arithmetic's 27 points"] = merges["task_arithmetic_grid"]["test_of_best"]
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A sibling of `{solver.SEED_NAME}` on two skills at once, stored in float16; of the second set in selfdev's embedded zoo,
made to try merge algorithms on that were found on the first (`solver-add`, `solver-sub`, `solver-mul`). Of no other
use. Licence: Apache-2.0. All training data is generated by `selfdev.tasks.arithmetic`.

## Recipe

Fine-tuned from `{solver.SEED_NAME}`: {solver._stage_words(stage)}. Rebuild with
`selfdev zoo build --only second-solvers --out DIR` (seeded).

## Figures

Greedy, exact match, {solver.TEST_PROBLEMS} test problems in equal parts of the skills; merges of this set were chosen
on {solver.DEV_PROBLEMS} dev problems. Everything measured is in `{FIGURES_FILE}` beside this directory.

{solver.table_of(rows)}
"""

"""The embedded solver family: one tiny Llama seed and three siblings fine-tuned from it, rebuilt from nothing.

The seed knows three of six wordings of every skill; each sibling is fine-tuned mostly on all wordings of its own skill,
so it gains most there and far less elsewhere, and averaging the siblings interferes (multiplication falls back to about
what the seed knows). A jointly fine-tuned model is trained
and measured as an upper bound but not shipped. The recipe is fixed by the aims written in the figures file, never by
the result of a search with selfdev. Writes standard Hugging Face directories, a README.md in each, and
`solver-figures.json` with everything measured. CPU, one thread, so that the same versions give the same bits.

    python -m selfdev.zoo.solver --out DIR
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfdev.tasks.arithmetic import SKILLS, assert_disjoint, prompt, questions
from selfdev.zoo.solver_measure import (
    MAX_NEW_TOKENS,
    Figures,
    MergeBench,
    Tally,
    measure,
    random_coefficients,
    smart_rules,
    task_arithmetic_grid,
)
from selfdev.zoo.solver_rules import linear
from selfdev.zoo.solver_tokenizer import build_tokenizer
from selfdev.zoo.solver_train import REPLAY_TEMPLATES, Stage, train

Progress = Callable[[str], None]

# --- the recipe -----------------------------------------------------------------------------------------------------
CONTEXT = 256  # tokens
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.05,  # 0.02, the default, learns slower at this width
}
TOKENIZER_PROBLEMS = 6_000
SEED_STAGE = Stage(mix={"add": 2, "sub": 2, "mul": 2}, steps=1_400, learning_rate=2e-3, templates=REPLAY_TEMPLATES)
OWN_SHARE = 0.7  # of a sibling's problems; the rest is split between all skills and what the seed saw
REPLAY_SHARE = 0.2
SIBLING_STEPS = {"add": 240, "sub": 320, "mul": 360}  # multiplication is learnt last
SIBLING_RATE = 6e-4
JOINT_STAGE = Stage(mix=dict.fromkeys(SKILLS, 1.0), steps=sum(SIBLING_STEPS.values()), learning_rate=SIBLING_RATE)
# --- how it is measured ---------------------------------------------------------------------------------------------
DEV_PROBLEMS, TEST_PROBLEMS = 300, 900
RANDOM_COEFFICIENTS = 100
FIGURES_FILE = "solver-figures.json"
SEED_NAME = "solver-seed"
AIMS = {
    "seed": "20-50 % on the mixed test",
    "siblings": "each at least 75 % on its own skill and best of all there",
    "joint": "the jointly fine-tuned upper bound at least 10 points above the best baseline",
}


def sibling_name(skill: str) -> str:
    """Directory name of the sibling fine-tuned on `skill`."""
    return f"solver-{skill}"


def sibling_stage(skill: str) -> Stage:
    """Fine-tuning of one sibling: mostly its own skill, some of all, some of what the seed saw."""
    others = (1 - OWN_SHARE - REPLAY_SHARE) / len(SKILLS)
    mix = {name: others + (OWN_SHARE if name == skill else 0.0) for name in SKILLS}
    return Stage(mix=mix, steps=SIBLING_STEPS[skill], learning_rate=SIBLING_RATE, replay=REPLAY_SHARE)


def _new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **SHAPE,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model


def _tokenizer() -> PreTrainedTokenizerFast:
    corpus = [prompt(p) + p.rationale for p in questions("train", TOKENIZER_PROBLEMS, seed=0)]
    return build_tokenizer(corpus, CONTEXT)


def _train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, stage: Stage, seed: int, label: str, progress: Progress
) -> Figures:
    def report(step: int, loss: float) -> None:
        if step % 100 == 0 or step == stage.steps:
            progress(f"{label}: step {step}/{stage.steps}, loss {loss:.3f}")

    started = time.monotonic()
    train(model, tokenizer, stage, seed, report)
    return {"stage": asdict(stage), "seconds": round(time.monotonic() - started, 1)}


def _train_family(
    tokenizer: PreTrainedTokenizerFast, seed: int, progress: Progress
) -> tuple[dict[str, LlamaForCausalLM], LlamaForCausalLM, dict[str, Figures]]:
    """Shipped models by name (the seed first), the joint upper bound, and what each training cost."""
    root = _new_model(tokenizer, seed)
    training = {SEED_NAME: _train(root, tokenizer, SEED_STAGE, seed * 100, SEED_NAME, progress)}
    family = {SEED_NAME: root}
    for number, skill in enumerate(SKILLS, start=1):
        name = sibling_name(skill)
        family[name] = copy.deepcopy(root)
        training[name] = _train(family[name], tokenizer, sibling_stage(skill), seed * 100 + number, name, progress)
    joint = copy.deepcopy(root)
    training["joint"] = _train(joint, tokenizer, JOINT_STAGE, seed * 100 + len(SKILLS) + 1, "joint", progress)
    return family, joint, training


def _measure_family(
    family: Mapping[str, LlamaForCausalLM],
    joint: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    progress: Progress,
) -> Figures:
    dev, test = questions("dev", DEV_PROBLEMS, seed), questions("test", TEST_PROBLEMS, seed)
    assert_disjoint({"dev": dev, "test": test})

    def both(model: LlamaForCausalLM) -> tuple[Figures, Tally]:
        tally = measure(model, tokenizer, test)
        return {"dev": measure(model, tokenizer, dev).figures(), "test": tally.figures()}, tally

    models: dict[str, Figures] = {}
    shares: dict[str, float] = {}
    for name, model in [*family.items(), ("joint", joint)]:
        models[name], tally = both(model)
        shares[name] = tally.share
        progress(f"{name}: test {tally.share:.3f} {models[name]['test']}")
    sources = {name: model for name, model in family.items() if name != SEED_NAME}
    bench = MergeBench(family[SEED_NAME], sources, tokenizer, dev, test)
    count = len(sources)
    merges = {
        "uniform_average": bench.family({"1/3": linear([1 / count] * count)}),
        "task_arithmetic_grid": bench.family(task_arithmetic_grid(count)),
        "random_coefficients": bench.family(random_coefficients(count, RANDOM_COEFFICIENTS, seed)),
        "smart_rules": bench.family(smart_rules(count, seed), progress),
    }
    baselines = {name: share for name, share in shares.items() if name != "joint"}
    for name in ("uniform_average", "task_arithmetic_grid"):
        test_of_best = merges[name]["test_of_best"]
        assert isinstance(test_of_best, dict)
        baselines[name] = test_of_best["share"]
        progress(f"{name}: dev {merges[name]['dev_best']}, test {baselines[name]}")
    best = max(baselines, key=lambda name: baselines[name])
    return {
        "models": models,
        "merges": merges,
        "best_baseline": {"name": best, "test": round(baselines[best], 4)},
        "joint_minus_best_baseline": round(shares["joint"] - baselines[best], 4),
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order: more threads would give other bits on machines with other core counts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _replace(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a temporary sibling directory, then put it in the place of `target`."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        if target.exists():
            old = temporary.with_name(temporary.name + "-old")
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_tokenizer(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save under the class name that transformers 4 and 5 both know; 5 alone would write its own."""
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write_model(target: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, readme: str) -> None:
    def fill(directory: Path) -> None:
        model.save_pretrained(directory)
        _write_tokenizer(directory, tokenizer)
        (directory / "README.md").write_text(readme, encoding="utf-8")
        for file in directory.iterdir():
            file.chmod(0o644)  # safetensors writes for the owner alone

    _replace(target, fill)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _figures_table(figures: Mapping[str, object]) -> str:
    models = figures["models"]
    merges = figures["merges"]
    assert isinstance(models, dict)
    assert isinstance(merges, dict)
    rows = {name: entry["test"] for name, entry in models.items()}
    rows["uniform average"] = merges["uniform_average"]["test_of_best"]
    rows["best of Task Arithmetic's 27 points"] = merges["task_arithmetic_grid"]["test_of_best"]
    rows[f"best of {RANDOM_COEFFICIENTS} random coefficients"] = merges["random_coefficients"]["test_of_best"]
    rows[f"best of {merges['smart_rules']['members']} smarter rules"] = merges["smart_rules"]["test_of_best"]
    return table_of(rows)


def table_of(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of test figures: one line per model or merge."""
    lines = [f"| model | test % (95 %) | {' | '.join(SKILLS)} |", "|---|---|" + "---|" * len(SKILLS)]
    for name, entry in rows.items():
        low, high = entry["interval_95"]
        shares = " | ".join(_percent(entry["by_skill"][skill]) for skill in SKILLS)
        lines.append(f"| {name} | {_percent(entry['share'])} ({_percent(low)}-{_percent(high)}) | {shares} |")
    return "\n".join(lines)


def _stage_words(stage: Stage) -> str:
    whole = sum(stage.mix.values())
    mix = ", ".join(f"{name} {(1 - stage.replay) * weight / whole:.0%}" for name, weight in stage.mix.items())
    wordings = "all six wordings" if stage.templates is None else f"the first {stage.templates} of six wordings"
    replay = f", {stage.replay:.0%} repeating the seed's {REPLAY_TEMPLATES} wordings" if stage.replay else ""
    return (
        f"{stage.steps} steps of {stage.batch} problems ({mix} in {wordings} of each skill{replay}), AdamW, peak "
        f"learning rate {stage.learning_rate:g}, cosine decay, loss on the answer only"
    )


def _readme(name: str, stage: Stage, parameters: int, figures: Mapping[str, object]) -> str:
    origin = "Trained from random weights" if name == SEED_NAME else f"Fine-tuned from `{SEED_NAME}`"
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A {parameters:,}-parameter Llama that answers generated word problems in the shape of GSM8K; part of selfdev's embedded
zoo, made to study model merging without a GPU. Of no other use. Licence: Apache-2.0. All training data is generated
by `selfdev.tasks.arithmetic`.

## Recipe

{origin}: {_stage_words(stage)}. Prompts read `Question: ...\\nAnswer:`, answers
` 23 + 45 = 68\\n#### 68`. Rebuild with `python -m selfdev.zoo.solver --out DIR` (seeded).

## Figures

Greedy, exact match, {TEST_PROBLEMS} test problems in equal parts of the skills; merges were chosen on {DEV_PROBLEMS}
dev problems. `joint` is the upper bound fine-tuned on all skills; it is not shipped. Everything measured is in
`{FIGURES_FILE}` beside this directory.

{_figures_table(figures)}
"""


def build_solvers(out: Path, seed: int = 0, progress: Progress = lambda _: None) -> Figures:
    """Train, measure and write the whole family below `out`; directories that exist are replaced.

    Args:
        out: directory that receives `solver-seed`, one `solver-SKILL` per skill, and the figures file.
        seed: of weights, batches and problems measured; 0 gives the shipped models.
        progress: gets one line of text now and then.

    Returns:
        What was written to the figures file.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with _one_thread():
        tokenizer = _tokenizer()
        family, joint, training = _train_family(tokenizer, seed, progress)
        measured = _measure_family(family, joint, tokenizer, seed, progress)
    parameters = sum(p.numel() for p in family[SEED_NAME].parameters())
    figures: Figures = {
        "command": f"python -m selfdev.zoo.solver --out DIR --seed {seed}",
        "aims": AIMS,
        "parameters": parameters,
        **measured,
        "training": training,
        "versions": versions(),
        "seconds": round(time.monotonic() - started, 1),
    }
    stages = {SEED_NAME: SEED_STAGE, **{sibling_name(skill): sibling_stage(skill) for skill in SKILLS}}
    for name, model in family.items():
        _write_model(out / name, model, tokenizer, _readme(name, stages[name], parameters, figures))
    _write_figures(out / FIGURES_FILE, figures)
    return figures


def versions() -> dict[str, str]:
    """Of what decides the bits."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


def _write_figures(path: Path, figures: Figures) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for the models")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    build_solvers(arguments.out, arguments.seed, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()

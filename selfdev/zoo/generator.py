"""Build the zoo's generator: tokenizer, pretraining, measurement, model card.

`build_generator(out)` writes one standard model directory and, beside it, a JSON file of measured figures. The shipped
directory is what the default `Recipe` gives. On another processor the last bits of a sum differ, so a rebuild agrees in
its figures and not in its bytes.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers import __version__ as transformers_version

from selfdev.errors import ModelError, UsageError
from selfdev.generate import temperature as schedule
from selfdev.prompting import render_prompt, text_hash
from selfdev.zoo.generator_card import model_card
from selfdev.zoo.generator_measure import Runner, run_in_sandbox, sample_texts, summarise
from selfdev.zoo.generator_tokenizer import train_tokenizer
from selfdev.zoo.generator_training import Progress, Recipe, train

PROMPT = "generator/merge.md.jinja"
COMMAND = "selfdev zoo build"
# What three iterations of the demo use: 1.2, 1.0, 0.857.
TEMPERATURES = tuple(round(schedule(iteration), 3) for iteration in (3, 2, 1))

Report = Callable[[str], None]


def build_generator(
    out: Path,
    seed: int = 0,
    steps: int | None = None,
    samples: int = 400,
    report: Report | None = None,
    run: Runner = run_in_sandbox,
) -> dict[str, Any]:
    """Train the generator and write its directory; the old one is replaced only by a complete new one.

    Args:
        out: the model directory; the figures go to `<out>-figures.json` beside it.
        seed: of the tokenizer's text, the weights and the training stream.
        steps: training steps; None for the recipe of the shipped model (about 45 minutes on one core).
        samples: programs sampled per temperature for the figures.
        report: takes one line of progress at a time.
        run: how sampled programs are checked.

    Returns:
        The figures, as written.

    Raises:
        UsageError: fewer than one step or sample.
        ModelError: `out` cannot be written.
    """
    if samples < 1 or (steps is not None and steps < 1):
        raise UsageError(f"cannot build a generator with steps {steps} and samples {samples}: give 1 or more of each")
    recipe = Recipe(seed=seed) if steps is None else Recipe(seed=seed, steps=steps)
    prompt = render_prompt(PROMPT)
    staging = _staging(out)
    try:
        tokenizer = train_tokenizer(prompt, recipe.seed, recipe.tokenizer_programs)
        model, last = train(recipe, prompt, tokenizer, _reporter(recipe, report))
        figures = publish(model, tokenizer, recipe, last, out, samples, staging=staging, run=run)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return figures


def publish(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    last: Progress,
    out: Path,
    samples: int,
    *,
    staging: Path | None = None,
    run: Runner = run_in_sandbox,
) -> dict[str, Any]:
    """Measure a trained model and put its directory and its figures in place."""
    staging = staging or _staging(out)
    prompt = render_prompt(PROMPT)
    _round_to_bfloat16(model)  # what is measured is what is shipped
    figures = {
        "command": COMMAND,
        "recipe": asdict(recipe),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "prompt_sha256": text_hash(prompt),
        "training": asdict(last),
        "sampling": measure(model, tokenizer, prompt, samples, run),
        "versions": _versions(),
    }
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(staging)
    _save_tokenizer(tokenizer, staging)
    (staging / "README.md").write_text(model_card(figures), "utf-8")
    for file in staging.iterdir():
        file.chmod(0o644)
    _replace(staging, out)
    out.with_name(f"{out.name}-figures.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return figures


def _round_to_bfloat16(model: LlamaForCausalLM) -> None:
    """Weights that bfloat16 holds exactly: half the file, the same model when it is loaded in float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    samples: int,
    run: Runner = run_in_sandbox,
    temperatures: Sequence[float] = TEMPERATURES,
) -> dict[str, dict[str, Any]]:
    """Valid and distinct shares of `samples` programs at each temperature."""
    return {
        str(value): summarise(sample_texts(model, tokenizer, prompt, samples, value), run) for value in temperatures
    }


def _reporter(recipe: Recipe, report: Report | None) -> Callable[[Progress, LlamaForCausalLM], None] | None:
    if report is None:
        return None
    return lambda now, _: report(
        f"generator: step {now.step}/{recipe.steps}, loss {now.loss:.3f} nats per token, "
        f"{now.tokens:,} tokens, {now.seconds:.0f} s"
    )


def _staging(out: Path) -> Path:
    """A fresh directory on the same file system as `out`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ModelError(f"cannot write the generator to {out}: {error.strerror}; choose another folder") from None
    staging.chmod(0o755)
    return staging


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save it under the class name that every version of transformers knows, without traces of where it was made."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = {key: value for key, value in json.loads(path.read_text("utf-8")).items() if not key.startswith("local")}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("is_local", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _replace(staging: Path, out: Path) -> None:
    """Put a complete directory in place of an old one."""
    old = staging.with_name(staging.name + "-old")
    if out.exists():
        out.rename(old)
    staging.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _versions() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers_version,
        "machine": platform.machine(),
    }

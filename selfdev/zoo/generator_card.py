"""The README of the zoo's generator, written from its measured figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [code, model-merging, selfdev]
---

# selfdev zoo: generator

A Llama of {parameters:,} parameters that writes merge programs: Python functions
`merge_models(task_vectors)` that combine the task vectors of fine-tuned models into one. It is the untrained generator
of selfdev's demo: small enough to sample hundreds of programs and to be trained with DPO on one processor core. It
knows nothing else.

## Use

The prompt is `prompts/{prompt}` of the repository, as it is. The model continues after its opening
fence and ends with a closing fence and `<|eos|>`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
inputs = tokenizer(prompt, return_tensors="pt")
output = model.generate(**inputs, do_sample=True, temperature=1.0, max_new_tokens=320)
```

The programs are untrusted: run them in the sandbox.

## Recipe

- Text: programs of a seeded grammar (`selfdev/zoo/grammar.py`), each seen once; no other data.
- Tokenizer: byte-level BPE, 1,024 tokens, trained on the grammar's programs and the prompt.
- Model: {layers} layers, width {hidden}, MLP {intermediate}, {heads} heads, tied embeddings;
  weights stored in bfloat16, measured in float32.
- Training: {steps:,} steps of {batch} programs, seed {seed}, each program as the continuation of the prompt
  ({bare:.0%} of the steps: of the opening fence alone); Muon {muon_lr} for matrices, AdamW {adam_lr} for the rest,
  linear decay over the last {decay:.0%}.
- Seen: {tokens:,} completion tokens in {minutes:.0f} minutes on one core; last training loss {loss:.3f} nats per token
  (the grammar's own entropy is at most {entropy} nats per token).
- Rebuild: `{command}`

## Measured

Programs sampled after the prompt, no top-k or top-p, run on three random task vectors. Valid: the sandbox took the
result. Distinct: results that differ in four digits, as a share of the valid ones.

| temperature | samples | valid | 95 % interval | distinct | truncated |
| --- | --- | --- | --- | --- | --- |
{rows}

All figures, failures included: `generator-figures.json` beside this directory.

## Limits

The programs combine known operations in new ways; which of them merge well is not known to the model. Prompts other
than the fixed one and the bare fence were never seen in training.

Licence: Apache-2.0.
"""

# Nats per token, from the probabilities of the choices of 3,000 programs; spellings that coincide make it a bound.
GRAMMAR_ENTROPY = 0.217


def model_card(figures: Mapping[str, Any]) -> str:
    """The card for one set of figures (as `selfdev.zoo.generator.publish` writes them)."""
    recipe, training = figures["recipe"], figures["training"]
    rows = "\n".join(_row(value, result) for value, result in figures["sampling"].items())
    return CARD.format(
        parameters=figures["parameters"],
        prompt="generator/merge.md.jinja",
        layers=recipe["layers"],
        hidden=recipe["hidden"],
        intermediate=recipe["intermediate"],
        heads=recipe["heads"],
        steps=recipe["steps"],
        batch=recipe["batch"],
        seed=recipe["seed"],
        bare=recipe["bare_share"],
        muon_lr=recipe["muon_lr"],
        adam_lr=recipe["adam_lr"],
        decay=recipe["decay_share"],
        tokens=training["tokens"],
        minutes=training["seconds"] / 60,
        loss=training["loss"],
        entropy=GRAMMAR_ENTROPY,
        command=figures["command"],
        rows=rows,
    )


def _row(temperature: str, result: Mapping[str, Any]) -> str:
    low, high = result["valid_interval_95"]
    distinct = result["distinct_of_valid"]
    return (
        f"| {temperature} | {result['samples']} | {result['valid_share']:.1%} | {low:.1%} to {high:.1%} "
        f"| {'-' if distinct is None else format(distinct, '.1%')} | {result['truncated']} |"
    )

"""How often the zoo's generator writes a valid merge, and how different the merges are.

Programs are sampled after the fixed prompt and run in the sandbox on random task vectors shaped like a small Llama;
valid means: the sandbox accepted the result (names, shapes, dtype, finite values). Two valid programs are the same
when their results agree to four digits. Left out: whether a merge is any good; that is the loop's job.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfdev.generate import extract_program
from selfdev.stats import wilson_interval

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SHAPES: Mapping[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (64, 32),
    "model.layers.0.self_attn.q_proj.weight": (32, 32),
    "model.layers.0.mlp.up_proj.weight": (48, 32),
    "model.layers.1.self_attn.o_proj.weight": (32, 32),
    "model.layers.1.mlp.down_proj.weight": (32, 48),
    "model.layers.1.input_layernorm.weight": (32,),
    "model.norm.weight": (32,),
}
DIGITS = 4


@dataclass(frozen=True)
class Verdict:
    """What came of one program."""

    status: str
    """A status of the sandbox, or `no_code`."""
    error: str | None = None
    fingerprint: str | None = None
    """Of the rounded result; set when the status is `ok`."""


Runner = Callable[[Sequence[str]], list[Verdict]]


def task_vectors(sources: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """Random task vectors of different sizes with `SHAPES`, 0.02 * randn and smaller for later sources."""
    random = torch.Generator().manual_seed(seed)
    return [
        {name: (0.02 * 0.8**i * torch.randn(shape, generator=random)).to(dtype) for name, shape in SHAPES.items()}
        for i in range(sources)
    ]


def fingerprint(merged: Mapping[str, Tensor]) -> str:
    """Hash of a merged task vector, `DIGITS` significant digits of the largest entry of each tensor."""
    digest = hashlib.sha256()
    for name in SHAPES:
        tensor = merged[name].double()
        unit = 10.0 ** (torch.floor(torch.log10(tensor.abs().max() + 1e-30)) - DIGITS + 1)
        digest.update((tensor / unit).round().to(torch.int64).numpy().tobytes())
    return digest.hexdigest()[:16]


def run_in_sandbox(programs: Sequence[str]) -> list[Verdict]:
    """Run every program in the sandbox on `task_vectors()`."""
    from selfdev_sandbox import Limits, Sandbox

    vectors = task_vectors()
    verdicts = []
    with Sandbox(limits=Limits(seconds=10.0)) as box:
        for program in programs:
            outcome = box.run(program, vectors, seed=0)
            mark = fingerprint(outcome.result) if outcome.result is not None else None
            verdicts.append(Verdict(str(outcome.status), outcome.error, mark))
    return verdicts


@torch.no_grad()
def sample_texts(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    samples: int,
    temperature: float,
    seed: int = 0,
    batch: int = 64,
    max_new_tokens: int = 320,
) -> Iterator[tuple[str, bool]]:
    """Sampled completions and whether the token limit ended them (no top-k, no top-p)."""
    torch.manual_seed(seed)
    ids = torch.tensor(tokenizer(prompt)["input_ids"])
    for start in range(0, samples, batch):
        rows = min(batch, samples - start)
        out = model.generate(
            input_ids=ids.expand(rows, -1),
            attention_mask=torch.ones(rows, len(ids), dtype=torch.long),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_new_tokens,
        )
        for row in out[:, len(ids) :].tolist():
            yield tokenizer.decode(row, skip_special_tokens=True), tokenizer.eos_token_id not in row


def summarise(texts: Iterable[tuple[str, bool]], run: Runner) -> dict[str, Any]:
    """Valid and distinct shares of sampled completions, with the kinds of failure."""
    pairs = list(texts)
    programs = [extract_program(text) for text, _ in pairs]
    ran = iter(run([program for program in programs if program is not None]))
    verdicts = [Verdict("no_code") if program is None else next(ran) for program in programs]
    marks = [verdict.fingerprint for verdict in verdicts if verdict.fingerprint is not None]
    low, high = wilson_interval(len(marks), len(verdicts))
    return {
        "samples": len(verdicts),
        "valid": len(marks),
        "valid_share": round(len(marks) / len(verdicts), 4),
        "valid_interval_95": [round(low, 4), round(high, 4)],
        "distinct_of_valid": round(len(set(marks)) / len(marks), 4) if marks else None,
        "truncated": sum(cut for _, cut in pairs),
        "statuses": dict(Counter(verdict.status for verdict in verdicts).most_common()),
        "error_kinds": dict(Counter(map(_kind, verdicts)).most_common(12)),
    }


def _kind(verdict: Verdict) -> str:
    """`NameError`, `SyntaxError` ...: the start of the error line, or the status."""
    head = (verdict.error or verdict.status).split(":")[0]
    return head if len(head) <= 40 else verdict.status

"""The card of a merged model: what it was made from and how, with the scores that are known."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from selfdev.apply.merge import Report, Request
from selfdev.export.licences import licence_of, union
from selfdev.models import ZOO_PREFIX, fingerprint, local_directory, resolve
from selfdev.score import Score

PACKAGES = ("selfdev", "torch", "transformers", "safetensors", "RestrictedPython")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN = 400  # coefficients as text, in characters


@dataclass(frozen=True, slots=True)
class Parent:
    """One model that went into a merge."""

    ref: str  # as given
    name: str  # without directories of this machine: a hub id, zoo:NAME or the directory's name
    hub_id: str | None
    revision: str | None  # commit of the hub's snapshot
    sha256: str  # of weights, configuration and tokenizer
    licence: str | None


@dataclass(frozen=True, slots=True)
class Scores:
    """What a run measured."""

    task: str
    dev: Score | None
    test: Score | None
    openings: int  # how often the test answers had been opened
    seed_dev: Score | None = None
    seed_test: Score | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """Everything a card says."""

    title: str
    algorithm_name: str
    algorithm: str  # source text
    parents: Sequence[Parent]  # the seed first
    request: Request
    report: Report
    scores: Scores | None = None
    run_seed: int | None = None
    notes: Sequence[str] = ()


def parents(seed: str, sources: Sequence[str]) -> list[Parent]:
    """The models of a merge, the seed first, with revisions, hashes and licences."""
    return [_parent(ref) for ref in (seed, *sources)]


def _parent(ref: str) -> Parent:
    directory = local_directory(ref)
    on_hub = not Path(resolve(ref)).is_dir()
    revision = directory.name if on_hub and _COMMIT.fullmatch(directory.name) else None
    hub_id = ref.partition("@")[0] if on_hub else None
    name = hub_id or (ref if ref.startswith(ZOO_PREFIX) or not Path(ref).exists() else directory.resolve().name)
    return Parent(ref, name, hub_id, revision, fingerprint(ref), licence_of(directory))


def write_card(directory: Path, card: Card) -> None:
    """Write README.md into a model directory."""
    (directory / "README.md").write_text(card_text(card), encoding="utf-8", newline="\n")


def card_text(card: Card) -> str:
    """The card as Markdown with front matter."""
    joined = union({parent.name: parent.licence for parent in card.parents})
    parts = [_front_matter(card, joined.licence, joined.name), f"# {card.title}\n"]
    parts.append(
        f"A merge of {len(card.parents) - 1} models fine-tuned from `{card.parents[0].name}`, made by `selfdev` with "
        f"the algorithm {card.algorithm_name}. No training took place.\n"
    )
    if card.scores is not None:
        parts.append(_scores(card.scores))
    parts.append(_parents(card.parents))
    parts.append("## Licences\n\n" + "".join(f"- {text}\n" for text in joined.conflicts or ("All parents agree.",)))
    parts.append(_how(card))
    if card.notes:
        parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in card.notes))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", card.algorithm)), default=0))
    parts.append(f"## Algorithm\n\n{fence}python\n{card.algorithm.strip()}\n{fence}\n")
    return "\n".join(parts)


def _front_matter(card: Card, licence: str, licence_name: str | None) -> str:
    lines = ["---", "base_model:"]
    lines += [f"- {json.dumps(parent.hub_id or parent.name)}" for parent in card.parents]
    lines += ["base_model_relation: merge", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags:", "- merge", "- selfdev", f"license: {json.dumps(licence)}"]
    if licence_name is not None:
        lines.append(f"license_name: {json.dumps(licence_name)}")
    return "\n".join([*lines, "---", ""])


def _scores(scores: Scores) -> str:
    rows = [
        f"| {split} | {who} | {score.correct}/{score.total} | {score.correct / score.total:.4f} | "
        f"{score.interval[0]:.4f} to {score.interval[1]:.4f} | {score.truncated} | {score.unparsable} |"
        for split, who, score in (
            ("dev", "this merge", scores.dev),
            ("dev", "seed model", scores.seed_dev),
            ("test", "this merge", scores.test),
            ("test", "seed model", scores.seed_test),
        )
        if score is not None and score.total
    ]
    header = "| split | model | correct | accuracy | 95 % interval | cut | unparsable |\n|---|---|---|---|---|---|---|"
    told = [f"## Scores\n\nTask: {scores.task}.\n", header, *rows, ""]
    if scores.test is None:
        told.append(
            "It was not scored on test. The dev score chose it among many, so it is too good: a winner's curse."
        )
    else:
        told.append("The dev score chose it among many, so it is too good; the test score is the one to quote.")
    times = "once" if scores.openings == 1 else f"{scores.openings} times"
    told.append(f"The run's test answers had been opened {times} when this was written.\n")
    return "\n".join(told)


def _parents(found: Sequence[Parent]) -> str:
    rows = "\n".join(
        f"| {'seed' if i == 0 else f'source {i}'} | `{p.name}` | {p.revision or '-'} | {p.licence or 'not stated'} | "
        f"`{p.sha256}` |"
        for i, p in enumerate(found)
    )
    header = (
        "| role | model | revision | licence | SHA-256 of weights, configuration, tokenizer |\n|---|---|---|---|---|"
    )
    return f"## Parents\n\nIn the order that the algorithm sees.\n\n{header}\n{rows}\n"


def _how(card: Card) -> str:
    request, report = card.request, card.report
    scope = request.scope if isinstance(request.scope, str) else ", ".join(request.scope)
    facts = {
        "applied": f"{report.way}{'' if report.note is None else f' ({report.note})'}",
        "scope": scope,
        "seed of the algorithm's random draws": str(request.execution_seed),
        "seed of the run": None if card.run_seed is None else str(card.run_seed),
        "SHA-256 of the algorithm": hashlib.sha256(card.algorithm.encode()).hexdigest(),
        "SHA-256 of the merged task vector": report.result_hash,
        "coefficients": _coefficients(report.coefficients),
        "threads": str(torch.get_num_threads()),
        "versions": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    }
    return "## How it was made\n\n" + "".join(f"- {what}: {told}\n" for what, told in facts.items() if told is not None)


def _coefficients(found: Mapping[str, tuple[float, ...]] | None) -> str | None:
    if found is None:
        return None
    distinct = sorted(set(found.values()))
    if len(distinct) == 1:
        return "linear, one per source: " + ", ".join(f"{c:.6g}" for c in distinct[0])
    text = "; ".join(", ".join(f"{c:.6g}" for c in row) for row in distinct)
    return f"linear, {len(distinct)} sets by parameter" + (f": {text}" if len(text) <= _SHOWN else "")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"

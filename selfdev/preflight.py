"""Everything that can be told about a run's models before it starts, in one pass: each finding with its mend.

Shapes and dtypes come from the files' headers. Of the weights a few matrices are read, for the distance from the seed;
all of them only where a model turns out to be the same as another. Left out: what needs the models to answer, which is
the evaluator's self-check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch

from selfdev.config import RunConfig
from selfdev.errors import ModelError
from selfdev.models import (
    load_config,
    load_tokenizer,
    local_directory,
    parameter_groups,
    read_headers,
    read_weights,
)
from selfdev.task_vectors import Scope, in_scope

# Of the seed's norm, over the matrices looked at. Fine-tuning moves by a few percent; two models trained apart are
# sqrt(2) from each other where their norms are equal.
FAR, UNRELATED = 0.3, 0.9
LOOKED_AT = 6  # matrices, spread over the depth
_PART = 1 << 22  # elements that are compared at once
OTHER_TOKENIZER = 0.01  # share of the common ids that mean something else
_HEAD = "lm_head.weight"
_FLOATS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_Headers = Mapping[str, tuple[torch.Size, str]]
_Groups = Mapping[str, tuple[torch.Size, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a model that a person should know before a run."""

    level: Literal["error", "warning"]
    problem: str  # which model, and what
    mend: str

    def __str__(self) -> str:
        return f"{self.level}: {self.problem}; {self.mend}"


@dataclass(frozen=True, slots=True)
class _Model:
    """What is known without reading weights."""

    ref: str
    config: Any
    groups: _Groups
    headers: _Headers
    tokenizer: Any  # None where there is none


def check(config: RunConfig) -> list[Finding]:
    """The warnings about a run's models.

    Raises:
        ModelError: there are errors; the one message lists them all.
    """
    findings = preflight(config)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        listed = " ".join(f"({n}) {e.problem}; {e.mend}." for n, e in enumerate(errors, start=1))
        raise ModelError(f"{len(errors)} problem{'s' * (len(errors) > 1)} with the models: {listed}")
    return findings


def preflight(config: RunConfig) -> list[Finding]:
    """All findings about seed, sources and generator, in this order. Hub ids are downloaded."""
    scope: Scope = config.models.scope if isinstance(config.models.scope, str) else list(config.models.scope)
    findings: list[Finding] = []
    seed = _open(config.models.seed, "seed", findings)
    sources = [_open(ref, "source", findings) for ref in config.models.sources]
    if seed is not None:
        findings += _about_seed(seed, config)
        for source in sources:
            if source is not None:
                findings += _about_source(seed, source, scope)
        findings += _distances(seed, [source for source in sources if source is not None], scope)
    generator = seed if config.generate.model == config.models.seed else None
    if generator is None and config.generate.model != config.models.seed:
        generator = _open(config.generate.model, "generator", findings)
    if generator is not None:
        findings += _about_generator(generator, config)
    return findings


def _open(ref: str, role: str, findings: list[Finding]) -> _Model | None:
    """None, and a finding, where a model cannot be used at all."""
    tokenizer = None
    try:
        tokenizer = load_tokenizer(ref)
    except ModelError as error:
        if role != "source":  # a source only gives weights
            findings.append(_from_error(error, role))
            return None
    try:
        return _Model(ref, load_config(ref), parameter_groups(ref), read_headers(ref), tokenizer)
    except ModelError as error:
        findings.append(_from_error(error, role))
        return None


def _from_error(error: ModelError, role: str) -> Finding:
    problem, _, mend = str(error).rpartition("; ")
    return Finding("error", f"{role}: {problem or mend}", mend if problem else "give another model directory")


def _about_seed(seed: _Model, config: RunConfig) -> Iterator[Finding]:
    yield from _unfit_file(seed, seed.groups)
    if config.task.chat_template and seed.tokenizer.chat_template is None:
        mend = "set task.chat_template=false, or add chat_template.jinja to its directory"
        yield Finding("error", f"seed {seed.ref!r} has no chat template", mend)
    yield from _generation_config(seed, "seed")
    stored = _dtypes(seed.headers)
    if config.models.dtype == "float16" and "BF16" in stored:
        problem = f"seed {seed.ref!r} is stored in bfloat16, which float16 cannot hold in full (overflow above 65,504)"
        yield Finding("warning", problem, "set models.dtype=bfloat16")


def _about_generator(generator: _Model, config: RunConfig) -> Iterator[Finding]:
    if config.generate.chat_template and generator.tokenizer.chat_template is None:
        mend = "set generate.chat_template=false, or add chat_template.jinja to its directory"
        yield Finding("error", f"generator {generator.ref!r} has no chat template", mend)
    if generator.ref != config.models.seed:
        yield from _unfit_file(generator, generator.groups)
        yield from _generation_config(generator, "generator")


def _generation_config(model: _Model, role: str) -> Iterator[Finding]:
    if not (local_directory(model.ref) / "generation_config.json").is_file():
        problem = f"{role} {model.ref!r} has no generation_config.json, so only the tokenizer's end token ends a text"
        yield Finding("warning", problem, "copy the file from the model it was trained from")


def _about_source(seed: _Model, source: _Model, scope: Scope) -> Iterator[Finding]:
    if source.config.model_type != seed.config.model_type:
        problem = f"source {source.ref!r} is a {source.config.model_type} model, the seed a {seed.config.model_type}"
        yield Finding("error", problem, "take sources fine-tuned from the seed")
        return
    yield from _vocabulary(seed, source, scope)
    yield from _heads(seed, source, scope)
    # Vocabulary and head have findings of their own.
    apart = {_HEAD, *([] if _rows(seed) == _rows(source) else [_embedding(seed)])}
    ours, theirs = (
        {name: group for name, group in model.groups.items() if in_scope(name, scope) and name not in apart}
        for model in (seed, source)
    )
    yield from _names(source.ref, ours, theirs)
    yield from _unfit_file(source, {name: group for name, group in ours.items() if name in theirs})
    mine, other = _dtypes(seed.headers), _dtypes(source.headers)
    if other != mine and other <= _FLOATS.keys():
        problem = f"source {source.ref!r} is stored in {_words(other)}, the seed in {_words(mine)}"
        yield Finding("warning", problem, "nothing to do where that is meant: differences are taken in float32")


def _vocabulary(seed: _Model, source: _Model, scope: Scope) -> Iterator[Finding]:
    """Rows of the embedding that differ in number or meaning cannot be merged; other parameters can."""
    merged = in_scope(_embedding(seed), scope) or (_HEAD in seed.groups and in_scope(_HEAD, scope))
    level: Literal["error", "warning"] = "error" if merged else "warning"
    mend = "take a source of the seed's vocabulary, or give it one with mergekit-tokensurgeon"
    if merged:
        mend += ", or set models.scope=mlp"
    if _rows(seed) != _rows(source):
        problem = f"source {source.ref!r} has a vocabulary of {_rows(source)}, the seed of {_rows(seed)}"
        yield Finding(level, problem, mend)
    if source.tokenizer is None:
        problem = f"source {source.ref!r} has no tokenizer that can be read, so it cannot be compared with the seed's"
        yield Finding("warning", problem, "make sure that it was trained with the seed's")
        return
    mine, other = _tokens(seed.tokenizer), _tokens(source.tokenizer)
    common = mine.keys() & other.keys()
    differ = sorted(number for number in common if mine[number] != other[number])
    if not differ:
        return
    first = differ[0]
    problem = (
        f"source {source.ref!r} has another tokenizer: {len(differ)} of {len(common)} ids mean another token, the "
        f"first is {first} ({other[first]!r}, the seed's {mine[first]!r})"
    )
    if len(differ) > OTHER_TOKENIZER * len(common):
        yield Finding("error", problem, "take a source with the seed's tokenizer, or mergekit-tokensurgeon")
    else:
        yield Finding(level, problem, mend)


def _heads(seed: _Model, source: _Model, scope: Scope) -> Iterator[Finding]:
    ours, theirs = (_HEAD in model.groups for model in (seed, source))  # a tied one is no parameter of its own
    if ours != theirs:
        kinds = {True: "a head of its own", False: "a head tied to the embedding"}
        problem = f"source {source.ref!r} has {kinds[theirs]}, the seed {kinds[ours]}"
        merged = in_scope(_HEAD, scope) or in_scope(_embedding(seed), scope)
        yield Finding("error" if merged else "warning", problem, "models.scope=mlp leaves both out")


def _embedding(model: _Model) -> str:
    return next(iter(model.groups))  # parameters come in the model's own order


def _rows(model: _Model) -> int:
    return int(model.config.get_text_config().vocab_size)


def _names(ref: str, ours: _Groups, theirs: _Groups) -> Iterator[Finding]:
    mend = "take a source with the seed's parameters"
    for problem, names in (("lacks", ours.keys() - theirs.keys()), ("also has", theirs.keys() - ours.keys())):
        if names:
            yield Finding("error", f"source {ref!r} {problem} {min(names)} ({len(names)} such parameters)", mend)


def _unfit_file(model: _Model, groups: _Groups) -> Iterator[Finding]:
    """What the headers hold against the shapes that are asked for."""
    held = {name: next((a for a in aliases if a in model.headers), None) for name, (_, aliases) in groups.items()}
    lost = [name for name, alias in held.items() if alias is None]
    if lost:
        problem = f"model {model.ref!r}: its weights lack {lost[0]} ({len(lost)} such parameters)"
        yield Finding("error", problem, "fetch the model again")
    found = [(name, model.headers[alias]) for name, alias in held.items() if alias is not None]
    bent = [(name, shape) for name, (shape, _) in found if shape != groups[name][0]]
    if bent:
        name, shape = bent[0]
        problem = f"model {model.ref!r}: {name} has shape {tuple(shape)}, not {tuple(groups[name][0])}"
        yield Finding("error", f"{problem} ({len(bent)} such parameters)", "take a model of the seed's shapes")
    packed = [(name, dtype) for name, (_, dtype) in found if dtype not in _FLOATS]
    if packed:
        name, dtype = packed[0]
        problem = f"model {model.ref!r}: {name} is stored as {dtype} ({len(packed)} such parameters)"
        yield Finding("error", problem, "take the model that is not quantised")


def _distances(seed: _Model, sources: Sequence[_Model], scope: Scope) -> Iterator[Finding]:
    """Of sources that fit: same as the seed, same as each other, or nowhere near the seed."""
    fitting = [source for source in sources if _comparable(seed, source, scope)]
    alike = set()
    for source in fitting:
        names = _comparable(seed, source, scope)
        if _same(seed, source, names):
            alike.add(source.ref)
            problem = f"source {source.ref!r} is identical to the seed in all {len(names)} merged parameters"
            yield Finding("error", problem, "leave it out")
        elif finding := _far(source.ref, _distance(seed, source, names)):
            yield finding
    for one, other in combinations([source for source in fitting if source.ref not in alike], 2):
        if _same(one, other, _comparable(seed, one, scope)):
            yield Finding("error", f"sources {one.ref!r} and {other.ref!r} are identical", "leave one of them out")


def _far(ref: str, distance: float) -> Finding | None:
    problem = (
        f"source {ref!r} is not a descendant of the seed: its task vector is {distance:.2f} times as long as the seed"
    )
    if distance >= UNRELATED:
        return Finding("error", problem, "take models fine-tuned from the seed, or the seed that this one came from")
    if distance >= FAR:
        problem = f"source {ref!r} is far from the seed: its task vector is {distance:.2f} times as long as the seed"
        return Finding("warning", problem, "make sure that it was fine-tuned from the seed")
    return None


def _comparable(seed: _Model, source: _Model, scope: Scope) -> list[str]:
    """Merged parameters; none where the two do not have the same ones in the same shapes."""
    names, theirs = ([name for name in model.groups if in_scope(name, scope)] for model in (seed, source))
    fit = all(_held(seed, name) is not None and _held(seed, name) == _held(source, name) for name in names)
    return names if fit and names == theirs else []


def _held(model: _Model, name: str) -> torch.Size | None:
    """The shape in the file; None where it is not there or not of floating point."""
    alias = _alias(model, name)
    shape, dtype = model.headers[alias] if alias is not None else (None, "")
    return shape if dtype in _FLOATS else None


def _alias(model: _Model, name: str) -> str | None:
    aliases = model.groups[name][1] if name in model.groups else ()
    return next((alias for alias in aliases if alias in model.headers), None)


def _same(one: _Model, other: _Model, names: Sequence[str]) -> bool:
    """Two fine-tuned models mostly differ in the first values that are read."""
    return all(torch.equal(a, b) for a, b in _values(one, other, names))


def _distance(seed: _Model, source: _Model, names: Sequence[str]) -> float:
    """Norm of the task vector over the seed's, over a few matrices spread over the depth (vectors, mostly norms, are
    alike in all models)."""
    matrices = [name for name in names if len(seed.groups[name][0]) > 1] or list(names)
    step = max(1, len(matrices) // LOOKED_AT)
    moved = length = 0.0
    for ours, theirs in _values(seed, source, matrices[step // 2 :: step][:LOOKED_AT]):
        moved += float((theirs - ours).square().sum(dtype=torch.float64))
        length += float(ours.square().sum(dtype=torch.float64))
    return (moved / length) ** 0.5 if length else 0.0


def _values(one: _Model, other: _Model, names: Sequence[str]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Values of the same parameters in float32, a part at a time: an embedding can be larger than a merge needs."""
    left, right = read_weights(one.ref), read_weights(other.ref)
    for name in names:
        a, b = _alias(one, name), _alias(other, name)
        if a is not None and b is not None:
            blocks = zip(left.rows(a, _PART), right.rows(b, _PART), strict=True)
            yield from ((ours.float(), theirs.float()) for ours, theirs in blocks)


def _tokens(tokenizer: Any) -> dict[int, str]:
    return {number: token for token, number in tokenizer.get_vocab().items()}


def _dtypes(headers: _Headers) -> frozenset[str]:
    return frozenset(dtype for _, dtype in headers.values())


def _words(dtypes: frozenset[str]) -> str:
    return " and ".join(sorted(_FLOATS.get(dtype, dtype) for dtype in dtypes))

"""Task vectors: source minus seed, read tensor by tensor; no whole model is ever held, the seed is read once for all.

Nothing is kept between phases: a phase lasts far longer than its reading, the system's page cache holds the files where
there is memory to spare, and the trainer in between needs what there is.

Differences are taken in float32 and cast to the seed's dtype once. Parameters carry the seed's names in the seed's
order; a tied head is its embedding and appears once. Adding a merged vector to the seed is the evaluator's work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch

from selfdev.errors import ModelError, StageError, UsageError
from selfdev.models import load_config, parameter_groups, read_weights

Scope = Literal["all", "mlp"] | Sequence[str]
_Group = tuple[torch.Size, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class TaskVectors:
    """The task vectors of a run, one per source, all with the same names and shapes."""

    names: tuple[str, ...]  # parameters in scope, in the seed's order
    sources: tuple[str, ...]  # references, in configured order
    vectors: tuple[dict[str, torch.Tensor], ...]  # one per source: name -> source - seed, in the seed's dtype


def load_task_vectors(
    seed_ref: str,
    source_refs: Sequence[str],
    scope: Scope = "all",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> TaskVectors:
    """Read the task vectors of every source.

    Args:
        seed_ref: the seed model, see `selfdev.models.resolve`.
        source_refs: models fine-tuned from it.
        scope: "all" parameters, "mlp" (names with `.mlp.`, as in arXiv 2410.15639), or fnmatch patterns of names.
        device: where the result goes.
        dtype: of the result; the dtype of the seed's own tensor by default.

    Raises:
        UsageError: no sources, or a scope that matches no parameter.
        ModelError: another architecture, missing or extra parameters, another shape, or a source equal to the seed.
        StageError: the device has no room for them.
    """
    if not source_refs:
        raise UsageError("no sources given; task vectors need at least one model fine-tuned from the seed")
    seed_groups = parameter_groups(seed_ref)
    groups = {name: group for name, group in seed_groups.items() if in_scope(name, scope)}
    if not groups:
        known = ", ".join(list(seed_groups)[:3])
        raise UsageError(f"scope {scope!r} matches none of the seed's {len(seed_groups)} parameters (such as {known})")
    for source in source_refs:
        _check_fits(seed_ref, source, groups, scope)
    try:
        vectors = _subtract(seed_ref, source_refs, groups, torch.device(device), dtype)
    except torch.OutOfMemoryError as error:
        raise StageError(
            f"the device has no room for the task vectors of {len(source_refs)} sources; `selfdev plan` names settings "
            "that fit (models.merge_on=host keeps them in main memory)"
        ) from error
    return TaskVectors(names=tuple(groups), sources=tuple(source_refs), vectors=vectors)


def in_scope(name: str, scope: Scope) -> bool:
    """Whether a parameter is merged.

    Raises:
        UsageError: the scope is a word that means nothing.
    """
    if scope == "all":
        return True
    if scope == "mlp":
        return ".mlp." in name
    if isinstance(scope, str):
        raise UsageError(f"scope {scope!r} given; allowed: 'all', 'mlp', or a list of patterns such as ['*.mlp.*']")
    return any(fnmatchcase(name, pattern) for pattern in scope)


def _check_fits(seed_ref: str, source_ref: str, groups: Mapping[str, _Group], scope: Scope) -> None:
    """Compare architectures by configuration alone, so that a misfit shows before any weight is read."""
    seed_type, source_type = load_config(seed_ref).model_type, load_config(source_ref).model_type
    if seed_type != source_type:
        raise ModelError(
            f"source {source_ref!r} is a {source_type} model, the seed a {seed_type}; they cannot be merged"
        )
    theirs = {name: group for name, group in parameter_groups(source_ref).items() if in_scope(name, scope)}
    for problem, names in (("lacks", groups.keys() - theirs.keys()), ("also has", theirs.keys() - groups.keys())):
        if names:
            raise ModelError(
                f"source {source_ref!r} {problem} {min(names)} ({len(names)} such parameters); "
                "a source must have the seed's parameters"
            )
    for name, (shape, _) in groups.items():
        if theirs[name][0] != shape:
            raise _shape_error(source_ref, name, theirs[name][0], shape)


def _subtract(
    seed_ref: str,
    source_refs: Sequence[str],
    groups: Mapping[str, _Group],
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[dict[str, torch.Tensor], ...]:
    seed, sources = read_weights(seed_ref), [read_weights(ref) for ref in source_refs]
    vectors: tuple[dict[str, torch.Tensor], ...] = tuple({} for _ in source_refs)
    moved = [False] * len(source_refs)
    for name, (shape, aliases) in groups.items():
        stored = _stored(seed_ref, seed, aliases, shape)
        ours = stored.to(device, torch.float32)
        for i, (ref, source) in enumerate(zip(source_refs, sources, strict=True)):
            delta = _stored(ref, source, aliases, shape).to(device, torch.float32) - ours
            if not bool(torch.isfinite(delta).all()):
                raise ModelError(f"source {ref!r} minus the seed is not finite in {name}; one of the two is damaged")
            moved[i] = moved[i] or bool(delta.any())
            vectors[i][name] = delta.to(dtype or stored.dtype)
            del delta  # before the next one is read
    for ref, differs in zip(source_refs, moved, strict=True):
        if not differs:
            raise ModelError(
                f"source {ref!r} is identical to the seed in all {len(groups)} merged parameters; leave it out"
            )
    return vectors


def _stored(ref: str, weights: Mapping[str, torch.Tensor], aliases: tuple[str, ...], shape: torch.Size) -> torch.Tensor:
    """A parameter as the checkpoint holds it, under whichever of its tied names was written."""
    name = next((alias for alias in aliases if alias in weights), None)
    if name is None:
        raise ModelError(f"model {ref!r}: its weights lack {aliases[0]}, which its configuration asks for")
    tensor = weights[name]
    if tensor.shape != shape:
        raise _shape_error(ref, name, tensor.shape, shape)
    if not tensor.is_floating_point():
        raise ModelError(f"model {ref!r}: {name} is stored as {tensor.dtype}; quantised weights cannot be merged")
    return tensor


def _shape_error(ref: str, name: str, given: torch.Size, expected: torch.Size) -> ModelError:
    return ModelError(f"model {ref!r}: {name} has shape {tuple(given)}, the seed's is {tuple(expected)}; leave it out")

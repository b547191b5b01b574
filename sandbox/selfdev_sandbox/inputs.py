"""Task vectors as the server uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from selfdev_sandbox import validate
from selfdev_sandbox.contract import SandboxError
from selfdev_sandbox.protocol import Spec
from selfdev_sandbox.rows import DTYPES, NAME_OF


def identity(vectors: Sequence[Mapping[str, torch.Tensor]]) -> tuple[int, ...]:
    """Tells one list of task vectors from another while both are alive."""
    return (len(vectors), *(id(t) for vector in vectors for t in vector.values()))


class Inputs:
    """Task vectors: checked once, kept while the same objects come again."""

    def __init__(self, vectors: Sequence[Mapping[str, torch.Tensor]], device: torch.device) -> None:
        if not vectors or not vectors[0]:
            raise SandboxError("no task vectors were given; at least one with one tensor is needed")
        first = vectors[0]
        for number, vector in enumerate(vectors):
            if list(vector) != list(first):
                raise SandboxError(f"task vector {number} has other names than task vector 0; all must be the same")
            for name, tensor in vector.items():
                _check_input(number, name, tensor, first[name], device)
        self.keep = [dict(vector) for vector in vectors]  # holds the objects, so that the ids stay theirs
        self.names = list(first)
        self.tensors = [t.detach() for vector in self.keep for t in vector.values()]
        self.specs = [Spec(list(t.shape), NAME_OF[t.dtype]) for t in first.values()]
        self.nbytes = sum(t.numel() * t.element_size() for t in self.tensors)
        self.elements = sum(t.numel() for t in self.tensors)
        self.storages = {t.untyped_storage().data_ptr() for t in self.tensors}
        self.norm = max(validate.global_norm([t.detach() for t in vector.values()]) for vector in vectors)


def _check_input(number: int, name: str, tensor: torch.Tensor, like: torch.Tensor, device: torch.device) -> None:
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise SandboxError(
            f"'{name}' of task vector {number} is {tensor.dtype} {list(tensor.shape)}; "
            f"in task vector 0 it is {like.dtype} {list(like.shape)}"
        )
    if tensor.device.type != device.type or tensor.dtype not in NAME_OF or tensor.layout != torch.strided:
        raise SandboxError(
            f"'{name}' of task vector {number} is {tensor.dtype} on {tensor.device}; "
            f"dense tensors of {', '.join(DTYPES)} on {device} are accepted"
        )

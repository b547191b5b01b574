"""Weights in parts: read from safetensors files or memory, written to sharded safetensors files or memory.

Files are read with `pread` into one small buffer and written at offsets that are known before the first tensor is made,
so that neither reading nor writing keeps a tensor in memory. The same tensors give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

from selfdev.apply.memory import allocate
from selfdev.errors import ModelError, StageError
from selfdev.models import local_directory, read_headers

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNED = 8  # bytes; headers are filled up with blanks


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a checkpoint: where its bytes are."""

    file: Path
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    offset: int  # of the first byte, in the file
    nbytes: int


class Tensors(Protocol):
    """Floating-point tensors by name, given in parts."""

    def part(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements of the flattened tensor, in its dtype; valid until the next call."""
        ...


class Sink(Protocol):
    """Takes merged tensors in parts."""

    def place(self, name: str, start: int, stop: int) -> torch.Tensor | None:
        """Where these elements can be written directly, in float32; None: give them to `put`."""
        ...

    def put(self, name: str, start: int, values: torch.Tensor) -> None:
        """Elements from `start` on of the flattened tensor; cast to the dtype of the output."""
        ...


class MemoryTensors:
    """Tensors that are in memory."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._flat = {name: tensor.detach().reshape(-1) for name, tensor in tensors.items()}

    def part(self, name: str, start: int, stop: int) -> torch.Tensor:
        """See `Tensors.part`."""
        return self._flat[name][start:stop]


def check_target(into: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError where tensors to write into have not the names, shapes and dtypes of others, or have gaps."""
    if set(into) != set(like) or any(
        into[n].shape != t.shape or into[n].dtype != t.dtype or not into[n].is_contiguous() for n, t in like.items()
    ):
        raise ValueError(
            "the tensors to write into must be contiguous, with the names, shapes and dtypes of the seed's"
        )


class MemorySink:
    """Collects merged tensors in memory: in fresh tensors, or in some that have passed `check_target`."""

    def __init__(self, like: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor] | None = None) -> None:
        if into is None:
            into = allocate({n: (t.shape, t.dtype) for n, t in like.items()})
        self.tensors = dict(into)
        self._flat = {name: tensor.view(-1) for name, tensor in self.tensors.items()}

    def place(self, name: str, start: int, stop: int) -> torch.Tensor | None:
        """See `Sink.place`."""
        flat = self._flat[name]
        return flat[start:stop] if flat.dtype == torch.float32 else None

    def put(self, name: str, start: int, values: torch.Tensor) -> None:
        """See `Sink.put`."""
        self._flat[name][start : start + values.numel()].copy_(values)


class Checkpoint:
    """A model's files, open for reading. Use as a context manager.

    Raises:
        ModelError: as `selfdev.models.read_headers`.
    """

    def __init__(self, ref: str) -> None:
        self.ref = ref
        read_headers(ref)  # names truncated and missing files
        self.entries = dict(_entries(local_directory(ref)))
        self._stack = ExitStack()
        self._open: dict[Path, int] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._open.clear()

    def part(self, name: str, start: int, stop: int) -> torch.Tensor:
        """See `Tensors.part`."""
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        return self.read(entry, start * dtype.itemsize, stop * dtype.itemsize).view(dtype)

    def read(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        """Bytes of a tensor; valid until the next call."""
        size = stop - start
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.uint8)
        target = self._buffer[:size]
        _read_into(self._descriptor(entry.file), _bytes(target), entry.offset + start, self.ref)
        return target

    def _descriptor(self, file: Path) -> int:
        if file not in self._open:
            descriptor = os.open(file, os.O_RDONLY)
            self._stack.callback(os.close, descriptor)
            self._open[file] = descriptor
        return self._open[file]


class Renamed:
    """A checkpoint under the names of parameters: tied ones are stored under any of their names."""

    def __init__(self, checkpoint: Checkpoint, stored: Mapping[str, str]) -> None:
        self._checkpoint = checkpoint
        self._stored = stored

    def part(self, name: str, start: int, stop: int) -> torch.Tensor:
        """See `Tensors.part`."""
        return self._checkpoint.part(self._stored[name], start, stop)


class ShardWriter:
    """Writes a checkpoint whose tensors are known by name, dtype and shape, in any order and in parts.

    Args:
        directory: where the files go; it holds none of them yet.
        tensors: name -> (dtype as safetensors names it, shape, bytes), in the order of the files.
        shard_bytes: a file is closed before it grows beyond this, unless one tensor alone does.

    Raises:
        StageError: the disk is full or cannot be written.
    """

    def __init__(
        self, directory: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], int]], shard_bytes: int
    ) -> None:
        self._directory = directory
        self._stack = ExitStack()
        shards = _cut({name: nbytes for name, (_, _, nbytes) in tensors.items()}, shard_bytes)
        self.files = [_shard_name(number, len(shards)) for number in range(len(shards))]
        self.total = sum(nbytes for _, _, nbytes in tensors.values())
        self._dtypes = {name: dtype for name, (dtype, _, _) in tensors.items()}
        self._places: dict[str, tuple[int, int]] = {}  # name -> descriptor, offset
        self._scratch = torch.empty(0)
        with _writing(directory):
            for file, names in zip(self.files, shards, strict=True):
                self._begin(file, {name: tensors[name] for name in names})
            if len(shards) > 1:
                self._write_index(dict(zip(self.files, shards, strict=True)))

    def place(self, name: str, start: int, stop: int) -> torch.Tensor | None:
        """See `Sink.place`; files take copies."""
        return None

    def put(self, name: str, start: int, values: torch.Tensor) -> None:
        """See `Sink.put`."""
        dtype = DTYPES[self._dtypes[name]]
        if values.dtype != dtype:
            if self._scratch.dtype != dtype or self._scratch.numel() < values.numel():
                self._scratch = torch.empty(values.numel(), dtype=dtype)
            values = self._scratch[: values.numel()].copy_(values.reshape(-1))
        self.put_bytes(name, start * dtype.itemsize, values.contiguous().reshape(-1).view(torch.uint8))

    def put_bytes(self, name: str, start: int, values: torch.Tensor) -> None:
        """Bytes from `start` on of a tensor."""
        descriptor, offset = self._places[name]
        rest, place = _bytes(values), offset + start
        with _writing(self._directory):
            while rest:
                written = os.pwrite(descriptor, rest, place)
                rest, place = rest[written:], place + written

    def close(self) -> None:
        """Bring everything to the disk."""
        with _writing(self._directory):
            for descriptor in {descriptor for descriptor, _ in self._places.values()}:
                os.fsync(descriptor)
        self.abandon()

    def abandon(self) -> None:
        """Close the files as they are."""
        self._stack.close()

    def _begin(self, file: str, tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, (dtype, shape, nbytes) in tensors.items():
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
            offset += nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNED)
        descriptor = os.open(self._directory / file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._stack.callback(os.close, descriptor)
        os.write(descriptor, len(text).to_bytes(8, "little") + text)
        os.ftruncate(descriptor, 8 + len(text) + offset)
        for name in tensors:
            self._places[name] = descriptor, 8 + len(text) + header[name]["data_offsets"][0]

    def _write_index(self, shards: Mapping[str, Sequence[str]]) -> None:
        weight_map = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": self.total}, "weight_map": weight_map}
        (self._directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _cut(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if shards[-1] and size > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def _shard_name(number: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _entries(directory: Path) -> Iterator[tuple[str, Entry]]:
    index = directory / INDEX
    if index.is_file():
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    else:
        weight_map = {}
    files = sorted(set(weight_map.values())) or [SINGLE]
    for file in files:
        with (directory / file).open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        for name, told in header.items():
            if name != "__metadata__" and weight_map.get(name, file) == file:
                begin, end = told["data_offsets"]
                yield name, Entry(directory / file, told["dtype"], tuple(told["shape"]), 8 + size + begin, end - begin)


def _bytes(values: torch.Tensor) -> memoryview:
    return memoryview(values.numpy().data)


def _read_into(descriptor: int, target: memoryview, offset: int, ref: str) -> None:
    while target:
        count = os.preadv(descriptor, [target], offset)
        if count == 0:
            raise ModelError(f"model {ref!r}: a weight file became shorter while it was read; fetch it again")
        target, offset = target[count:], offset + count


class _writing:
    """Say in one line that the disk is full."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise StageError(f"cannot write to {self._directory}: {error.strerror or error}; give another --out")

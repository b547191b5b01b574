"""Memory of this process: fresh tensors in blocks of huge pages, and how much there is."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

_BLOCK = 1 << 26  # bytes from which on a block is full
_ALIGNED = 64  # bytes: a line of the processor's caches


def elements(shape: Sequence[int]) -> int:
    """How many elements a tensor of this shape has."""
    return math.prod(shape)


def allocate(tensors: Mapping[str, tuple[Sequence[int], torch.dtype]]) -> dict[str, torch.Tensor]:
    """Tensors of zeros on the CPU with these shapes and dtypes, one behind the other in a few blocks of memory.

    The system hands out fresh memory page by page, which takes longer than writing to it; blocks ask for huge pages.
    Each tensor has a storage of its own; a block is given back when the last of its tensors is.

    Raises:
        MemoryError: there is not so much.
    """
    made: dict[str, torch.Tensor] = {}
    block: dict[str, int] = {}  # name -> first byte
    end = 0
    for name, (shape, dtype) in tensors.items():
        block[name] = end
        end += -(-elements(shape) * dtype.itemsize // _ALIGNED) * _ALIGNED
        if end >= _BLOCK:
            made |= _in_one_block(tensors, block, end)
            block, end = {}, 0
    return made | _in_one_block(tensors, block, end)


def _in_one_block(
    tensors: Mapping[str, tuple[Sequence[int], torch.dtype]], starts: Mapping[str, int], size: int
) -> dict[str, torch.Tensor]:
    memory = _map(size) if size else None
    made = {}
    for name, start in starts.items():
        shape, dtype = tensors[name]
        count = elements(shape)
        if memory is None or count == 0:
            made[name] = torch.zeros(tuple(shape), dtype=dtype)
        else:
            made[name] = torch.frombuffer(memory, dtype=dtype, count=count, offset=start).view(tuple(shape))
    return made


def _map(size: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size / 2**30:.3g} GiB of memory cannot be had ({error.strerror})") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def resident_bytes() -> int:
    """Memory that this process has now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None

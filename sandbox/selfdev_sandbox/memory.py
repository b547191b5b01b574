"""Tensor memory of one run: handles, storages, copy-on-write.

Every handle holds a real tensor. Handles that share memory share a `Slot`. Inputs live in protected slots: the first
write to one copies the bytes its handles cover and re-bases all of them onto the copy, strides and all, so that the
program sees PyTorch's in-place semantics (views of views included) and the caller's tensors never change.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_ALIGN = 64  # bytes; any dtype may view the copy


class Slot:
    """One storage: its bytes, and the handles that look into it."""

    __slots__ = ("handles", "key", "nbytes", "protected")

    def __init__(self, key: int, nbytes: int, protected: bool) -> None:
        self.key, self.nbytes, self.protected = key, nbytes, protected
        self.handles: set[int] = set()


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Bytes of the storage that a tensor covers: [first, end)."""
    if tensor.numel() == 0:
        return 0, 0
    reach = sum(int((size - 1) * stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset()) * tensor.element_size()
    return start, start + (reach + 1) * tensor.element_size()


class TensorMemory:
    """Handles to tensors, with live and peak bytes (inputs not counted)."""

    def __init__(self) -> None:
        self.tensors: dict[int, torch.Tensor] = {}
        self.slots: dict[int, Slot] = {}  # by storage address
        self.slot_of: dict[int, Slot] = {}  # by handle
        self.live = 0
        self.peak = 0

    def add(self, handle: int, tensor: torch.Tensor, protected: bool = False) -> None:
        """Take a tensor in; it joins the slot of its storage, or opens one."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        slot = self.slots.get(key) if key else None
        if slot is None:
            slot = Slot(key, storage.nbytes(), protected)
            if key:
                self.slots[key] = slot
            if not protected:
                self.live += slot.nbytes
                if self.live > self.peak:
                    self.peak = self.live
        slot.handles.add(handle)
        self.tensors[handle] = tensor
        self.slot_of[handle] = slot

    def free(self, handles: Iterable[int]) -> None:
        """Forget handles; unknown ones (of operations that never ran) are skipped."""
        for handle in handles:
            slot = self.slot_of.pop(handle, None)
            if slot is None:
                continue
            del self.tensors[handle]
            slot.handles.discard(handle)
            if not slot.handles:
                self.slots.pop(slot.key, None)
                if not slot.protected:
                    self.live -= slot.nbytes

    def copy_bytes(self, handle: int) -> int:
        """Bytes that a write to this handle would copy first."""
        slot = self.slot_of[handle]
        if not slot.protected:
            return 0
        first, end = self._range(slot)
        return end - first

    def _range(self, slot: Slot) -> tuple[int, int]:
        extents = [_extent(self.tensors[h]) for h in slot.handles]
        covered = [e for e in extents if e[1] > e[0]] or [(0, 0)]
        return min(e[0] for e in covered) // _ALIGN * _ALIGN, max(e[1] for e in covered)

    def make_writable(self, handle: int) -> bool:
        """Give the handle's whole slot memory of its own if it is protected; return whether anything moved."""
        old = self.slot_of[handle]
        if not old.protected:
            return False
        first, end = self._range(old)
        sample = self.tensors[handle]
        raw = torch.empty(0, dtype=torch.uint8, device=sample.device)
        raw.set_(sample.untyped_storage(), first, (end - first,), (1,))
        copied = raw.clone()
        self.slots.pop(old.key, None)
        for other in list(old.handles):
            self.add(other, _rebase(self.tensors[other], copied, first))
        return True

    def clear(self) -> None:
        """Forget everything."""
        self.tensors.clear()
        self.slots.clear()
        self.slot_of.clear()
        self.live = 0


def _rebase(view: torch.Tensor, copied: torch.Tensor, first: int) -> torch.Tensor:
    offset = view.storage_offset() - first // view.element_size() if view.numel() else 0
    moved = torch.empty(0, dtype=view.dtype, device=view.device)
    return moved.set_(copied.untyped_storage(), offset, view.shape, view.stride())

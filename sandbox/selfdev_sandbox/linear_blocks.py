"""Tensors known as fixed linear combinations of inputs: the algebra behind `linear_form`.

A `Block` stands for a tensor whose elements are combinations of elements of inputs, without the elements. Its axes are
of two sorts: *content* axes run over the elements of the inputs, in the inputs' own order (reshaped at will); *mix*
axes run over different combinations, as the first axis of `torch.stack(list_of_sources)` does. Coefficients are
float64. What would mix elements of different places (reductions over content, masks, products of two blocks) is
`NotLinear`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Axis = tuple[bool, int]  # (mix axis?, size); axes of size 1 are never mix axes


_MOST = 1024  # coefficients per term: more is no merge, and would cost
_MOST_TERMS = 64
_INDEX = (torch.bool, torch.int64, torch.int32)


class NotLinear(Exception):
    """The result is not a fixed linear combination, or not one that this module can see."""


@dataclass(frozen=True, slots=True)
class Block:
    """One tensor as combinations of inputs."""

    axes: tuple[Axis, ...]
    terms: Mapping[int, Tensor]  # input handle -> coefficients, one axis per mix axis
    order: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()  # transpositions of content: (shape, permutation)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.axes)

    def mix_position(self, axis: int) -> int:
        """Index of a mix axis among the coefficients' axes, or where a new one at that place would go."""
        return sum(mix for mix, _ in self.axes[:axis])


def _bounded(axes: Sequence[Axis], terms: int = 1) -> list[int]:
    """Sizes of the mix axes, before anything of that size is made."""
    sizes = [size for mix, size in axes if mix]
    if math.prod(sizes) > _MOST or terms > _MOST_TERMS:
        raise NotLinear("too many combinations")
    return sizes


def source(handle: int, shape: Sequence[int]) -> Block:
    """An input itself."""
    return Block(tuple((False, size) for size in shape), {handle: torch.ones((), dtype=torch.float64)})


def _made(axes: Sequence[Axis], terms: Mapping[int, Tensor], like: Block) -> Block:
    """A block with mix axes of size 1 turned into plain ones."""
    drop = [i for i, (_, size) in enumerate(a for a in axes if a[0]) if size == 1]
    for i in reversed(drop):
        terms = {handle: c.squeeze(i) for handle, c in terms.items()}
    return Block(tuple((mix and size > 1, size) for mix, size in axes), terms, like.order)


def _axis(dim: int, rank: int) -> int:
    if not -rank <= dim < rank:
        raise NotLinear(f"dimension {dim} of {rank}")
    return dim % rank


def add(a: Block, b: Block, scale: float) -> Block:
    """a + scale * b."""
    rank = max(len(a.axes), len(b.axes))
    left, right = ([(False, 1)] * (rank - len(x.axes)) + list(x.axes) for x in (a, b))
    if a.order != b.order:
        raise NotLinear("elements of different places")
    axes = [_joined(x, y) for x, y in zip(left, right, strict=True)]
    full = _bounded(axes, len({**a.terms, **b.terms}))
    out = {handle: _aligned(c, left, axes).expand(full) for handle, c in a.terms.items()}
    for handle, c in b.terms.items():
        more = scale * _aligned(c, right, axes).expand(full)
        out[handle] = out[handle] + more if handle in out else more
    return Block(tuple(axes), out, a.order)


def _joined(x: Axis, y: Axis) -> Axis:
    if x == y:
        return x
    for one, other in ((x, y), (y, x)):
        if one == (False, 1) and other[0]:
            return other
    raise NotLinear("broadcast over content")


def _aligned(c: Tensor, own: Sequence[Axis], axes: Sequence[Axis]) -> Tensor:
    """Coefficients with an axis (of size 1 where they have none) per mix axis of `axes`."""
    return c.reshape([size if mine else 1 for (mine, size), (mix, _) in zip(own, axes, strict=True) if mix])


def scale(a: Block, factor: float | Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> Block:
    """`apply` (mul or div) to a block and a constant that does not vary over content."""
    k = factor if isinstance(factor, Tensor) else torch.tensor(factor, dtype=torch.float64)
    rank = max(len(a.axes), k.dim())
    own = [(False, 1)] * (rank - len(a.axes)) + list(a.axes)
    k = k.reshape([1] * (rank - k.dim()) + list(k.shape)) if k.dim() < rank else k
    axes: list[Axis] = []
    for i, (mix, size) in enumerate(own):
        wide = k.shape[i]
        if not mix and size > 1 and wide > 1:
            k, wide = _constant_along(k, i), 1
        if wide not in (1, size) and size != 1:
            raise NotLinear("sizes do not match")
        axes.append((True, wide) if size == 1 and wide > 1 else (mix, size))
    _bounded(axes)
    factors = k.double().reshape([k.shape[i] for i, (mix, _) in enumerate(axes) if mix])
    return Block(tuple(axes), {h: apply(_aligned(c, own, axes), factors) for h, c in a.terms.items()}, a.order)


def _constant_along(k: Tensor, axis: int) -> Tensor:
    first = k.narrow(axis, 0, 1)
    if k.stride(axis) != 0 and not (k.numel() <= 1 << 16 and bool((k == first).all())):
        raise NotLinear("a factor that varies over content")
    return first


def reduce(a: Block, dims: Sequence[int] | None, keep: bool, mean: bool) -> Block:
    """Sum or mean over mix axes."""
    rank = len(a.axes)
    picked = {_axis(d, rank) for d in dims} if dims else set(range(rank))
    if any(not a.axes[d][0] and a.axes[d][1] != 1 for d in picked):
        raise NotLinear("a reduction over content")
    places = [a.mix_position(d) for d in picked if a.axes[d][0]]
    count = math.prod(a.axes[d][1] for d in picked)
    terms = a.terms
    if places:
        terms = {h: c.sum(places) / (count if mean else 1) for h, c in terms.items()}
    axes = [(False, 1) if d in picked else axis for d, axis in enumerate(a.axes) if keep or d not in picked]
    return Block(tuple(axes), terms, a.order)


def join(pieces: Sequence[Block], dim: int, new: bool) -> Block:
    """`stack` (a new axis) or `cat` along a mix axis."""
    rank = len(pieces[0].axes) + new
    at = _axis(dim, rank)
    if new:
        pieces = [Block((*p.axes[:at], (False, 1), *p.axes[at:]), p.terms, p.order) for p in pieces]
    sizes = [p.axes[at][1] if len(p.axes) == rank else 0 for p in pieces]
    rest = [(*p.axes[:at], *p.axes[at + 1 :]) for p in pieces]
    mixed = all(p.axes[at][0] or size == 1 for p, size in zip(pieces, sizes, strict=True) if size)
    if 0 in sizes or not mixed or len(set(rest)) > 1 or len({p.order for p in pieces}) > 1:
        raise NotLinear("pieces of different kinds")
    axes = [*rest[0][:at], (True, sum(sizes)), *rest[0][at:]]
    _bounded(axes, len({h: 0 for p in pieces for h in p.terms}))
    place = pieces[0].mix_position(at)
    wide = [
        {h: c if p.axes[at][0] else c.unsqueeze(place) for h, c in p.terms.items()} for p in pieces
    ]  # all with the mix axis
    shape = [size for mix, size in rest[0] if mix]
    terms = {}
    for handle in dict.fromkeys(h for w in wide for h in w):
        parts = [
            w.get(handle, torch.zeros([*shape[:place], size, *shape[place:]], dtype=torch.float64))
            for w, size in zip(wide, sizes, strict=True)
        ]
        terms[handle] = torch.cat(parts, place)
    return _made(axes, terms, pieces[0])


def reshape(a: Block, shape: Sequence[int]) -> Block:
    """Content axes regrouped; mix axes stay whole."""
    total = math.prod(a.shape)
    known = math.prod(s for s in shape if s != -1)
    sizes = [total // known if s == -1 and known else s for s in shape]
    if math.prod(sizes) != total or not total:
        raise NotLinear("sizes do not match")
    axes: list[Axis] = []
    left = list(sizes)
    for mix, size in _runs(a):
        reached = 1
        while reached < size or (mix and left and left[0] == 1):
            if not left or (mix and left[0] not in (1, size)):
                raise NotLinear("content and combinations in one axis")
            step = left.pop(0)
            reached *= step
            axes.append((mix and step > 1, step))
            if mix and step > 1:
                break
        if reached != size:
            raise NotLinear("content and combinations in one axis")
    return Block((*axes, *((False, 1) for _ in left)), a.terms, a.order)


def _runs(a: Block) -> list[Axis]:
    """Mix axes one by one, content axes between them as one."""
    out: list[Axis] = []
    for mix, size in a.axes:
        if size == 1:
            continue
        if not mix and out and not out[-1][0]:
            out[-1] = (False, out[-1][1] * size)
        else:
            out.append((mix, size))
    return out


def permute(a: Block, dims: Sequence[int]) -> Block:
    """Axes in another order; a transposition of content is remembered until it is undone."""
    rank = len(a.axes)
    places = [_axis(d, rank) for d in dims]
    if sorted(places) != list(range(rank)):
        raise NotLinear("not a permutation")
    mixed = [a.mix_position(d) for d in places if a.axes[d][0]]
    content = [d for d in range(rank) if not a.axes[d][0] and a.axes[d][1] > 1]
    moved = tuple(content.index(d) for d in places if d in content)
    sizes = tuple(a.axes[d][1] for d in content)
    order = a.order
    if moved != tuple(range(len(moved))):
        undone = order and tuple(order[-1][0][i] for i in order[-1][1]) == sizes
        if undone and [order[-1][1][i] for i in moved] == list(range(len(moved))):
            order = order[:-1]
        else:
            order = (*order, (sizes, moved))
    terms = {h: c.permute(mixed) for h, c in a.terms.items()}
    return Block(tuple(a.axes[d] for d in places), terms, order)


def expand(a: Block, shape: Sequence[int]) -> Block:
    """Axes of size 1 repeated: mix axes of equal combinations."""
    extra = len(shape) - len(a.axes)
    own = [(False, 1)] * extra + list(a.axes)
    sizes = [size if wanted == -1 else wanted for wanted, (_, size) in zip(shape, own, strict=True)]
    if extra < 0 or any(w != size and size != 1 for w, (_, size) in zip(sizes, own, strict=True)):
        raise NotLinear("sizes do not match")
    axes: list[Axis] = [(mix or w != size, w) for w, (mix, size) in zip(sizes, own, strict=True)]
    full = _bounded(axes)
    return Block(tuple(axes), {h: _aligned(c, own, axes).expand(full) for h, c in a.terms.items()}, a.order)


def pick(a: Block, index: Sequence[object]) -> Block:
    """Indexing by numbers, slices, None, `...` and constant lists, on mix axes or of everything."""
    used = sum(item is not None and item is not Ellipsis for item in index)
    items = list(index)
    if Ellipsis in [item for item in items if not isinstance(item, Tensor)]:
        at = next(i for i, item in enumerate(items) if item is Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(a.axes) - used)
    axes, terms, place = [], dict(a.terms), 0
    left = list(a.axes)
    if used > len(left) or sum(isinstance(item, Tensor) for item in items) > 1:
        raise NotLinear("an index")
    for item in items:
        if item is None:
            axes.append((False, 1))
            continue
        mix, size = left.pop(0)
        where = _places(item, size)
        if isinstance(where, list) and where == list(range(size)):
            axes.append((mix, size))
        elif mix:
            terms = {h: c.select(place, where) if isinstance(where, int) else c.index_select(place, torch.tensor(where))
                     for h, c in terms.items()}  # fmt: skip
            if isinstance(where, list):
                axes.append((True, len(where)))
        elif where != 0 or size != 1:
            raise NotLinear("a part of the content")
        place += mix and isinstance(where, list)
    return _made([*axes, *left], terms, a)


def _places(item: object, size: int) -> int | list[int]:
    if isinstance(item, slice):
        return list(range(size))[item]
    if isinstance(item, Tensor) and item.dim() <= 1 and item.numel() <= 4096 and item.dtype in _INDEX:
        places = item.nonzero().flatten().tolist() if item.dtype == torch.bool and item.dim() else item.tolist()
        return [p % size for p in places] if isinstance(places, list) else _axis(int(places), size)
    if type(item) is int:
        return _axis(item, size)
    raise NotLinear("an index")


def replace_row(a: Block, row: int, value: Block) -> Block:
    """The first axis, a mix axis, with one combination replaced."""
    if not a.axes or not a.axes[0][0]:
        raise NotLinear("a write to a part of the content")
    at = _axis(row, a.axes[0][1])
    rows = [pick(a, [i]) for i in range(a.axes[0][1])]
    rows[at] = value
    return join(rows, 0, new=True)

"""Messages between the child and the tensor server: length-prefixed msgpack with a strict schema.

A frame is 4 bytes of little-endian length and a msgpack body. The child writes `Call`, `Read`, `Free`, `Sync`, `Done`
and `Fail`; the server answers `Read`, `Sync` and several-output `Call`s with `Reply` or `Raised`. Nothing is pickled.
Values are finite in depth: a leaf, a list of leaves, or a list of lists of leaves.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

MAX_FRAME = 8 << 20  # bytes; bounds `torch.tensor([...])` literals
HEADER = struct.Struct("<I")

Word = Annotated[str, Meta(max_length=200)]
Handle = Annotated[int, Meta(ge=1)]


class Ref(Struct, frozen=True, gc=False, tag_field="k", tag="t"):
    """A tensor, by handle."""

    i: Handle


class Dtype(Struct, frozen=True, gc=False, tag_field="k", tag="d"):
    """A dtype, by name."""

    n: Word


class Gen(Struct, frozen=True, gc=False, tag_field="k", tag="g"):
    """A random generator, by number; 0 is the default one."""

    i: Annotated[int, Meta(ge=0)]


class Slice(Struct, frozen=True, gc=False, tag_field="k", tag="s"):
    """A slice in an index."""

    a: int | None
    b: int | None
    c: int | None


class Dots(Struct, frozen=True, gc=False, tag_field="k", tag="e"):
    """Ellipsis in an index."""


Leaf = None | bool | int | float | Word | Ref | Dtype | Gen | Slice | Dots
Value = Leaf | list[Leaf | list[Leaf]]


class Call(Struct, frozen=True, array_like=True, tag="c"):
    """Run operation number `op`; results get handles `out`, `out + 1`, ... (`out` is 0 for writes)."""

    op: int
    out: Annotated[int, Meta(ge=0)]
    line: int
    wait: bool  # the program waits for the structure of the result
    args: list[Value]
    kwargs: dict[Word, Value]
    free: list[Handle] = []  # no longer used; forgotten before the operation runs


class Read(Struct, frozen=True, array_like=True, tag="r"):
    """Send a value: `item`, `list`, `meta` (shape and dtype) or `strides`."""

    what: Word
    i: Handle
    line: int


class Free(Struct, frozen=True, array_like=True, tag="f"):
    """These handles are no longer used."""

    handles: list[Handle]


class Sync(Struct, frozen=True, array_like=True, tag="s"):
    """Answer when all before is done, with the first error if there was one."""


class Done(Struct, frozen=True, array_like=True, tag="d"):
    """The program returned this dictionary."""

    names: list[str]
    handles: list[Handle]


class Fail(Struct, frozen=True, array_like=True, tag="x"):
    """The program ended otherwise."""

    status: Word
    error: Annotated[str, Meta(max_length=4000)]
    line: int


Request = Call | Read | Free | Sync | Done | Fail


class Spec(Struct, frozen=True, array_like=True):
    """Shape and dtype of one tensor."""

    shape: list[int]
    dtype: str


class Reply(Struct, frozen=True, array_like=True, tag="y"):
    """The value asked for, or the results' shapes; `many` tells a tuple of one from a single tensor."""

    value: bool | int | float | list[bool | int | float] | None = None
    specs: list[Spec] = []
    many: bool = False


class Raised(Struct, frozen=True, array_like=True, tag="e"):
    """An operation failed; `line` is the program's line that asked for it."""

    kind: str
    error: str
    line: int


class Start(Struct, frozen=True, array_like=True):
    """Server to child, once: the program and what it works on."""

    source: str
    entry: str
    seed: int
    names: list[str]
    specs: list[Spec]
    sources: int
    device: str
    source_chars: int
    source_nodes: int
    source_depth: int


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_answer = msgspec.msgpack.Decoder(Reply | Raised).decode
decode_start = msgspec.msgpack.Decoder(Start).decode


def frame(message: Struct) -> bytes:
    """Encode one message with its length."""
    body = encode(message)
    return HEADER.pack(len(body)) + body

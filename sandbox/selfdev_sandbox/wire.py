"""The child's end of the channel to the tensor server: frames out (buffered), answers in."""

from __future__ import annotations

import os
import sys
from typing import Any

from selfdev_sandbox.policy import FILENAME
from selfdev_sandbox.protocol import MAX_FRAME, Call, Free, Raised, Reply, Sync, decode_answer, encode

_FLUSH = 4096  # bytes buffered before a write: enough to share system calls, little enough to keep the server busy


class LinAlgError(RuntimeError):
    """`torch.linalg.LinAlgError`."""


_ERRORS: dict[str, type[Exception]] = {
    e.__name__: e
    for e in (
        RuntimeError,
        ValueError,
        IndexError,
        TypeError,
        NotImplementedError,
        KeyError,
        ZeroDivisionError,
        OverflowError,
        AssertionError,
        LinAlgError,
    )
}


class Connection:
    """One channel. There is one per process (`CONNECTION`), reset by `connect`."""

    def __init__(self, fd: int) -> None:
        self.reset(fd)

    def reset(self, fd: int) -> None:
        """Start anew on a descriptor."""
        self.fd = fd
        self.buffer = bytearray()
        self.received = bytearray()
        self.freed: list[int] = []  # handles to give back with the next message
        self.next_handle = 1
        self.pending = False  # operations sent whose errors are not known yet
        self.error: tuple[Exception, int] | None = None  # the last remote error and its line

    def flush(self) -> None:
        """Write what is buffered."""
        view = memoryview(bytes(self.buffer))
        self.buffer.clear()
        while view:
            view = view[os.write(self.fd, view) :]

    def send(self, message: Any) -> None:
        """Queue one message."""
        body = encode(message)
        if len(body) > MAX_FRAME:
            raise ValueError("a tensor literal is too large; build tensors with torch operations")
        buffer = self.buffer
        buffer += len(body).to_bytes(4, "little")
        buffer += body
        if len(buffer) > _FLUSH:
            self.flush()

    def call(self, number: int, out: int, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Queue one operation, with the handles freed since the last; its error surfaces at the next `sync`."""
        freed = self.freed
        if freed:
            self.freed = []
        self.pending = True
        self.send(Call(number, out, program_line(), False, args, kwargs, freed))

    def receive(self) -> bytes:
        """One frame's body."""
        data = self.received
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
            more = os.read(self.fd, 4096)
            if not more:
                os._exit(3)
            data += more
        size = 4 + int.from_bytes(data[:4], "little")
        body = bytes(data[4:size])
        del data[:size]
        return body

    def ask(self, message: Any) -> Reply:
        """Send, wait, and raise what the server raised."""
        if self.freed:
            freed, self.freed = self.freed, []
            self.send(Free(freed))
        self.send(message)
        self.flush()
        answer: Reply | Raised = decode_answer(self.receive())
        self.pending = False
        if isinstance(answer, Raised):
            error = _ERRORS.get(answer.kind, RuntimeError)(answer.error)
            self.error = (error, answer.line)
            raise error
        return answer

    def sync(self) -> None:
        """Surface the error of any operation sent so far."""
        if self.pending:
            self.ask(Sync())


CONNECTION = Connection(-1)


def connect(fd: int) -> Connection:
    """Use this descriptor from now on."""
    CONNECTION.reset(fd)
    return CONNECTION


def program_line() -> int:
    """The line of the program that is running, 0 outside of it."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == FILENAME:
            return frame.f_lineno or 0
        frame = frame.f_back  # type: ignore[assignment]
    return 0

"""One run's traffic with the child: frames in, answers out, until the end or the deadline."""

from __future__ import annotations

import select
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import torch

from selfdev_sandbox import protocol
from selfdev_sandbox.contract import Limits, Status
from selfdev_sandbox.protocol import Done, Fail, Start
from selfdev_sandbox.rows import Ended
from selfdev_sandbox.server import TensorServer

_CHUNK = 1 << 16


class _QuietThread:
    """A pattern of a warnings filter that matches in threads that run a program, and nowhere else."""

    def __init__(self) -> None:
        self.here = threading.local()

    def match(self, _text: str) -> bool:
        return getattr(self.here, "quiet", False)


_QUIET = _QuietThread()
_FILTER: Any = ("ignore", _QUIET, Warning, None, 0)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Drop PyTorch's warnings about the program, in this thread only; nobody here can act on them."""
    if not warnings.filters or warnings.filters[0] is not _FILTER:
        warnings.filters.insert(0, _FILTER)  # type: ignore[attr-defined]
    _QUIET.here.quiet = True
    try:
        yield
    finally:
        _QUIET.here.quiet = False


class Session:
    """Serves one child over one channel."""

    def __init__(self, channel: socket.socket, server: TensorServer, deadline: float, limits: Limits) -> None:
        self.channel, self.server, self.deadline, self.limits = channel, server, deadline, limits
        self.data = b""  # received, not yet served from `place` on
        self.place = 0
        channel.setblocking(False)
        self.readable, self.writable = select.poll(), select.poll()
        self.readable.register(channel, select.POLLIN)
        self.writable.register(channel, select.POLLOUT)

    def serve(self, start: Start) -> Done | Ended:
        """Serve until the program says how it ended, or is ended."""
        try:
            with torch.no_grad(), _no_warnings():
                self._send(protocol.frame(start))
                return self._loop()
        except Ended as end:
            return end
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return Ended(Status.VIOLATION, "the program's process sent a malformed message", 0)
        except TimeoutError:
            return Ended(Status.TIMEOUT, f"not done after {self.limits.seconds:g} seconds", 0)
        except OSError:
            return Ended(Status.CRASH, "", 0)

    def _loop(self) -> Done | Ended:
        handle, decode = self.server.handle, protocol.decode_request
        while True:
            message = decode(self._frame())
            if time.monotonic() > self.deadline:
                raise TimeoutError
            kind = type(message)
            if kind is Done:
                return self._done(message)
            if kind is Fail:
                return _failure(message)
            answer = handle(message)
            if answer is not None:
                self._send(protocol.frame(answer))

    def _done(self, message: Done) -> Done | Ended:
        if self.server.failed is not None:
            return Ended(Status.VIOLATION, "a result after a failed operation", 0)
        if len(message.names) != len(message.handles):
            return Ended(Status.VIOLATION, "the program's process sent a malformed message", 0)
        return message

    def _frame(self) -> bytes:
        """The next frame's body."""
        start = self.place + 4
        if len(self.data) < start:
            self._receive(4)
            start = 4
        size = int.from_bytes(self.data[start - 4 : start], "little")
        if size > protocol.MAX_FRAME:
            raise Ended(Status.VIOLATION, "the program's process sent an oversized message", 0)
        if len(self.data) < start + size:
            self._receive(4 + size)
            start = 4
        self.place = start + size
        return self.data[start : self.place]

    def _receive(self, wanted: int) -> None:
        """Have at least `wanted` bytes from the place on, which becomes 0."""
        parts, have = [self.data[self.place :]], len(self.data) - self.place
        while have < wanted:
            self._wait(self.readable)
            more = self.channel.recv(_CHUNK)
            if not more:
                raise Ended(Status.CRASH, "", 0)
            parts.append(more)
            have += len(more)
        self.data, self.place = b"".join(parts), 0

    def _wait(self, poll: select.poll) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.channel.send(view) :]
            except BlockingIOError:
                self._wait(self.writable)


def _failure(message: Fail) -> Ended:
    """The child's own account; only statuses that it may claim are believed."""
    claims = {Status.SYNTAX, Status.UNSUPPORTED, Status.VIOLATION, Status.EXCEPTION, Status.MEMORY, Status.INVALID}
    status = next((s for s in claims if s.value == message.status), Status.CRASH)
    return Ended(status, message.error, max(0, message.line))

"""Killable scorer processes: work that may hang, explode or crash costs one bounded wait, never the run.

math-verify and sympy stop themselves with SIGALRM, which works in the main thread only and cannot interrupt big-integer
arithmetic. So their work goes to a few child processes (`selfdev.grading.scorer`), each with a wall-clock limit per job
and a limit on its address space. A child is started when first needed, by exec of a module that imports no torch, so
that threads, CUDA and the importing program's `__main__` do not matter; it is replaced after a number of jobs, after an
error of memory and after a kill, and the kernel kills it when this process ends, however it ends.

Left out: isolation from hostile code. Process pools of libraries were looked at: `multiprocessing` cannot kill one job;
pebble can, but imports the caller's `__main__` again in every child and limits no memory.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from selfdev.errors import StageError

_ROOT = Path(__file__).resolve().parents[2]  # where the package `selfdev` lies
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from selfdev.grading.scorer import main; main()"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one scorer process may use."""

    seconds: float = 10.0  # wall clock per job; more than the 5 s after which lm-eval itself gives up
    memory: int = 2 << 30  # bytes of address space
    jobs: int = 2000  # after which it is replaced: sympy's caches only grow
    start_seconds: float = 120.0  # to import sympy on a busy machine


@dataclass(slots=True)
class Counts:
    """What a pool did; `jobs` includes those stopped."""

    jobs: int = 0
    started: int = 0  # processes
    timed_out: int = 0  # jobs over their time
    died: int = 0  # processes that ran out of memory, or ended in the middle of a job


class Stopped(Exception):
    """A job took too much time or memory, or its process died. A verdict for the job, no reason to end anything."""


class _Died(Stopped):
    """Its process was ended; by the job perhaps, perhaps by the system."""


class Pool:
    """A few scorer processes. Safe to use from several threads; each job takes one process."""

    def __init__(
        self,
        functions: str = "selfdev.grading.scorer:math_functions",
        *,
        limits: Limits | None = None,
        size: int | None = None,
        python: Sequence[str] = (sys.executable, "-P"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            functions: MODULE:NAME of a function that gives what the processes can do.
            limits: per process.
            size: processes at most; by default one per core, at most 4.
            python: the interpreter, another environment's perhaps, with its options.
            environment: instead of this process's environment variables.
        """
        self.limits = limits or Limits()
        self.size = size or min(4, os.cpu_count() or 1)
        self.counts = Counts()
        self._command = [*python, "-c", _BOOT, str(_ROOT)]
        self._functions = functions
        self._environment = dict(os.environ if environment is None else environment) | {"PYTHONHASHSEED": "0"}
        self._owner = os.getpid()
        # The kernel kills a child with the thread that started it: so one thread starts all, and lasts.
        self._starter = ThreadPoolExecutor(1, "scorer-start")
        self._free = threading.BoundedSemaphore(self.size)
        self._idle: list[_Process] = []

    def ask(self, function: str, *arguments: str) -> tuple[Any, float]:
        """Run one job; again, once, if its process died, which may not have been the job's fault.

        Returns:
            (what the function gave, seconds it took).

        Raises:
            Stopped: it exceeded the limits or crashed.
            StageError: no process can be started.
        """
        with self._free:
            self.counts.jobs += 1
            with suppress(_Died):
                return self._run([function, *arguments])
            return self._run([function, *arguments])

    def close(self) -> None:
        """Kill the idle processes. The pool starts new ones if it is used again."""
        while self._idle and os.getpid() == self._owner:  # not from a fork's copy
            self._idle.pop().kill()

    def _run(self, job: list[str]) -> tuple[Any, float]:
        process = self._take()
        keep = False
        try:
            answer = self._ask(process, job)
            keep = process.jobs < self.limits.jobs
        finally:
            if keep:
                self._idle.append(process)
            else:
                process.kill()
        return answer

    def _take(self) -> _Process:
        with suppress(IndexError):
            while True:
                process = self._idle.pop()
                if process.alive():
                    return process
                process.kill()
        return self._starter.submit(self._start).result()

    def _start(self) -> _Process:
        self.counts.started += 1
        try:
            process = _Process(self._command, self.limits.memory, self._functions, self._environment)
        except OSError as error:
            raise StageError(
                f"a process that compares answers cannot start ({error}); free memory or processes"
            ) from None
        why: str | None = f"not ready after {self.limits.start_seconds:g} s"
        with suppress(TimeoutError):
            reply = process.receive(self.limits.start_seconds)
            why = "it died" if reply is None else reply.get("error")
        if why is None:
            return process
        process.kill()
        raise StageError(f"a process that compares answers cannot start ({why}); install the package again")

    def _ask(self, process: _Process, job: list[str]) -> tuple[Any, float]:
        try:
            reply = process.ask(job, self.limits.seconds)
        except TimeoutError:
            self.counts.timed_out += 1
            raise Stopped(f"stopped after {self.limits.seconds:g} s") from None
        if reply is None:
            self.counts.died += 1
            raise _Died("its process died")
        if "error" in reply:
            self.counts.died += 1
            raise Stopped(reply["error"])
        return reply["value"], reply["seconds"]


class _Process:
    """One child and this end of its pipe."""

    def __init__(self, command: Sequence[str], memory: int, functions: str, environment: Mapping[str, str]) -> None:
        self.jobs = 0
        self._pipe, theirs = Pipe()
        with theirs:
            self._child = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid()), str(memory), functions],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,  # Ctrl-C is the parent's business
            )

    def alive(self) -> bool:
        return self._child.poll() is None

    def ask(self, job: list[str], seconds: float) -> dict[str, Any] | None:
        """The reply; None if the process died. Raises TimeoutError."""
        self.jobs += 1
        try:
            self._pipe.send_bytes(json.dumps(job).encode())
        except OSError:
            return None
        return self.receive(seconds)

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next reply; None if the process died. Raises TimeoutError."""
        try:
            if not self._pipe.poll(seconds):
                raise TimeoutError
            reply: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError):
            return None
        return reply

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        self._pipe.close()


@lru_cache(maxsize=1)
def shared_pool() -> Pool:
    """The pool that all graders of this process use."""
    pool = Pool()
    atexit.register(pool.close)
    return pool


os.register_at_fork(after_in_child=shared_pool.cache_clear)  # a copy of this process starts its own scorers

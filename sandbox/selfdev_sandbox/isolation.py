"""The operating-system walls of the child: rlimits, no_new_privs, Landlock, seccomp; Linux, by ctypes, no root needed.

`wall_in` is called in the forked child, once, before any untrusted text is looked at. The child needs only to read and
write one socket and to manage memory, so the seccomp list is tiny: everything else fails, and what only an attack would
do kills. (Opening a file only fails: CPython looks for the source of a syntax error.) System
call numbers are per architecture; an unknown one fails closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass

LAYERS = ("rlimits", "uid", "no_new_privs", "landlock", "seccomp")
NOBODY = 65534

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 1, 4, 22, 38, 39
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446  # the same on all architectures


class LayerMissing(Exception):
    """A wall could not be put up; the argument starts with its name."""


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture: its audit number, the calls the child needs, and those that kill it."""

    audit: int
    allow: dict[str, int]
    kill: dict[str, int]
    mmap: int
    mprotect: int


_X86_ALLOW = {
    "read": 0,
    "write": 1,
    "poll": 7,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "mremap": 25,
    "madvise": 28,
    "getpid": 39,
    "sendto": 44,
    "recvfrom": 45,
    "exit": 60,
    "gettimeofday": 96,
    "sigaltstack": 131,
    "futex": 202,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "exit_group": 231,
    "ppoll": 271,
}
_X86_KILL = {
    "socket": 41,
    "connect": 42,
    "bind": 49,
    "clone": 56,
    "fork": 57,
    "vfork": 58,
    "execve": 59,
    "kill": 62,
    "ptrace": 101,
    "unshare": 272,
    "tkill": 200,
    "tgkill": 234,
    "io_uring_setup": 425,
    "pidfd_open": 434,
    "clone3": 435,
    "bpf": 321,
    "userfaultfd": 323,
    "execveat": 322,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "memfd_create": 319,
    "mount": 165,
    "setns": 308,
    "add_key": 248,
    "keyctl": 250,
    "perf_event_open": 298,
}
_ARM_ALLOW = {
    "read": 63,
    "write": 64,
    "ppoll": 73,
    "munmap": 215,
    "brk": 214,
    "rt_sigaction": 134,
    "rt_sigprocmask": 135,
    "rt_sigreturn": 139,
    "mremap": 216,
    "madvise": 233,
    "getpid": 172,
    "sendto": 206,
    "recvfrom": 207,
    "exit": 93,
    "gettimeofday": 169,
    "sigaltstack": 132,
    "futex": 98,
    "restart_syscall": 128,
    "clock_gettime": 113,
    "exit_group": 94,
}
_ARM_KILL = {
    "socket": 198,
    "connect": 203,
    "bind": 200,
    "clone": 220,
    "execve": 221,
    "kill": 129,
    "ptrace": 117,
    "unshare": 97,
    "tkill": 130,
    "tgkill": 131,
    "io_uring_setup": 425,
    "pidfd_open": 434,
    "clone3": 435,
    "bpf": 280,
    "userfaultfd": 282,
    "execveat": 281,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "memfd_create": 279,
    "mount": 40,
    "setns": 268,
    "add_key": 217,
    "keyctl": 219,
    "perf_event_open": 241,
}
ARCHES = {
    "x86_64": Arch(0xC000003E, _X86_ALLOW, _X86_KILL, mmap=9, mprotect=10),
    "aarch64": Arch(0xC00000B7, _ARM_ALLOW, _ARM_KILL, mmap=222, mprotect=226),
}

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050000 | 1
_PROT_EXEC = 4


def bpf_program(machine: str) -> bytes:
    """The seccomp filter of an architecture, as `struct sock_filter[]`.

    Raises:
        LayerMissing: an architecture without a table.
    """
    arch = ARCHES.get(machine)
    if arch is None:
        raise LayerMissing(f"seccomp: no system call table for {machine}")
    code = [(_LD, 0, 0, 4), (_JEQ, 1, 0, arch.audit), (_RET, 0, 0, _KILL), (_LD, 0, 0, 0)]
    if machine == "x86_64":  # the x32 numbers would pass the architecture check
        code += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _KILL)]
    for nr in sorted(arch.allow.values()):
        code += [(_JEQ, 0, 1, nr), (_RET, 0, 0, _ALLOW)]
    for nr in sorted(arch.kill.values()):
        code += [(_JEQ, 0, 1, nr), (_RET, 0, 0, _KILL)]
    for nr in (arch.mmap, arch.mprotect):  # no executable memory: argument 2, low half
        code += [
            (_JEQ, 0, 4, nr),
            (_LD, 0, 0, 32),
            (_JSET, 0, 1, _PROT_EXEC),
            (_RET, 0, 0, _KILL),
            (_RET, 0, 0, _ALLOW),
        ]
    code.append((_RET, 0, 0, _EPERM))
    return b"".join(struct.pack("=HBBI", *step) for step in code)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _prctl(option: int, *args: object) -> int:
    assert _libc is not None
    padded = [*args, *([ctypes.c_ulong(0)] * (4 - len(args)))]
    return int(_libc.prctl(ctypes.c_int(option), *padded))


def no_new_privs_set() -> bool:
    """Whether this process can no longer gain privileges."""
    return _prctl(_PR_GET_NO_NEW_PRIVS) == 1


def close_descriptors(keep: int) -> None:
    """/dev/null as 0, 1, 2; `keep` moved to 3; everything else closed."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if keep != 3:
        os.dup2(keep, 3)
    os.closerange(4, max(1024, keep + 1, null + 1))


def _data_bytes() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 64 << 20


def _rlimits(memory: int, cpu_seconds: int) -> None:
    data = (_data_bytes() if sys.platform == "linux" else 256 << 20) + memory
    for name, value in (("DATA", data), ("CPU", cpu_seconds), ("FSIZE", 0), ("CORE", 0), ("STACK", 16 << 20)):
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _drop_uid() -> None:
    if os.geteuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError as error:
        raise LayerMissing(f"uid: running as root and cannot change to uid {NOBODY} ({error.strerror})") from None


def _landlock() -> None:
    assert _libc is not None
    abi = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if abi < 1:
        raise LayerMissing(f"landlock: the kernel does not offer it ({os.strerror(ctypes.get_errno())})")
    files = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
    network, scoped = 3 if abi >= 4 else 0, 3 if abi >= 6 else 0
    fields = (files,) if abi < 4 else (files, network) if abi < 6 else (files, network, scoped)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    if ruleset < 0:
        raise LayerMissing(f"landlock: no rule set ({os.strerror(ctypes.get_errno())})")
    if _libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0)) != 0:
        raise LayerMissing(f"landlock: not enforced ({os.strerror(ctypes.get_errno())})")
    os.close(ruleset)


def _seccomp() -> None:
    program = bpf_program(platform.machine())
    buffer = ctypes.create_string_buffer(program, len(program))
    filters = _Filter(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if _prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(filters)) != 0:
        raise LayerMissing(f"seccomp: not accepted ({os.strerror(ctypes.get_errno())})")


def wall_in(layers: frozenset[str], parent: int, memory: int, cpu_seconds: int) -> None:
    """Put up the named layers, in an order in which each still can be.

    Args:
        layers: subset of `LAYERS`.
        parent: process id of the zygote; the child dies with it.
        memory: bytes of private memory above what it has now.
        cpu_seconds: processor time.

    Raises:
        LayerMissing: this system does not offer one of them.
    """
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # to be killed as a group; not setsid: a new scheduling group waits its turn on a busy machine
    if "rlimits" in layers:
        _rlimits(memory, cpu_seconds)
    if "uid" in layers:
        _drop_uid()
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))  # after the change of uid, which clears it
        _prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0))
        if os.getppid() != parent:
            os._exit(4)
    elif layers - {"rlimits", "uid"}:
        raise LayerMissing(f"landlock, seccomp: not offered by {sys.platform}")
    if "no_new_privs" in layers and _prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1)) != 0:
        raise LayerMissing("no_new_privs: not accepted")
    if "landlock" in layers:
        _landlock()
    if "rlimits" in layers:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
    if "seccomp" in layers:
        _seccomp()

"""
The few ptrace requests the stepper needs, by ctypes, on Linux x86_64 and aarch64.

By ctypes and not by a tool, so that the crash tests need nothing installed. Registers are never
looked at: `PTRACE_GET_SYSCALL_INFO` (Linux 5.3) gives number, arguments and result in one layout
for every machine, and says whether a stop is an entry or an exit, which otherwise has to be
guessed by counting stops.

A tracee can be killed at any moment, also while it is stopped, and then every request answers
"no such process". That is not an error but the way one learns of it, so requests give False or
None for it and the caller goes on to `waitpid`, which tells how it ended.

Only the thread that seized a tracee may make requests; from any other the kernel answers
"no such process" too, which is why `Stepper` checks its thread first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Any, NamedTuple

__all__ = [
    "EVENT_CLONE",
    "EVENT_EXEC",
    "EVENT_FORK",
    "EVENT_STOP",
    "EVENT_VFORK",
    "OPTIONS",
    "SYSCALL_STOP",
    "PtraceRefused",
    "SyscallStop",
    "detach",
    "event_message",
    "interrupt",
    "listen",
    "read_memory",
    "resume",
    "seize",
    "syscall_stop",
]

_SYSCALL, _DETACH = 24, 17
_GETEVENTMSG, _SEIZE, _INTERRUPT, _LISTEN, _GET_SYSCALL_INFO = 0x4201, 0x4206, 0x4207, 0x4208, 0x420E

EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_STOP = 1, 2, 3, 4, 128

_O_TRACESYSGOOD, _O_EXITKILL = 1, 1 << 20
# EXITKILL, so that a tracer that dies (a test run that is interrupted) leaves no stopped victim behind.
OPTIONS = _O_TRACESYSGOOD | _O_EXITKILL | 1 << EVENT_FORK | 1 << EVENT_VFORK | 1 << EVENT_CLONE | 1 << EVENT_EXEC

SYSCALL_STOP = 5 | 0x80  # SIGTRAP, with the bit that TRACESYSGOOD adds


class PtraceRefused(RuntimeError):
    """The kernel doesn't let this process trace its children."""


class _EntryInfo(ctypes.Structure):
    _fields_ = (("number", ctypes.c_uint64), ("args", ctypes.c_uint64 * 6))


class _ExitInfo(ctypes.Structure):
    _fields_ = (("result", ctypes.c_int64), ("is_error", ctypes.c_uint8))


class _InfoUnion(ctypes.Union):
    # The third member of the kernel's union (seccomp) is never asked for, but it is the longest.
    _fields_ = (("entry", _EntryInfo), ("exit", _ExitInfo), ("room", ctypes.c_uint64 * 9))


class _SyscallInfo(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("u", _InfoUnion),
    )


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class SyscallStop(NamedTuple):
    """What the kernel says of a system call stop."""

    entry: bool
    arch: int
    number: int  # of the call; 0 at an exit, where the kernel doesn't tell
    args: tuple[int, ...]  # empty at an exit
    result: int  # 0 at an entry; a negative errno when the call failed


def _load() -> Any:
    # Any: ctypes gives foreign functions no better type.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    libc.process_vm_readv.argtypes = (
        ctypes.c_long,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    )
    return libc


_libc: Any = _load() if sys.platform == "linux" else None


def _request(request: int, thread: int, address: int | None, data: object) -> bool:
    """Make a request; False if the tracee is gone."""
    if _libc.ptrace(request, thread, address, data) != -1:
        return True
    number = ctypes.get_errno()
    if number == errno.ESRCH:
        return False
    raise OSError(number, f"ptrace request {request:#x} on {thread}: {os.strerror(number)}")


def seize(process: int) -> None:
    """
    Begin to trace a process that has one thread, without stopping it; what it starts later is traced too.

    Raises:
        PtraceRefused: the kernel says no, or isn't Linux.
    """
    if _libc is None:
        raise PtraceRefused(f"there is no ptrace like Linux's on {sys.platform}")
    if _libc.ptrace(_SEIZE, process, None, OPTIONS) == -1:
        number = ctypes.get_errno()
        raise PtraceRefused(
            f"the kernel refuses to trace a child: {os.strerror(number)} ({errno.errorcode.get(number, number)}); "
            "a container needs the SYS_PTRACE capability or a seccomp profile that allows ptrace, "
            "and what is already traced (strace, gdb) can't trace its children"
        )


def interrupt(thread: int) -> bool:
    """Make a running tracee stop."""
    return _request(_INTERRUPT, thread, None, None)


def resume(thread: int, signal: int = 0) -> bool:
    """Let a stopped tracee run to its next entry or exit of a system call, delivering a signal to it."""
    return _request(_SYSCALL, thread, None, signal)


def listen(thread: int) -> bool:
    """Leave a tracee stopped that a job control signal has stopped, until SIGCONT."""
    return _request(_LISTEN, thread, None, None)


def detach(thread: int, signal: int = 0) -> bool:
    """Let a stopped tracee run untraced from here on."""
    return _request(_DETACH, thread, None, signal)


def event_message(thread: int) -> int:
    """Give what a ptrace event carries: the new thread, or at an exec the id the caller had before; 0 if gone."""
    message = ctypes.c_ulong(0)
    _request(_GETEVENTMSG, thread, None, ctypes.byref(message))
    return message.value


def syscall_stop(thread: int) -> SyscallStop | None:
    """
    Tell at which entry or exit a tracee stands; None if it was killed meanwhile or stands at neither.

    Raises:
        PtraceRefused: the kernel is older than the request.
    """
    info = _SyscallInfo()
    try:
        found = _request(_GET_SYSCALL_INFO, thread, ctypes.sizeof(info), ctypes.byref(info))
    except OSError as failure:
        raise PtraceRefused(f"the kernel can't describe system calls (Linux 5.3 can): {failure}") from failure
    if not found:
        return None
    if info.op == 1:
        return SyscallStop(True, info.arch, info.u.entry.number, tuple(info.u.entry.args), 0)
    if info.op == 2:
        return SyscallStop(False, info.arch, 0, (), info.u.exit.result)
    return None


def read_memory(process: int, address: int, length: int) -> bytes:
    """
    Read a tracee's memory; what can't be read at the end is left out.

    Raises:
        OSError: nothing can be read there.
        PtraceRefused: the kernel allows it nowhere.
    """
    if length == 0:
        return b""
    buffer = ctypes.create_string_buffer(length)
    here, there = _IoVec(ctypes.addressof(buffer), length), _IoVec(address, length)
    got = _libc.process_vm_readv(process, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    if got == -1:
        number = ctypes.get_errno()
        if number in (errno.EPERM, errno.ENOSYS):
            raise PtraceRefused(f"the kernel refuses to read a child's memory: {os.strerror(number)}")
        raise OSError(number, f"{length} bytes at {address:#x} of process {process}: {os.strerror(number)}")
    return buffer.raw[: int(got)]

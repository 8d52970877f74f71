"""
Child processes for the tests of the store: run to an end, or kept talking to.

Tests wait for lines a child prints, never for time. As root every directory can be written, so the children
that must not be able to first give that power away.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import TracebackType
from typing import Self

PATIENCE_SECONDS = 60

# Root that may not override permissions is a user like others, and owns the test's files.
UNPRIVILEGED = """
import ctypes, os
if os.geteuid() == 0:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
"""


def run_child(code: str, *arguments: object, unprivileged: bool = False) -> str:
    """Run Python code in a process of its own; give what it printed. Its failure is the test's."""
    text = (UNPRIVILEGED if unprivileged else "") + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr), done.stderr
    return done.stdout


class Child:
    """A Python process that is talked to by lines; killed at the end of its `with`."""

    def __init__(self, code: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(code), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> str:
        """Give the next line it prints, without its end; "" when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, line: str = "") -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def wait(self) -> int:
        """Wait for its end; give its exit status."""
        return self.process.wait(PATIENCE_SECONDS)

"""
Opens images of a power cut, each in a process of its own, by the thousand.

What a cut left may end in a signal whoever opens it, may hang, and must not be able to change how the next one is
seen. A process for each image is cheap if it is forked from one that has little in it; so a fresh interpreter
imports what the check needs, opens nothing, and forks for each image that it is sent. Forking from the tests' own
process would cost several times as much, and would bring its threads along.

In these processes nothing is synced: what becomes of *their* files doesn't matter, and half of the time would go
into waiting for the disk. And the look at a store that wasn't closed cleanly is the one that opening it always takes
(`polos.store.walk`), but here, for this is the child already.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self, final

from polos.store import check as store_check
from polos.store.check import VerifyReport
from polos.store.walk import NOTE, _Walk

from .power_disk import Image

__all__ = ["CheckServer", "Promises", "main", "walk"]

PATIENCE_SECONDS = 60
TEXT_MAX = 8_000  # of an answer, which must fit into a pipe: whoever asks may be about to send the next image
_LENGTH = struct.Struct("<Q")
_ABOUT_TO_RUN = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from tests.crash.power_server import main; main()"
)

Promises = dict[str, list[int]]  # the numbers of the marks that had been passed, by name


@final
class CheckServer:
    """
    The process that forks; use it in a `with`.

    The check is named as "module:function" and gets the directory of an image, what had been promised at the last
    moment at which a cut could leave it, and what at the first.
    """

    def __init__(self, check: str, where: Path) -> None:
        """Start it, with an empty directory to lay images out in."""
        hear, self._tell_there = os.pipe()
        self._hear_there, tell = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ABOUT_TO_RUN, json.dumps(sys.path), check, str(where), str(hear), str(tell)],
            pass_fds=[hear, tell],
        )
        os.close(hear)
        os.close(tell)
        self._tell: IO[bytes] = os.fdopen(self._tell_there, "wb")
        self._hear: IO[bytes] = os.fdopen(self._hear_there, "rb")

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._tell.close()
        self._hear.close()
        self._process.wait()

    def failures(self, images: Iterable[tuple[Image, Promises, Promises]]) -> Iterator[str | None]:
        """Check images, in order; gives for each what is wrong with it, None if nothing is."""
        ahead = 0
        for image, last, first in images:
            # One is checked while the next one is made.
            _send_task(self._tell, image, last, first)
            ahead += 1
            if ahead > 1:
                yield self._answer()
                ahead -= 1
        if ahead:
            yield self._answer()

    def _answer(self) -> str | None:
        raw = _receive(self._hear)
        assert raw is not None, "the process that forks has died"
        answer: str | None = json.loads(raw)
        return answer


def walk(directory: str | os.PathLike[str], extent: str = "all", fold: str | None = None) -> VerifyReport:
    """Do what `verify` and `check_tail` do in a child, in this process."""
    with tempfile.TemporaryFile() as shared:
        shared.write(bytes(NOTE.size))
        shared.flush()
        walking = _Walk(Path(directory), shared.fileno())
        walking.run(extent, fold or "")
        return walking.report()


def main() -> None:
    """Serve until nobody asks any more."""
    _, _, check_name, where, hear, tell = sys.argv
    module, _, name = check_name.partition(":")
    check = getattr(importlib.import_module(module), name)
    # What each check would do in the same way, and what takes longer than the check.
    getattr(importlib.import_module(module), "warm", lambda: None)()
    assert "_in_child" in vars(store_check), "opening a store that wasn't closed cleanly goes through this"
    vars(store_check)["_in_child"] = walk
    for call in ("fsync", "fdatasync"):
        setattr(os, call, lambda _: None)
    gc.freeze()  # or each child's first collection would copy all that was imported
    asking, answering = os.fdopen(int(hear), "rb"), os.fdopen(int(tell), "wb")
    number = 0
    with contextlib.suppress(BrokenPipeError):  # whoever asked has seen enough failures
        while (task := _receive_task(asking)) is not None:
            number += 1
            _send(answering, json.dumps(_checked(check, Path(where, str(number)), *task)).encode())


def _checked(check: Callable[..., object], top: Path, image: Image, last: Promises, first: Promises) -> str | None:
    """Check one image in a forked child; gives what is wrong."""
    top.mkdir()
    with tempfile.TemporaryFile(dir=top.parent) as told:
        process = os.fork()
        if process == 0:
            code = 1
            try:
                os.dup2(told.fileno(), sys.stderr.fileno())
                faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
                image.write(top)
                check(top, last, first)
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        told.seek(0)
        text = told.read().decode(errors="replace")[-TEXT_MAX:]
    shutil.rmtree(top)
    if code == 0:
        return None
    return f"died of {signal.Signals(-code).name}: {text}" if code < 0 else text


def _send_task(pipe: IO[bytes], image: Image, last: Promises, first: Promises) -> None:
    """Send an image as a head of JSON and its files as they are: it is large, and there are thousands."""
    lengths = {name: len(content) for name, content in image.files.items()}
    head = {"lengths": lengths, "directories": image.directories, "last": last, "first": first}
    _send(pipe, json.dumps(head).encode(), *image.files.values())


def _receive_task(pipe: IO[bytes]) -> tuple[Image, Promises, Promises] | None:
    raw = _receive(pipe)
    if raw is None:
        return None
    head = json.loads(raw)
    files = {name: pipe.read(length) for name, length in head["lengths"].items()}
    return Image(files, tuple(head["directories"])), head["last"], head["first"]


def _send(pipe: IO[bytes], raw: bytes, *more: bytes) -> None:
    pipe.write(_LENGTH.pack(len(raw)) + raw)
    for content in more:
        pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """Give what was sent, without what comes behind it; None if nothing comes any more."""
    head = pipe.read(_LENGTH.size)
    return None if len(head) < _LENGTH.size else pipe.read(_LENGTH.unpack(head)[0])

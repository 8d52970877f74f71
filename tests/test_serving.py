"""`serve` under Ctrl-C: a clean end, and nothing taken from programs that go their own way; and `python -m polos`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from polos import Polos
from polos.runtime.interrupts import Interrupted
from polos.store.ownership import was_closed_cleanly

PATIENCE_SECONDS = 60

SERVES = """
import asyncio, sys
from polos import Polos

async def main():
    async with Polos(data_dir=sys.argv[1]) as polos:
        asyncio.get_running_loop().call_soon(lambda: print("up", flush=True))  # when it serves
        try:
            await polos.serve()
        finally:
            await asyncio.sleep(0)
            print("cleaned up", flush=True)

asyncio.run(main())
"""


def press() -> None:
    """Press Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def soon(polos: Polos, call: Any = press) -> None:
    """Do something when an engine serves and has nothing to do."""
    asyncio.get_running_loop().call_soon(lambda: call() if polos._serving else soon(polos, call))


def test_ctrl_c_ends_a_program_that_serves(tmp_path: Path):
    """It cleans up, stops, and ends with the status of an interrupt; nothing is printed."""
    process = subprocess.Popen([sys.executable, "-c", SERVES, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    printed, told = process.communicate(timeout=PATIENCE_SECONDS)

    assert (b"up\n", b"cleaned up\n", b"", 130) == (first, printed, told, process.returncode)
    assert was_closed_cleanly(tmp_path)


def test_ctrl_c_is_a_keyboard_interrupt_still(tmp_path: Path):
    """Whoever catches one, around `asyncio.run` or around `serve`, gets one; the signal is asyncio's again."""
    handlers: list[Any] = []

    async def main() -> None:
        polos = Polos(data_dir=tmp_path)
        handlers.append(signal.getsignal(signal.SIGINT))
        soon(polos)
        try:
            await polos.serve()
        finally:
            handlers.append(signal.getsignal(signal.SIGINT))

    with pytest.raises(KeyboardInterrupt) as raised:
        asyncio.run(main())
    before, after = handlers

    assert isinstance(raised.value, Interrupted)
    assert isinstance(raised.value, SystemExit)
    assert 130 == raised.value.code
    assert before is after
    assert was_closed_cleanly(tmp_path)


def test_ctrl_c_while_an_engine_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also before it serves: what was opened is closed, and there is no traceback."""

    async def hangs(_polos: Polos) -> None:
        press()
        await asyncio.Event().wait()

    monkeypatch.setattr(Polos, "start", hangs)
    with pytest.raises(Interrupted):
        asyncio.run(Polos(data_dir=tmp_path).serve())


def test_ctrl_c_in_a_block_that_does_not_serve(tmp_path: Path):
    """It is the program that is interrupted there: Python says where, once the engine has stopped gracefully."""

    async def main() -> None:
        async with Polos(data_dir=tmp_path):
            press()
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt) as raised:
        asyncio.run(main())
    cause = raised.value.__context__

    assert not isinstance(raised.value, SystemExit)
    assert isinstance(cause, asyncio.CancelledError)
    assert "main" in [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
    assert was_closed_cleanly(tmp_path)


@pytest.mark.parametrize("how", ["another task", "own handler", "interactive"])
def test_ctrl_c_of_a_program_that_goes_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str):
    """A program that serves beside other things, handles the signal, or is typed line by line has it as before."""
    pressed: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    async def main() -> None:
        polos = Polos(data_dir=tmp_path)
        serving = asyncio.create_task(polos.serve())
        soon(polos)
        try:
            await serving
        finally:
            await polos.stop()

    async def handles() -> None:
        signal.signal(signal.SIGINT, handle)
        serving = asyncio.current_task()
        assert serving is not None
        polos = Polos(data_dir=tmp_path)

        def press_then_cancel() -> None:
            press()
            soon(polos, serving.cancel)

        soon(polos, press_then_cancel)
        await polos.serve()

    if how == "interactive":
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)) as raised:
            asyncio.run(handles() if how == "own handler" else main())
    finally:
        signal.signal(signal.SIGINT, before)

    assert ("own handler" == how) == isinstance(raised.value, asyncio.CancelledError)
    assert not isinstance(raised.value, SystemExit)
    assert [signal.SIGINT] * ("own handler" == how) == pressed


def test_another_cancellation_stays_one(tmp_path: Path):
    """A task that somebody cancels is cancelled, and not interrupted."""

    async def main() -> None:
        polos = Polos(data_dir=tmp_path)
        serving = asyncio.current_task()
        assert serving is not None
        soon(polos, serving.cancel)
        await polos.serve()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_python_m_polos_is_the_command(tmp_path: Path):
    """The same command with the same exit code, whatever is on the path."""
    told = subprocess.run(
        [sys.executable, "-m", "polos", "--data-dir", tmp_path / "none", "ls"],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip

    assert (1, "") == (told.returncode, told.stdout)
    assert "is no polos store" in told.stderr

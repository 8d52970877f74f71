"""The command line as a program: terminals, pipes, signals, what it loads."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from polos.engine import events as e

from tests.store_children import PATIENCE_SECONDS
from tests.stories import created, story_on_disk
from tests.tidy import ROOT

RUN = "0190-aaaa"
POLOS = [sys.executable, "-c", "from polos.cli import main; main()"]


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """A data directory that nobody owns, with many runs."""
    directory = tmp_path / "data"
    with story_on_disk(directory) as story:
        for number in range(50):
            run = f"{RUN}-{number}"
            story.tell(run, (number, created(run, "w" * 100)), (number, e.RunStarted(attempt=1)))
            story.tell(run, (number, e.RunCompleted(cause=2)))
    return directory


def environment(directory: Path, **more: str) -> dict[str, str]:
    """Give the environment of a terminal."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**kept, "POLOS_DATA_DIR": str(directory), "TERM": "xterm-256color", **more}


def on_terminal(directory: Path, *arguments: str, **more: str) -> bytes:
    """Give what a command prints on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*POLOS, *arguments], stdout=theirs, stderr=theirs, env=environment(directory, **more), cwd=ROOT
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            more_seen = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not more_seen:
            break
        seen += more_seen
    os.close(ours)
    assert 0 == process.wait(PATIENCE_SECONDS)
    return seen


def test_colours_on_a_terminal_only(dead):
    """A terminal gets colours unless NO_COLOR is set; a pipe gets none, and whole lines."""
    coloured = on_terminal(dead, "ls", "--limit", "3")
    plain = on_terminal(dead, "ls", "--limit", "3", NO_COLOR="1")
    piped = subprocess.run(
        [*POLOS, "ls", "--limit", "3"], env=environment(dead), capture_output=True, check=True, cwd=ROOT
    ).stdout

    assert b"\x1b[32m" in coloured
    assert b"\x1b[32m" not in plain
    assert b"\x1b" not in piped
    assert 3 == piped.count(b"w" * 100)


def test_who_reads_may_stop(dead):
    """A reader that goes away in the middle is no error."""
    process = subprocess.Popen(
        [*POLOS, "ls", "--json"], env=environment(dead), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert (0, b"") == (process.wait(PATIENCE_SECONDS), process.stderr.read())
    process.stderr.close()


FOLLOWED = """
import asyncio, sys
from polos import Polos, workflow

@workflow(id="hello")
async def hello(ctx, payload: dict):
    return await ctx.step.run("greet", lambda: "hi")

async def main():
    async with Polos(data_dir=sys.argv[1]) as polos:
        await hello.run(polos, {})

asyncio.run(main())
"""


def test_following_everything_until_interrupted(tmp_path):
    """`tail --all` shows what happens in any run as it happens, through engines coming and going; Ctrl-C ends it."""
    directory = tmp_path / "data"
    with story_on_disk(directory) as story:
        story.tell(RUN, (0, created(RUN)))
    process = subprocess.Popen(
        [*POLOS, "tail", "--all", "--from-start", "--json"],
        env=environment(directory), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    kinds: list[str] = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", FOLLOWED, directory], check=True, cwd=ROOT, timeout=PATIENCE_SECONDS)
        kinds += [orjson.loads(process.stdout.readline())["event_type"] for _ in range(4)]
    process.send_signal(signal.SIGINT)

    assert ["workflow_start", "step_start", "step_finish", "workflow_finish"] * 2 == kinds
    assert (130, b"") == (process.wait(PATIENCE_SECONDS), process.stderr.read())
    process.stdout.close()
    process.stderr.close()


def test_following_where_nobody_runs(tmp_path):
    """Who follows a run that no engine will move is told so, and not by the stream itself."""
    directory = tmp_path / "data"
    with story_on_disk(directory) as story:
        story.tell(RUN, (0, created(RUN)))
    process = subprocess.Popen(
        [*POLOS, "tail", RUN], env=environment(directory), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert process.stderr is not None
    told = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)

    assert b"polos: no engine is running; what one does is shown when there is one\n" == told
    assert (130, b"") == (process.returncode, printed)


LOADED = """
import sys
from polos.cli import run
code = run(sys.argv[1:])
assert code == 0, code
print(*{name.split(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"openai", "anthropic", "pydantic", "lmdb", "croniter"}),
        (["ls"], {"openai", "anthropic", "pydantic", "croniter"}),
        (["show", f"{RUN}-1"], {"openai", "anthropic", "pydantic", "croniter"}),
        (["why", f"{RUN}-1"], {"openai", "anthropic", "pydantic", "croniter"}),
    ],
)
def test_what_a_command_loads(dead, arguments, absent):
    """People wait for a command, so it loads no model provider, and no validation library to list what is there."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env=environment(dead), capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip

    assert set() == absent & set(done.stderr.split())


def test_the_installed_program(dead):
    """`polos` is on the path of an installation and ends with the exit code of its command."""
    program = Path(sys.executable).with_name("polos")
    good = subprocess.run([program, "ls"], env=environment(dead), capture_output=True, check=False)
    bad = subprocess.run([program, "show", "zzz"], env=environment(dead), capture_output=True, check=False)

    assert (0, 1) == (good.returncode, bad.returncode)
    assert b"next: polos ls" in bad.stderr

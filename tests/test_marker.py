"""
The note of whose code is on the loop: what outlives a killed process, and what resets the count.

Most tests let "the process" die by forgetting the marker without closing it, which leaves the file as a kill does.
Two really kill.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polos
import pytest
from polos.errors import StoreFailed, StoreFull, StoreReadOnly
from polos.runtime import marker as marker_module
from polos.runtime.marker import Marker, NoMarker

from tests.crash.children import fork, in_child

RUN = "01890a5d-ac96-774b-bcce-b302099a8057"
OTHER = "01890a5d-ac96-774b-bcce-b302099a8058"
KILLS = 40


@pytest.fixture
def path(tmp_path):
    """Where the marker is kept."""
    return tmp_path / "on_loop"


def die(path: Path, *entered: tuple[str, int]) -> tuple[str, int] | None:
    """Open a marker, run code of these runs one after another, and die in the last; gives what it found."""
    marker = Marker(path)
    for number, (run, at) in enumerate(entered):
        if number:
            marker.leave()
        marker.enter(run, at)
    return marker.previous()


def found(path: Path) -> tuple[str, int] | None:
    """Open a marker as the next process would, and close it."""
    marker = Marker(path)
    marker.close()
    return marker.previous()


def test_nothing_at_first(path):
    """Where there was no process there is no previous run; the file is the user's alone."""
    marker = Marker(path)

    assert None is marker.previous()
    assert 0o600 == path.stat().st_mode & 0o777
    assert ["on_loop"] == os.listdir(path.parent)


def test_run_on_the_loop_at_death(path):
    """The run that was entered last, and not left, is the one."""
    die(path, (OTHER, 1), (RUN, 1))

    assert (RUN, 1) == found(path)


def test_deaths_in_a_row(path):
    """Deaths with the same run on the loop are counted, and others start from one."""
    seen = [die(path, (run, 0)) for run in (RUN, RUN, RUN, OTHER, RUN)]

    assert [None, (RUN, 1), (RUN, 2), (RUN, 3), (OTHER, 1)] == seen
    assert (RUN, 1) == found(path)


def test_deaths_at_other_facts(path):
    """A run that got on between two deaths isn't what kills: it counts from one again."""
    seen = [die(path, (RUN, at)) for at in (7, 7, 8, 8, 8)]

    assert [None, (RUN, 1), (RUN, 2), (RUN, 1), (RUN, 2)] == seen
    assert (RUN, 3) == found(path)


def test_death_with_nobody_on_the_loop(path):
    """A process that died while it ran nobody's code leaves nobody, and ends the row."""
    die(path, (RUN, 0))
    marker = Marker(path)
    marker.enter(RUN)
    marker.leave()
    del marker

    assert None is die(path, (RUN, 0))
    assert (RUN, 1) == found(path)


def test_clean_close(path):
    """Closing ends the row, also with a run still on the loop; closing twice is fine."""
    die(path, (RUN, 0))
    marker = Marker(path)
    marker.enter(RUN)
    marker.close()
    marker.close()

    assert (RUN, 1) == marker.previous()
    assert None is found(path)


def test_closing_in_a_forked_child(path):
    """What a forked child closes is its own view: the note of its parent stays."""
    marker = Marker(path)
    marker.enter(RUN)
    in_child(marker.close)
    del marker

    assert (RUN, 1) == found(path)


def test_count_has_an_end(path, monkeypatch):
    """The count of deaths stops at its largest number instead of starting over."""
    monkeypatch.setattr(marker_module, "_DEATHS_MAX", 2)
    for _ in range(4):
        die(path, (RUN, 0))

    assert (RUN, 2) == found(path)


def test_ids_of_any_length(path):
    """Ids are kept whole: short after long, and up to the limit."""
    die(path, ("x" * 300, 0), ("é", 0))
    assert ("é", 1) == found(path)

    longest = "x" * marker_module._ID_BYTES_MAX
    die(path, (longest, 2**32 - 1))
    assert (longest, 1) == found(path)

    with pytest.raises(AssertionError, match="ids of runs are short"):
        Marker(path).enter(longest + "x")


def test_after_another_boot(path, monkeypatch, tmp_path):
    """What was written before the machine was started again says nothing: the file may be any older one."""
    boot = tmp_path / "boot"
    boot.write_text("69fb0414-b7bc-432b-9196-c0672a0651e8\n")
    monkeypatch.setattr(marker_module, "_BOOT_ID", boot)
    die(path, (RUN, 0))
    boot.write_text("aaaaaaaa-b7bc-432b-9196-c0672a0651e8\n")

    assert None is die(path, (RUN, 0))
    assert (RUN, 1) == found(path)


def test_boots_without_a_name(path, monkeypatch, tmp_path):
    """Where the system doesn't name its boots, deaths are counted all the same."""
    monkeypatch.setattr(marker_module, "_BOOT_ID", tmp_path / "none")
    die(path, (RUN, 0))

    assert (RUN, 1) == found(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw + b"x",
        lambda raw: bytes(len(raw)),
        lambda raw: b"\xff" * len(raw),
    ],
    ids=["empty", "short", "long", "zeros", "ones"],
)
def test_damaged_file(path, damage):
    """A file that isn't a whole marker is none; the next process starts anew."""
    die(path, (RUN, 0))
    path.write_bytes(damage(path.read_bytes()))

    assert None is die(path, (RUN, 0))
    assert (RUN, 1) == found(path)


def test_every_damaged_byte(path):
    """Whichever byte is damaged, the answer is the run or nothing, and never a higher count."""
    die(path, (RUN, 3))
    die(path, (RUN, 3))
    whole = path.read_bytes()
    answers = set()
    for place in (*range(96), *range(512, 576), *range(992, 1024)):  # header, both slots, boot
        path.write_bytes(whole[:place] + bytes((whole[place] ^ 0x55,)) + whole[place + 1 :])
        answers.add(found(path))

    assert {(RUN, 1), (RUN, 2), None} == answers


def test_directory_in_the_way(path):
    """A file that can't be put in place is an error of the store."""
    path.mkdir()

    with pytest.raises(StoreFailed):
        Marker(path)


def test_directory_that_cannot_be_written(path, monkeypatch):
    """A directory that can't be written is told as such, and so is a full disk; no descriptor stays open."""
    descriptors = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    for code, expected in ((errno.EROFS, StoreReadOnly), (errno.ENOSPC, StoreFull)):

        def refuse(*_: object, code: int = code) -> None:
            raise OSError(code, "refused")

        with monkeypatch.context() as patch:
            patch.setattr("polos.runtime.marker.mmap.mmap", refuse)
            with pytest.raises(expected):
                Marker(path)
    assert None is found(path)
    gc.collect()

    assert descriptors == (os.listdir("/proc/self/fd") if descriptors else [])


def test_killed_process(path):
    """A process killed with a run on the loop leaves that run behind."""
    script = f"""
import sys, pathlib
sys.path.insert(0, {str(Path(polos.__file__).parent.parent)!r})
from polos.runtime.marker import Marker
marker = Marker(pathlib.Path(sys.argv[1]))
marker.enter({OTHER!r}); marker.leave(); marker.enter({RUN!r}, 5)
print("entered", flush=True); sys.stdin.read()
"""
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as victim:
            assert victim.stdout is not None
            assert b"entered\n" == victim.stdout.readline()
            victim.kill()
        assert -signal.SIGKILL == victim.returncode

    assert (RUN, 3) == found(path)


def test_killed_at_any_moment(path):
    """Wherever a kill hits between entering and leaving, opening included, what is found is one of the runs or none."""
    runs = [RUN, OTHER, "short", "x" * 300]
    expected: set[tuple[str, int] | None] = {None, *((run, 1) for run in runs)}

    def work(began: int) -> None:
        while True:
            marker = Marker(path)
            os.write(began, b".")
            for at in range(2_000):
                marker.enter(runs[at % len(runs)], at)
                marker.leave()

    answers = [_kill(work, path) for _ in range(KILLS)]

    assert set() == set(answers) - expected


def _kill(work: Callable[[int], None], path: Path) -> tuple[str, int] | None:
    hear, began = os.pipe()
    victim = fork()
    if victim == 0:
        work(began)
        os._exit(1)
    os.close(began)
    assert select.select([hear], [], [], 30)[0], "the victim never began"
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    os.close(hear)
    return found(path)


def test_no_marker():
    """Without a directory nothing is noted."""
    marker = NoMarker()
    marker.enter(RUN, 1)
    marker.leave()
    marker.close()

    assert None is marker.previous()

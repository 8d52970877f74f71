"""
Every gap between two calls is hit once, and nothing else is.

The victims here are so simple that one can say what each of them must leave.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.crash.children import ChildFailed, in_child
from tests.crash.kill_points import KillPoint, any_call, kill_points
from tests.crash.ledger import Ledger
from tests.crash.stepper import StepperError, mark


def files(directory: Path) -> dict[str, bytes]:
    """Give what a directory holds."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def careful(directory: Path) -> None:
    """Replace a file the way one should, and tell when it is done."""
    mark("begin")
    beside = os.open(directory / "new", os.O_CREAT | os.O_WRONLY)
    os.write(beside, b"one")
    os.write(beside, b"two")
    os.fsync(beside)
    os.rename(directory / "new", directory / "file")
    mark("done", 1)


def old_file(directory: Path) -> None:
    """Make what `careful` replaces."""
    (directory / "file").write_bytes(b"old")


@pytest.mark.usefixtures("ptrace")
def test_each_point_leaves_what_came_before_it(tmp_path):
    """Each victim leaves exactly what the calls before its point did, and the last one everything."""
    old, new = {"file": b"old"}, {"file": b"onetwo"}
    points = [
        (str(point), files(point.directory))
        for point in kill_points(careful, tmp_path / "victims", prepare=old_file, begin="begin")
    ]

    assert [
        ("killed before openat, point 0 of 6, after: begin 0", old),
        ("killed before write, point 1 of 6, after: begin 0", old | {"new": b""}),
        ("killed before write, point 2 of 6, after: begin 0", old | {"new": b"one"}),
        ("killed before fsync, point 3 of 6, after: begin 0", old | {"new": b"onetwo"}),
        ("killed before rename, point 4 of 6, after: begin 0", old | {"new": b"onetwo"}),
        ("killed before mark done 1, point 5 of 6, after: begin 0", new),
        ("killed before nothing (it came to its end), point 6 of 6, after: begin 0, done 1", new),
    ] == points


@pytest.mark.usefixtures("ptrace")
def test_without_a_begin_every_call_counts(tmp_path):
    """Counting starts with the program's first call, and marks are points that don't count as passed."""
    points = list(kill_points(careful, tmp_path / "victims"))

    assert "killed before mark begin 0, point 0 of 7, after: no mark" == str(points[0])
    assert [[]] * 7 + [[1]] == [point.numbers("done") for point in points]


@pytest.mark.usefixtures("ptrace")
def test_any_call_can_be_a_point(tmp_path):
    """With `any_call` calls that change nothing are points, too, but not those of an allocator."""

    def program(directory: Path) -> None:
        mark("begin")
        os.getppid()
        mmap.mmap(-1, 1 << 20).close()
        os.mkdir(directory / "d")
        os._exit(0)

    before = [
        getattr(point.before, "name", None)
        for point in kill_points(program, tmp_path / "victims", selector=any_call, begin="begin")
    ]

    assert ["getppid", "mkdir", "exit_group", None] == before


@pytest.mark.usefixtures("ptrace")
def test_directories_are_removed_unless_the_check_fails(tmp_path):
    """A victim's directory is gone after its check, and kept if the check raises."""

    def check(point: KillPoint) -> None:
        assert point.number < 2, str(point)

    def run() -> None:
        for point in kill_points(careful, tmp_path / "victims", prepare=old_file):
            check(point)

    with pytest.raises(AssertionError, match="point 2 of 7"):
        run()

    assert {"template", "victim-2"} == {path.name for path in (tmp_path / "victims").iterdir()}


@pytest.mark.usefixtures("ptrace")
def test_something_can_live_beside_a_victim(tmp_path):
    """What is asked for beside the victims begins before each and ends after its check."""
    told: list[str] = []

    @contextlib.contextmanager
    def beside(directory: Path) -> Generator[None]:
        told.append(f"{directory.name} begins with {len(files(directory))}")
        yield
        told.append(f"{directory.name} ends")

    points = kill_points(lambda directory: (directory / "f").touch(), tmp_path / "victims", beside=beside)
    told.extend(f"check of {len(files(point.directory))}" for point in points)

    assert [
        *("count begins with 0", "count ends"),
        *("victim-0 begins with 0", "check of 0", "victim-0 ends"),
        *("unharmed begins with 0", "check of 1", "unharmed ends"),
    ] == told


@pytest.mark.usefixtures("ptrace")
def test_a_program_that_changes_its_mind_is_refused(tmp_path):
    """A program that doesn't do the same each time is an error, not a victim killed somewhere else."""

    def program(directory: Path) -> None:
        (directory / "a").mkdir()
        if directory.name != "count":
            (directory / "b").rmdir()
        (directory / "b").mkdir()

    with pytest.raises(StepperError, match="isn't the same each time"):
        for _ in kill_points(program, tmp_path / "victims"):
            pass


@pytest.mark.usefixtures("ptrace")
def test_a_program_that_ends_early_is_refused(tmp_path):
    """A victim that never comes to its point is an error."""

    def program(directory: Path) -> None:
        (directory / "a").mkdir()
        if directory.name == "count":
            (directory / "b").mkdir()

    with pytest.raises(StepperError, match="isn't the same each time"):
        for _ in kill_points(program, tmp_path / "victims"):
            pass


@pytest.mark.usefixtures("ptrace")
@pytest.mark.parametrize(
    ("program", "reason"),
    [(lambda _: sys.exit(2), "exited with 2"), (lambda _: os.getppid(), "had 0 points")],
    ids=["fails", "does nothing"],
)
def test_a_program_without_points_is_refused(tmp_path, program, reason):
    """A program that fails undisturbed, or has no points, can't be what was meant."""
    with pytest.raises(StepperError, match=reason):
        next(kill_points(program, tmp_path / "victims"))


def test_a_childs_result_comes_back():
    """What the function returned in the child is given, and it did run in a child."""
    parent = os.getpid()

    assert [[1, "two"], True] == in_child(lambda: [[1, "two"], os.getppid() == parent])


def fail() -> None:
    """Fail in a way that the message tells."""
    raise LookupError("the reason")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (fail, "LookupError: the reason"),
        (lambda: lambda: None, "not JSON serializable"),
        (lambda: {1: "one"}, "isn't the same when read from JSON: {1: 'one'}"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), f"of signal {int(signal.SIGKILL)}"),
        (lambda: os._exit(7), "with exit code 7"),
        (lambda: sys.exit(0), "with exit code 1"),
    ],
    ids=["raises", "not JSON", "other as JSON", "signal", "exit code", "exits without an answer"],
)
def test_a_childs_failure_comes_back(function, text):
    """A child that raises, or dies, fails the test with what happened in it."""
    with pytest.raises(ChildFailed, match=text):
        in_child(function)


@pytest.mark.parametrize("torn", [b"", b"\n", b"\n[", b'\n["call", "torn", [1, 2]'])
def test_a_line_that_a_kill_broke_off_is_no_line(tmp_path: Path, torn: bytes):
    """The witness tells what was written as a whole, and what others write behind the beginning of a line."""
    ledger = Ledger(tmp_path)
    ledger.note("call", "before")
    with ledger.path.open("ab") as file:
        file.write(torn)
    ledger.note("call", "behind")

    assert ["before", "behind"] == [line.key for line in ledger.lines("call")]

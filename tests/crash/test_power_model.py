"""
The model of a power cut leaves what it says and nothing else.

The histories here are so short that one can say what each cut must leave. That a whole life of a store, played
through without any cut, leaves what really lies in its directory is checked, too: what a recording misses would make
every image wrong in the same way.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.crash.changes import (
    Allocate,
    Change,
    Create,
    Link,
    MakeDirectory,
    Map,
    Reached,
    Remove,
    Rename,
    Symlink,
    Sync,
    SyncAll,
    SyncMap,
    Truncate,
    Write,
)
from tests.crash.fileops import FileOp, Recording
from tests.crash.lives import append_groups, make_and_append, make_store, put_and_consume, write_with_blobs
from tests.crash.power_disk import WHOLE, Cut, History, Image, Put, Snapshot, Unmodelled
from tests.crash.power_images import pictures
from tests.crash.power_runs import recorded
from tests.crash.power_server import CheckServer, Promises

TOP = Path("/top")
DIRECTORY = 1  # its inode
OLD = Snapshot({"old": (7, b"o" * 1024)}, ("sub",))
NOTHING = Snapshot({}, ())
SECTOR = 512


def told(*changes: Change | tuple[int, int, Change]) -> Recording:
    """Make a recording of changes one after another, or at the moments said."""
    ops = [
        FileOp(*each[:2], 1, 1, each[2]) if isinstance(each, tuple) else FileOp(2 * at, 2 * at + 1, 1, 1, each)
        for at, each in enumerate(changes)
    ]
    return Recording(tuple(ops), ())


def history(*changes: Change | tuple[int, int, Change], before: Snapshot = NOTHING) -> History:
    """Make the history of changes below /top."""
    made = History(before)
    made.follow(told(*changes), TOP, before)
    return made


def leaves(made: History, *, at_the_end: bool = True) -> list[dict[str, bytes]]:
    """Give what cuts at the end leave, or at any moment, each once; directories have a slash and hold nothing."""
    moments = [made.moments[-1]] if at_the_end else None
    found = pictures(made, subsets=200, seed="model", moments=moments).found
    images = [made.image(each.cut) for each in found]
    return [each.files | {f"{name}/": b"" for name in each.directories} for each in images]


def same(left: list[dict[str, bytes]], right: list[dict[str, bytes]]) -> bool:
    """Tell whether two lists have the same elements."""
    return len(left) == len(right) and all(each in right for each in left)


NEW = Create("/top/a", 2)
BYTES = Write("/top/a", 2, 0, b"abc")
SYNC = Sync("/top/a", 2)
SYNC_TOP = Sync("/top", DIRECTORY)


def test_nothing_is_certain_without_a_sync():
    """A new file and its bytes are there, or not, or the name alone, or the length without the bytes."""
    assert same([{}, {"a": b""}, {"a": b"\0\0\0"}, {"a": b"abc"}], leaves(history(NEW, BYTES)))


def test_a_sync_of_a_file_leaves_its_name_at_risk():
    """After `fsync` of the file alone there is a whole file or none."""
    assert same([{}, {"a": b"abc"}], leaves(history(NEW, BYTES, SYNC)))


def test_a_sync_of_a_directory_leaves_bytes_at_risk():
    """After `fsync` of the directory alone the name is certain, and nothing in the file."""
    assert same([{"a": b""}, {"a": b"\0\0\0"}, {"a": b"abc"}], leaves(history(NEW, BYTES, SYNC_TOP)))


@pytest.mark.parametrize("syncs", [(SYNC, SYNC_TOP), (SyncAll(),)], ids=["both", "all"])
def test_with_both_everything_is_certain(syncs):
    """After both a cut leaves one thing only."""
    assert [{"a": b"abc"}] == leaves(history(NEW, BYTES, *syncs))


def test_what_is_certain_stays_certain():
    """Another sync of the same file doesn't make it less certain what the first one had covered."""
    made = history(NEW, BYTES, SYNC, SYNC_TOP, SYNC)
    first = made.effects[1].safe

    assert first is not None
    assert [0] == made.possible(first)
    assert first < made.moments[-1]


def test_a_range_and_a_map_that_is_only_read_are_no_matter():
    """`sync_file_range` makes nothing certain, and a map that can't be written changes nothing."""
    ranged = Sync("/top/a", 2, True, (0, 3))
    mapped = Map("/top/a", 2, 0, 4096, False)

    assert 4 == len(leaves(history(NEW, mapped, BYTES, ranged)))


def test_a_name_in_a_directory_that_is_not_certain_goes_with_it():
    """What is synced inside a new directory is lost if the directory's own name is."""
    inside = (Create("/top/d/a", 2), Write("/top/d/a", 2, 0, b"abc"), Sync("/top/d/a", 2), Sync("/top/d", 3))

    assert same([{}, {"d/": b"", "d/a": b"abc"}], leaves(history(MakeDirectory("/top/d"), *inside)))


def test_a_rename_is_whole_or_not_at_all():
    """Both names change or neither, and what was there before is there until then."""
    steps = (Create("/top/.new", 2), Write("/top/.new", 2, 0, b"new"), Sync("/top/.new", 2), SYNC_TOP)
    made = history(*steps, Rename("/top/.new", "/top/old"), before=OLD)
    old = OLD.files["old"][1]

    assert same([{"sub/": b"", ".new": b"new", "old": old}, {"sub/": b"", "old": b"new"}], leaves(made))


def test_what_was_removed_may_be_back():
    """A removal that isn't synced may be lost; so may a second name."""
    old = OLD.files["old"][1]
    both = {"sub/": b"", "old": old, "two": old}
    made = history(Link("/top/old", "/top/two"), SYNC_TOP, Remove("/top/old"), before=OLD)

    assert same([both, {"sub/": b"", "two": old}], leaves(made))


def test_a_write_is_torn_between_sectors_only():
    """Of a write over three sectors, in part of the first and the last, any sectors may be there, each whole."""
    data = bytes(range(200, 256)) + b"m" * SECTOR + b"l" * 100
    made = history(Write("/top/old", 7, SECTOR - 56, data), before=Snapshot({"old": (7, bytes(4 * SECTOR))}, ()))
    expected = [
        {
            "old": bytes(SECTOR - 56)
            + (data[:56] if first else bytes(56))
            + (data[56:-100] if middle else bytes(SECTOR))
            + (data[-100:] if last else bytes(100))
            + bytes(SECTOR - 100 + SECTOR)
        }
        for first in (True, False)
        for middle in (True, False)
        for last in (True, False)
    ]

    assert same(expected, leaves(made))


def test_single_tears_need_no_luck():
    """Without any draw a write is torn at each sector, from its front and from its end."""
    put = Put(1, 0, b"x" * (4 * SECTOR))
    made = history(Write("/top/old", 7, 0, put.data), before=Snapshot({"old": (7, bytes(4 * SECTOR))}, ()))
    found = pictures(made, subsets=0, seed="", moments=[made.moments[-1]]).found
    there = {
        "".join("x" if made.image(each.cut).files["old"][at * SECTOR] else "." for at in range(4)) for each in found
    }

    longer = history(NEW, SYNC_TOP, BYTES)
    lengths = pictures(longer, subsets=0, seed="", moments=[longer.moments[-1]]).found

    assert [b"", b"\0\0\0", b"abc"] == sorted(longer.image(each.cut).files["a"] for each in lengths)
    assert 4 == put.sectors
    assert {"xxxx", "....", "x...", "xx..", "xxx.", ".xxx", "..xx", "...x"} == there


def test_a_synchronous_write_is_certain_when_it_returns():
    """O_DSYNC: it may be lost while it is under way, and not after."""
    made = history(Write("/top/old", 7, 0, b"new", synced=True), before=OLD)
    old = OLD.files["old"][1]

    assert [{"sub/": b"", "old": b"new" + old[3:]}] == leaves(made)
    assert 2 == len(leaves(made, at_the_end=False))


def test_a_length_that_was_set_may_be_lost():
    """A file that was cut short may have its old length."""
    old = OLD.files["old"][1]
    made = history(Truncate("/top/old", 7, 5), before=OLD)

    assert same([{"sub/": b"", "old": old}, {"sub/": b"", "old": old[:5]}], leaves(made))


def test_a_sync_covers_only_what_had_ended_when_it_began():
    """A write by another thread that ends while the sync is under way may be lost after it."""
    made = history((0, 1, NEW), (2, 5, BYTES), (4, 7, SYNC), (8, 9, SYNC_TOP))

    assert 3 == len(leaves(made))


def test_what_is_under_way_may_have_reached_the_disk():
    """Between the beginning and the end of a write a cut may leave it already, or a part of it."""
    made = history((0, 1, NEW), (2, 3, SYNC_TOP), (4, 9, BYTES))
    begun = next(moment for moment in made.moments if made.possible(moment) == [1])

    assert {"a": b""} == made.image(made.everything(begun)).files
    assert {"a": b"abc"} == made.image(Cut(begun, ((1, WHOLE),))).files


@pytest.mark.parametrize(
    "change",
    [
        Map("/top/old", 7, 0, 4096, True),
        Rename("/top/old", "/top/sub/old"),
        Rename("/top/sub", "/top/other"),
        Rename("/top/old", "/top/sub", exchanged=True),
        Symlink("old", "/top/link"),
        Allocate("/top/old", 7, 0, 0, 10),
        SyncMap("/top/old", 7, 0, b"", True),
    ],
    ids=["map", "move", "directory", "exchange", "symlink", "allocate", "msync"],
)
def test_what_is_not_modelled_is_refused(change):
    """What the model knows nothing of is an error, not an image that is wrong."""
    with pytest.raises(Unmodelled):
        history(change, before=OLD)


def test_who_comes_after_a_kill_can_make_certain_what_was_left():
    """What a killed program did may be lost, although the next one finds it, until the next one has synced it."""
    made = History(NOTHING)
    made.follow(told(NEW, BYTES, Remove("/top/a")), TOP, NOTHING, until=3)
    left = made.image(made.everything(made.moments[-1]))
    assert {"a": b"abc"} == left.files
    assert 4 == len(leaves(made))
    found = Snapshot({"a": (99, b"abc")}, ())

    made.follow(told(Sync("/top/a", 99)), TOP, found)
    assert same([{}, {"a": b"abc"}], leaves(made))

    after = (Write("/top/a", 99, 3, b"d"), Sync("/top/a", 99), Create("/top/b", 100), SYNC_TOP)
    made.follow(told(*after), TOP, found)
    assert [{"a": b"abcd", "b": b""}] == leaves(made)


def test_an_image_is_looked_at_once_with_all_its_promises():
    """An image that can be left at several moments is one, told with the first of them and the last."""
    made = history(Reached("a", 1), Reached("a", 2), NEW, Reached("b", 3))
    found = pictures(made, subsets=5, seed="").found
    empty = next(each for each in found if not made.image(each.cut).files)

    assert 2 == len(found)
    assert ({}, {"a": [1, 2], "b": [3]}) == (made.reached(empty.cut.moment), made.reached(empty.last))


def test_drawn_images_come_from_the_seed():
    """The same seed draws the same images, in order of their moments; of few all are taken."""
    made = pictures(history(NEW, BYTES, SYNC, SYNC_TOP), subsets=5, seed="")
    total = len(made.found)

    assert made.some(3, "seed") == made.some(3, "seed")
    assert 3 == len(made.some(3, "seed"))
    assert sorted(each.cut.moment for each in made.found) == [each.cut.moment for each in made.some(total + 1, "")]


@pytest.mark.usefixtures("ptrace")
@pytest.mark.parametrize(
    ("life", "prepare"),
    [
        (make_and_append, None),
        (append_groups, make_store),
        (write_with_blobs, make_store),
        (put_and_consume, make_store),
    ],
    ids=lambda function: getattr(function, "__name__", ""),
)
def test_without_a_cut_the_model_has_what_the_directory_has(tmp_path, life, prepare):
    """All effects of a life, none lost, leave what really lies there; LMDB's table of readers is mapped, so unseen."""
    made = recorded(tmp_path / "lived", life, prepare)
    real = Snapshot.take(tmp_path / "lived")
    image = made.image(made.everything(made.moments[-1]))

    assert real.directories == image.directories
    assert {name: content for name, (_, content) in real.files.items() if name != "data/log/lock.mdb"} == {
        name: content for name, content in image.files.items() if name != "data/log/lock.mdb"
    }


def judge(top: Path, last: Promises, first: Promises) -> None:
    """Do what an image asks for; a check that the server below is asked for."""
    (word,) = (path.read_text() for path in top.iterdir())
    if word == "raise":
        raise LookupError(f"the reason {last} {first}")
    if word == "be long":
        raise LookupError("x" * 1_000_000)
    if word == "die":
        os.kill(os.getpid(), signal.SIGBUS)


def test_images_are_judged_each_in_a_process_of_its_own(tmp_path):
    """What is wrong with an image comes back, also if its process dies of looking at it, and the next isn't harmed."""
    words = ["be sound", "raise", "die", "be long", "be sound"]
    images = [(Image({"word": word.encode()}, ()), {"a": [1]}, {"b": [2]}) for word in words]
    with CheckServer("tests.crash.test_power_model:judge", tmp_path) as server:
        sound, raised, died, long, again = server.failures(images)

    assert [None, None] == [sound, again]
    assert "LookupError: the reason {'a': [1]} {'b': [2]}" in str(raised)
    assert "died of SIGBUS" in str(died)
    assert 10_000 > len(str(long)) > 1_000
    assert [] == list(tmp_path.iterdir())


def kill_the_server(*_: object) -> None:
    """End the process that forks; a check that the server below is asked for."""
    os.kill(os.getppid(), signal.SIGKILL)


def test_a_server_that_died_passes_nothing(tmp_path):
    """An image that nobody answered for isn't taken for sound."""
    image: tuple[Image, Promises, Promises] = (Image({"word": b"any"}, ()), {}, {})

    with (
        CheckServer("tests.crash.test_power_model:kill_the_server", tmp_path) as server,
        pytest.raises(AssertionError, match="has died"),
    ):
        list(server.failures([image]))

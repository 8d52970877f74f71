"""What every inbox does, asked of all of them; and what only the one in a directory has to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from polos.clock import SystemClock
from polos.errors import PolosUsageError, StoreFailed, StoreReadOnly
from polos.store import inbox_dir
from polos.store.files import TEMPORARY_PREFIX
from polos.store.inbox import Inbox, InboxItem
from polos.store.inbox_dir import COMMAND_BYTES_MAX, DirectoryInbox, MemoryInbox

from tests.store_children import run_child

INBOXES: dict[str, Callable[[Path], Inbox]] = {"memory": lambda _: MemoryInbox(), "directory": DirectoryInbox}


@pytest.fixture(params=INBOXES)
def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Inbox:
    """Each inbox in turn."""
    return INBOXES[request.param](tmp_path)


def item(command_id: str, payload: bytes) -> InboxItem:
    """Make an item."""
    return InboxItem(command_id=command_id, payload=payload)


def test_commands_come_in_order_of_their_ids(inbox: Inbox):
    """Order is by id, not by when they were put."""
    for name in ("02", "01", "10", "03"):
        inbox.put(name, name.encode())

    assert [item(name, name.encode()) for name in ("01", "02", "03", "10")] == list(inbox.pending())
    assert [item("01", b"01"), item("02", b"02")] == list(inbox.pending(limit=2))
    assert [] == list(inbox.pending(limit=0))


def test_putting_the_same_id_again_changes_nothing(inbox: Inbox):
    """A client that isn't sure whether it put a command may put it again."""
    inbox.put("a", b"first")
    inbox.put("a", b"second")

    assert [item("a", b"first")] == list(inbox.pending())


def test_a_removed_command_is_gone_once(inbox: Inbox):
    """`remove` tells whether there was something to remove."""
    inbox.put("a", b"")
    assert inbox.remove("a")
    assert not inbox.remove("a")
    assert not inbox.remove("never")
    assert [] == list(inbox.pending())


@pytest.mark.parametrize("payload", [b"", bytes(range(256)), os.urandom(100_000)])
def test_payloads_come_back_whole(inbox: Inbox, payload: bytes):
    """Any bytes are a payload."""
    inbox.put("a", payload)
    assert payload == inbox.pending()[0].payload


@pytest.mark.parametrize("command_id", ["", ".", "..", ".hidden", "a/b", "a\x00", "x" * 129, "é", "unreadable", "-x"])
def test_an_id_that_is_no_file_name_is_refused(inbox: Inbox, command_id: str):
    """Ids become names of files; whatever could lead elsewhere is refused by all inboxes."""
    with pytest.raises(PolosUsageError):
        inbox.put(command_id, b"")
    assert [] == list(inbox.pending())


def test_a_command_over_the_limit_is_refused(inbox: Inbox):
    """The limit is named in the error."""
    with pytest.raises(PolosUsageError, match="COMMAND_BYTES_MAX"):
        inbox.put("a", bytes(COMMAND_BYTES_MAX + 1))


def test_commands_survive_the_inbox_object(tmp_path: Path):
    """What was put is found by whoever opens the directory next, in another process as well."""
    DirectoryInbox(tmp_path).put("a", b"here")
    code = """
        import pathlib, sys
        from polos.store.inbox_dir import DirectoryInbox
        inbox = DirectoryInbox(pathlib.Path(sys.argv[1]))
        inbox.put("b", inbox.pending()[0].payload + b" and there")
    """
    run_child(code, tmp_path)

    assert [item("a", b"here"), item("b", b"here and there")] == list(DirectoryInbox(tmp_path).pending())


def test_what_can_not_be_read_is_moved_aside_and_reported(tmp_path: Path):
    """A damaged file, a stranger's file, a fifo, a link and a directory are each told of once, and nothing waits."""
    told: dict[str, str] = {}
    inbox = DirectoryInbox(tmp_path, on_unreadable=lambda path, reason: told.update({path.name: reason}))
    inbox.put("good", b"1")
    inbox.put("flipped", b"payload")
    raw = bytearray((tmp_path / "flipped").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "flipped").write_bytes(raw)
    inbox.put("short", b"payload")
    (tmp_path / "short").write_bytes((tmp_path / "short").read_bytes()[:20])
    (tmp_path / "stranger").write_text("what is this?")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "good")
    (tmp_path / "folder").mkdir()

    assert [item("good", b"1")] == list(inbox.pending())
    assert {"flipped", "short", "stranger", "fifo", "link", "folder"} == set(told)
    assert set(told) == set(os.listdir(tmp_path / "unreadable"))
    told.clear()
    assert [item("good", b"1")] == list(inbox.pending())
    assert {} == told


def test_a_command_is_not_given_up_for_want_of_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What can't be opened because this process has no descriptors left is told, stays, and is given later."""
    inbox = DirectoryInbox(tmp_path)
    inbox.put("a", b"1")

    def none_left(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(inbox_dir, "_read", none_left)
        with pytest.raises(StoreFailed, match="Too many open files"):
            inbox.pending()

    assert [item("a", b"1")] == list(inbox.pending())


def test_who_only_looks_moves_nothing(tmp_path: Path):
    """A client lists what can be read, and leaves the rest to the owner."""
    told: list[Path] = []
    inbox = DirectoryInbox(tmp_path, on_unreadable=lambda path, _: told.append(path), owned=False)
    inbox.put("good", b"1")
    (tmp_path / "stranger").write_text("what is this?")

    assert [item("good", b"1")] == list(inbox.pending())
    assert {"good", "stranger"} == set(os.listdir(tmp_path))
    assert [] == told


def test_without_a_callback_the_unreadable_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Nothing is moved silently."""
    (tmp_path / "stranger").write_text("what is this?")
    DirectoryInbox(tmp_path).pending()

    assert "unreadable" in caplog.text


def test_what_is_half_written_is_no_command(tmp_path: Path):
    """A client killed before its rename leaves nothing the owner takes for a command; age removes it."""
    inbox = DirectoryInbox(tmp_path)
    young, old = tmp_path / f"{TEMPORARY_PREFIX}1-1", tmp_path / f"{TEMPORARY_PREFIX}1-2"
    young.write_bytes(b"half")
    old.write_bytes(b"half")
    hours_ago = SystemClock().now_us() // 1_000_000 - 2 * 3600
    os.utime(old, (hours_ago, hours_ago))

    assert [] == list(inbox.pending())
    assert 1 == inbox.clear_leftovers()
    assert [young.name] == os.listdir(tmp_path)


def test_an_inbox_that_is_gone_says_so(tmp_path: Path):
    """A directory somebody removed is a failure of the store, not an empty inbox."""
    inbox = DirectoryInbox(tmp_path / "none")
    with pytest.raises(StoreFailed):
        inbox.pending()
    with pytest.raises(StoreFailed):
        inbox.put("a", b"")


def test_a_read_only_inbox_says_so(tmp_path: Path):
    """Putting into a directory that can't be written is refused with its path."""
    tmp_path.chmod(0o555)
    code = """
        import pathlib, sys
        from polos.store.inbox_dir import DirectoryInbox
        try:
            DirectoryInbox(pathlib.Path(sys.argv[1])).put("a", b"")
        except Exception as error:
            print(type(error).__name__, error)
    """
    said = run_child(code, tmp_path, unprivileged=True)

    assert said.startswith(f"{StoreReadOnly.__name__} {tmp_path / 'a'}")


def test_putting_again_says_so_if_it_can_not_be_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who put the command first may have died before its name was synced, so that is done again, or told."""
    inbox = DirectoryInbox(tmp_path)
    inbox.put("a", b"")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "the disk says no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreFailed) as caught:
        inbox.put("a", b"")
    assert caught.value.maybe_happened
    assert [item("a", b"")] == list(inbox.pending())

"""Opening a data directory, and owning it: what is refused, in whose words, and who wins a race."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import pytest
from polos.errors import (
    ForkedStore,
    NotAPolosStore,
    PolosUsageError,
    StoreClosed,
    StoreFailed,
    StoreFormatTooNew,
    StoreInUse,
    StoreReadOnly,
)
from polos.store.directory import Store, open_store
from polos.store.ownership import LOCK_FILE, OwnerInfo, owner_info, was_closed_cleanly

from tests.contract.logs import payloads, record, unit
from tests.store_children import Child, run_child

MAP_BYTES = 64 << 20

# Opens the directory in argv[1], owns it, says so, and does as it is told.
OWNER = """
    import os, sys
    from polos.store.directory import open_store
    store = open_store(sys.argv[1], map_bytes=64 << 20)
    try:
        epoch = store.acquire_ownership()
    except Exception as error:
        print(type(error).__name__, error, flush=True)
        sys.exit()
    print("owner", epoch, flush=True)
    for line in sys.stdin:
        if line.strip() == "fork":
            child = os.fork()
            if child == 0:
                sys.stdin.close()
                os.close(1)
                import signal
                signal.pause()
            print(child, flush=True)
        elif line.strip() == "close":
            store.close()
            print("closed", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A directory that doesn't exist yet."""
    return tmp_path / "data"


def opened(path: Path, **how: object) -> Store:
    """Open with a small map."""
    return open_store(path, map_bytes=MAP_BYTES, **how)  # type: ignore[arg-type]  # a table of arguments


def test_a_new_directory_is_private_and_recognisable(path: Path):
    """It is made with everything in it, for its user alone, and says what it is."""
    with opened(path / "nested"):
        pass
    top = path / "nested"

    assert {"format": "polos", "version": 1} == json.loads((top / "format").read_text())
    assert {"format", "log", "blobs", "inbox"} == set(os.listdir(top))
    for name in ("", "log", "blobs", "inbox"):
        assert 0o700 == stat.S_IMODE((top / name).stat().st_mode)
    assert 0o600 == stat.S_IMODE((top / "log" / "data.mdb").stat().st_mode)


def test_a_large_payload_goes_through_log_and_blobs_and_comes_back(path: Path):
    """A store's reader resolves what its writer moved out of the log; garbage leaves what is needed."""
    from polos.store.writer import Writer

    large = os.urandom(70_000)
    with opened(path) as store:
        writer = Writer[int](store.log, store.acquire_ownership(), store.blobs, on_commit=lambda _: None)
        writer.submit(unit(record("a", large)), 1)
        writer.close()
        assert () == store.collect_garbage().blobs
        with store.log.reader() as reader:
            assert [large] == payloads(list(reader.records()))
            ((position, digests),) = reader.blobs()
    assert position == 1
    assert [path / "blobs" / digests[0][:2] / digests[0][2:]] == list((path / "blobs").glob("*/*"))


@pytest.mark.parametrize("content", [None, "{}", '{"format": "polos"}', '{"format": "other", "version": 1}', "\x00"])
@pytest.mark.parametrize("read_only", [False, True])
def test_somebody_elses_directory_is_not_touched(path: Path, content: str | None, read_only: bool):
    """Without our format file a directory that isn't empty is refused, with its path, and left as it is."""
    path.mkdir()
    (path / "precious").write_text("mine")
    if content is not None:
        (path / "format").write_text(content)
    before = set(os.listdir(path))

    with pytest.raises(NotAPolosStore, match=str(path)):
        opened(path, read_only=read_only)
    assert before == set(os.listdir(path))


@pytest.mark.parametrize("kind", ["missing", "file", "below a file", "format is a directory"])
def test_what_is_no_directory_of_ours_is_refused_in_our_words(path: Path, kind: str):
    """Each is `NotAPolosStore`, reading and writing (a missing one is made when writing)."""
    if kind == "file":
        path.write_text("a file")
    elif kind == "below a file":
        path.write_text("a file")
        path = path / "below"
    elif kind == "format is a directory":
        (path / "format").mkdir(parents=True)
    why = "no file that polos has written" if kind == "format is a directory" else "there is no such directory"
    with pytest.raises(NotAPolosStore, match=why):
        opened(path, read_only=True)
    if kind != "missing":
        with pytest.raises(NotAPolosStore):
            opened(path)


def test_an_unfinished_backup_is_refused(path: Path):
    """A copy that was cut off isn't taken for a store."""
    opened(path).close()
    (path / "incomplete").touch()
    with pytest.raises(NotAPolosStore, match="backup"):
        opened(path)


def test_a_newer_format_is_refused_and_left_alone(path: Path):
    """The error says which format was found and what to do."""
    opened(path).close()
    (path / "format").write_text('{"format": "polos", "version": 2}')
    for read_only in (False, True):
        with pytest.raises(StoreFormatTooNew, match=r"format 2.*newer polos"):
            opened(path, read_only=read_only)


def test_a_half_made_directory_is_finished(path: Path):
    """A process that died while it made the store leaves something the next one goes on with."""
    path.mkdir()
    (path / ".new-1-1").write_bytes(b"{")
    with opened(path) as store:
        assert store.acquire_ownership() == 1
    (path / "inbox").rmdir()
    opened(path).close()
    assert (path / "inbox").is_dir()


def test_a_store_is_made_where_its_name_can_not_be_synced(path: Path):
    """Above the directory nobody may look: then nobody who died there can have made it, and a store is made."""
    path.mkdir()
    path.parent.chmod(0o311)
    code = """
        import sys
        from polos.store.directory import open_store
        with open_store(sys.argv[1], map_bytes=64 << 20) as store:
            print(store.acquire_ownership())
    """
    said = run_child(code, path, unprivileged=True)
    path.parent.chmod(0o700)

    assert "1\n" == said


def test_sync_is_full_or_off(path: Path):
    """Anything else is the caller's mistake, found before anything is made."""
    with pytest.raises(PolosUsageError, match="sync"):
        opened(path, sync="sometimes")
    assert not path.exists()


def test_a_read_only_directory_is_read_but_not_written(path: Path):
    """Writing is `StoreReadOnly` with the path; reading works without a lock file, too."""
    with opened(path) as store:
        store.log.append([unit(record("a", b"there"))], epoch=store.acquire_ownership())
    (path / "log" / "lock.mdb").unlink()
    for place in (path / "log", path / "inbox", path / "blobs", path):
        place.chmod(0o500)
    (path / "log" / "data.mdb").chmod(0o400)
    code = """
        import sys
        from polos.store.directory import open_store
        try:
            open_store(sys.argv[1])
        except Exception as error:
            print(type(error).__name__, sys.argv[1] in str(error))
        with open_store(sys.argv[1], read_only=True) as store, store.log.reader() as reader:
            print([found.payload for found in reader.records()])
            try:
                store.inbox.put("a", b"")
            except Exception as error:
                print(type(error).__name__)
    """
    said = run_child(code, path, unprivileged=True)
    for place in (path, path / "log", path / "inbox", path / "blobs"):
        place.chmod(0o700)

    assert f"{StoreReadOnly.__name__} True\n[b'there']\n{StoreReadOnly.__name__}\n" == said


def test_a_directory_that_can_not_be_entered_is_refused(path: Path):
    """No permission to read is told like no permission to write, with the path."""
    opened(path).close()
    path.chmod(0o000)
    code = """
        import sys
        from polos.store.directory import open_store
        for read_only in (False, True):
            try:
                open_store(sys.argv[1], read_only=read_only)
            except Exception as error:
                print(type(error).__name__)
    """
    said = run_child(code, path, unprivileged=True)
    path.chmod(0o700)

    assert f"{StoreReadOnly.__name__}\n" * 2 == said


def test_a_store_opened_read_only_writes_nothing(path: Path):
    """It can't be owned, its log takes nothing; but its inbox takes commands."""
    opened(path).close()
    with opened(path, read_only=True) as store:
        with pytest.raises(StoreReadOnly):
            store.acquire_ownership()
        with pytest.raises(StoreReadOnly):
            store.log.acquire()
        store.inbox.put("a", b"")
    assert None is owner_info(path)


def test_everything_of_one_process_shares_one_environment(path: Path):
    """Engine, client and worker open and close in any order; the last to close closes."""
    client_first = None
    opened(path).close()
    client_first = opened(path, read_only=True)
    engine = opened(path)
    client = opened(path, read_only=True)
    epoch = engine.acquire_ownership()
    client_first.close()
    engine.log.append([unit(record("a", b"1"))], epoch=epoch)
    engine.close()
    with client.log.reader() as reader:
        assert [b"1"] == payloads(list(reader.records()))
    client.close()
    with pytest.raises(StoreClosed), client.log.reader():
        pass
    again = opened(path)
    assert again.acquire_ownership() == 2
    again.close()
    again.close()


def test_a_path_is_the_same_however_it_is_written(path: Path, tmp_path: Path):
    """A link to the directory leads to the same environment, hence to the same owner."""
    (tmp_path / "link").symlink_to(path)
    with opened(path) as store, opened(tmp_path / "link") as other:
        store.acquire_ownership()
        with pytest.raises(StoreInUse):
            other.acquire_ownership()
        assert store.owner() == other.owner() == owner_info(tmp_path / "link")


def test_one_process_opens_a_store_with_one_sync(path: Path):
    """Two ways of syncing in one process can't both be had; the error says so."""
    with opened(path, sync="off"), pytest.raises(PolosUsageError, match="sync"):
        opened(path)


def test_a_second_engine_in_the_same_process_is_refused(path: Path):
    """A POSIX lock wouldn't tell two engines of one process apart; the table of environments does."""
    with opened(path) as store, opened(path) as other:
        store.acquire_ownership()
        with pytest.raises(StoreInUse, match=f"process {os.getpid()} on "):
            other.acquire_ownership()
        with pytest.raises(StoreInUse):
            store.acquire_ownership()
        store.release_ownership()
        assert other.acquire_ownership() == 2


def test_a_second_engine_in_another_process_is_refused(path: Path):
    """The text names process and host; asking who it is takes nothing away from it."""
    with opened(path) as store:
        epoch = store.acquire_ownership()
        info = owner_info(path)
        assert isinstance(info, OwnerInfo)
        for _ in range(2):
            said = run_child(OWNER, path)
            assert said.startswith("StoreInUse ")
            assert f"process {os.getpid()} on {info.host}, since 20" in said
        store.log.append([unit(record("a"))], epoch=epoch)

    assert None is owner_info(path)
    assert run_child(OWNER, path).startswith("owner 2")


def test_of_engines_that_race_exactly_one_wins(path: Path):
    """Five processes start at once on a directory that doesn't exist; one owns it, four are told who."""
    children = [Child(OWNER, path) for _ in range(5)]
    try:
        said = [child.hear() for child in children]
    finally:
        for child in children:
            child.__exit__(None, None, None)

    assert ["owner"] + ["StoreInUse"] * 4 == sorted(
        (line.split()[0] for line in said), key=lambda word: word != "owner"
    )
    winner = next(child for child, line in zip(children, said, strict=True) if line.startswith("owner"))
    assert all(f"process {winner.pid} " in line for line in said if line.startswith("StoreInUse"))


def test_a_killed_owner_is_succeeded_while_its_forked_child_lives_on(path: Path):
    """A lock that children inherit would stay held; this one goes with its process."""
    with Child(OWNER, path) as owner:
        assert "owner 1" == owner.hear()
        owner.tell("fork")
        forked = int(owner.hear())
        try:
            assert owner.pid == (owner_info(path) or OwnerInfo(pid=0, host="", started_us=0)).pid
            owner.process.kill()
            owner.wait()
            assert None is owner_info(path)
            assert not was_closed_cleanly(path)
            with opened(path) as store:
                assert 2 == store.acquire_ownership()
                os.kill(forked, 0)
        finally:
            os.kill(forked, signal.SIGKILL)
    assert was_closed_cleanly(path)


def test_an_owner_that_closes_says_that_all_is_well(path: Path):
    """`clean=False` leaves the check to the next one."""
    assert was_closed_cleanly(path)
    with opened(path) as store:
        store.acquire_ownership()
        store.release_ownership(clean=False)
        assert not was_closed_cleanly(path)
        store.acquire_ownership()
    assert was_closed_cleanly(path)


def test_an_owner_that_can_not_sync_at_the_end_leaves_the_check_to_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Closing doesn't fail over it, but doesn't say that all is well either."""

    def broken() -> None:
        raise StoreFailed("no sync")

    store = opened(path)
    store.acquire_ownership()
    monkeypatch.setattr(store.log, "flush", broken)
    store.close()

    assert not was_closed_cleanly(path)
    assert None is owner_info(path)


def test_who_is_refused_learns_who_won_although_the_winner_has_not_yet_said_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Between the lock and the text about it there is a moment: whoever is refused in it looks again."""
    with Child(OWNER, path) as owner:
        assert "owner 1" == owner.hear()
        said = (path / LOCK_FILE).read_bytes()
        (path / LOCK_FILE).write_bytes(b"")
        monkeypatch.setattr("polos.store.ownership.pause", lambda _: (path / LOCK_FILE).write_bytes(said))

        with opened(path) as store, pytest.raises(StoreInUse, match=f"process {owner.pid} on .*, since 20") as refused:
            store.acquire_ownership()

    assert "unknown host" not in str(refused.value)


def test_an_owner_that_is_damaged_is_still_an_owner(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel says that it is held; that the text about it can't be read changes nothing."""
    monkeypatch.setattr("polos.store.ownership.pause", lambda _: None)
    with Child(OWNER, path) as owner:
        assert "owner 1" == owner.hear()
        for text in (b"", b"[1]", b'{"pid": "x"}', b'{"pid": 1, "host": "earlier", "started_us": 1}'):
            (path / LOCK_FILE).write_bytes(text)
            assert OwnerInfo(pid=owner.pid, host="unknown host", started_us=0) == owner_info(path)
            with opened(path) as store, pytest.raises(StoreInUse, match=f"process {owner.pid} "):
                store.acquire_ownership()


# Puts a command into the inbox of argv[1], and stops itself (as ^Z does) at the system call named in argv[2].
STOPPED_CLIENT = """
    import os, signal, sys
    from polos.store.directory import open_store
    store = open_store(sys.argv[1], read_only=True)
    reader = store.log.reader()
    reader.__enter__()
    real = getattr(os, sys.argv[2])
    def stop(*arguments, **options):
        print("stopping", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        return real(*arguments, **options)
    setattr(os, sys.argv[2], stop)
    store.inbox.put("b", b"late")
    print("put", flush=True)
"""


@pytest.mark.parametrize("call", ["open", "fsync", "rename"])
def test_a_client_stopped_in_the_middle_of_a_command_holds_up_nobody(path: Path, call: str):
    """With a view of the log open and a command half put, it stops; the owner appends, and reads its inbox."""
    with opened(path) as store, Child(STOPPED_CLIENT, path, call) as client:
        epoch = store.acquire_ownership()
        assert "stopping" == client.hear()
        os.waitpid(client.pid, os.WUNTRACED)
        store.inbox.put("a", b"in time")
        for _ in range(20):
            store.log.append([unit(record("a", bytes(10_000)))], epoch=epoch)
        assert ["a"] == [item.command_id for item in store.inbox.pending()]
        os.kill(client.pid, signal.SIGCONT)
        while client.hear() == "stopping":
            os.waitpid(client.pid, os.WUNTRACED)
            os.kill(client.pid, signal.SIGCONT)
        assert ["a", "b"] == [item.command_id for item in store.inbox.pending()]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_that_it_can_not_use_the_store(path: Path):
    """Reading, writing, opening again: each is `ForkedStore`; closing does nothing to the parent."""
    with opened(path) as store:
        epoch = store.acquire_ownership()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            said = []
            for attempt in (
                lambda: store.log.reader().__enter__(),
                lambda: store.log.append([unit(record("a"))], epoch=epoch),
                lambda: opened(path),
                lambda: open_store(path, read_only=True),
                store.close,
            ):
                try:
                    attempt()
                    said.append("nothing")
                except BaseException as error:
                    said.append(type(error).__name__)
            os.write(writing, " ".join(said).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read().split()
        os.waitpid(child, 0)

        assert [ForkedStore.__name__] * 4 + ["nothing"] == said
        assert store.owner() is not None
        assert run_child(OWNER, path).startswith("StoreInUse")
        store.log.append([unit(record("a"))], epoch=epoch)

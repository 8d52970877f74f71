"""
Whatever reads bytes that polos wrote, given bytes that it didn't: a clear error of polos, never another one.

Arbitrary bytes, and bytes that were right and were changed: bits flipped, cut short, spliced, doubled. What is found is
kept as an example. Damage in the file of LMDB itself may end a process, so that has tests in processes of their own:
`test_fuzz_store.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipimport import zipimporter

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polos.engine import events as e
from polos.engine.codec import decode, encode
from polos.errors import PolosError, PolosUsageError, StoreDamaged, StoreInUse
from polos.llm.jsonish import parse_json
from polos.llm.prices import PriceTable, default_prices
from polos.llm.scripts import Script, find_script
from polos.runtime import reads, sources
from polos.runtime.app import settings_from
from polos.runtime.marker import Marker
from polos.store.blobs import FileBlobs
from polos.store.chain import EMPTY_CHAIN, blob_reference, decode_entry, encode_entry, head_of, parse_blob_reference
from polos.store.directory import open_store
from polos.store.format import check_format, format_content
from polos.store.inbox_dir import DirectoryInbox
from polos.store.keys import decode_key, encode_key
from polos.store.layout import decode_row, decode_run, encode_row, read_position
from polos.store.log import Epoch, Position, Version
from polos.store.memory import MemoryLog
from polos.store.ownership import LOCK_FILE, owner_info, was_closed_cleanly
from polos.testing.recorded import RecordedRun
from polos.testing.saved import SavedSchedule, load_all, save
from polos.types.llm import Usage

from tests.campaign import scaled
from tests.golden.form import cases
from tests.property.test_codec import JSON
from tests.store_children import Child

IN_A_FOLDER = settings(
    max_examples=scaled(50, 10_000), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
LINES = [line for case in cases() if case.name in ("children", "cancellation", "run_retries") for line in case.lines]
NESTED = b"[" * 4000


def changed(*originals: bytes) -> st.SearchStrategy[bytes]:
    """Give a strategy for bytes that were right once."""

    @st.composite
    def change(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(originals)))
        for _ in range(draw(st.integers(1, 3))):
            at, other = (draw(st.integers(0, max(0, len(data) - 1))) for _ in range(2))
            length = draw(st.integers(1, 40))
            how = draw(st.sampled_from(["flip", "cut", "splice", "double", "insert"]))
            if how == "flip" and data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            elif how == "cut":
                del data[at:]
            elif how == "splice":
                data[at : at + length] = data[other : other + length]
            elif how == "double":
                data[at:at] = data[at : at + length]
            else:
                data[at:at] = draw(st.binary(max_size=9))
        return bytes(data)

    return st.one_of(change(), st.binary(max_size=200))


def tried(read: Callable[..., Any], *arguments: Any) -> Any:
    """Give what was read, or the error, which is one of polos and says something."""
    try:
        return read(*arguments)
    except PolosError as error:
        found = error
    assert len(str(found)) > 10, repr(found)
    return found


# ------------------------------------------------------------------------------------ events, records, rows


@given(st.sampled_from(LINES), st.data())
def test_event_of_any_bytes(line: Any, data: st.DataObject) -> None:
    """The payload of an event that was changed is another event, or damage; so is one under another type."""
    record = line.record
    payload = data.draw(changed(record.payload))
    name = data.draw(st.sampled_from([record.type, *e.EVENTS]))
    found = tried(decode, name, data.draw(st.sampled_from([1, 0, 2, -1])), payload)

    assert isinstance(found, StoreDamaged | e.EVENTS[name])


@given(st.sampled_from(sorted(e.EVENTS)), JSON)
@example("RunStarted", "ab")
@example("StepFailed", {"name": "a", "attempt": 1, "error": ["type", "message"]})
@example("RunCreated", [["workflow", "a"], ["root", "b"], ["root_workflow", "c"]])
def test_event_of_any_json(name: str, value: Any) -> None:
    """JSON that is no object is no event, and what an object is taken for is written as the same object again."""
    found = tried(decode, name, 1, orjson.dumps(value))

    assert isinstance(found, StoreDamaged) or isinstance(value, dict)
    if not isinstance(found, StoreDamaged):
        assert found == decode(*encode(found))


@given(st.integers(0, len(LINES) - 2), st.data())
def test_record_of_any_bytes(index: int, data: st.DataObject) -> None:
    """An entry that was changed, swapped, or moved to another place is damage at its position."""
    line = LINES[index]
    previous = bytes.fromhex(LINES[index - 1].head) if line.position > 1 else EMPTY_CHAIN
    _, entry = encode_entry(line.record, line.position, line.version, previous)
    _, next_entry = encode_entry(LINES[index + 1].record, Position(line.position + 1), Version(1), entry[:32])
    raw = data.draw(changed(entry, next_entry, entry[: len(entry) // 2] + next_entry[len(next_entry) // 2 :]))
    found = tried(decode_entry, raw, line.position, previous)

    assert (raw == entry) == (not isinstance(found, StoreDamaged))
    tried(head_of, raw, line.position, Epoch(1))


@given(changed(encode_key(("run", "abc", 5)), encode_key(("x" * 300, 1)), encode_key(("\x00\x01", "ü"))))
def test_key_of_any_bytes(raw: bytes) -> None:
    """Bytes are a key that is written as them, or no key; a row under them is damage, whatever its checksum says."""
    try:
        key = decode_key(raw)
    except ValueError:
        key = None
    for value in (b"", raw, b"\x00\x00\x00\x05" + raw):
        checksum = struct.pack(">I", zlib.crc32(value, zlib.crc32(raw)))
        found = tried(decode_row, raw, checksum + value)

        assert isinstance(found, tuple | StoreDamaged)
        assert key is None or isinstance(found, tuple)


@given(changed(encode_row(("run", "a"), encode_key(("run", "a")), b"value")), st.binary(max_size=20))
def test_row_of_any_bytes(stored: bytes, raw: bytes) -> None:
    """A stored row that was changed is damage; so are what is no run of the index, no position, no reference."""
    found = tried(decode_row, encode_key(("run", "a")), stored)

    assert (("run", "a"), b"value") == found or isinstance(found, StoreDamaged)
    for read in (decode_run, lambda key, _value: read_position(key), lambda key, _value: parse_blob_reference(key)):
        tried(read, raw, stored)


# ------------------------------------------------------------------------------------------------- files


@IN_A_FOLDER
@given(content=changed(format_content()))
@example(content=NESTED)
@example(content=b'{"format": "polos", "version": true}')
@example(content=b'{"format": "polos", "version": -1}')
@example(content=b'{"format": "polos", "version": 1e400}')
@example(content=b"\xff\xfe{")
def test_format_file_of_any_bytes(tmp_path: Path, content: bytes) -> None:
    """A format file that says something else is refused, and says of which directory."""
    (tmp_path / "format").write_bytes(content)
    found = tried(check_format, tmp_path)

    assert found is None or str(tmp_path) in str(found)
    if found is None:
        assert {"format": "polos", "version": 1}.items() <= json.loads(content).items()


LOCK = json.dumps({"pid": 1, "host": "here", "started_us": 5, "clean": True}).encode().ljust(4095) + b"\n"


@IN_A_FOLDER
@given(content=st.one_of(changed(LOCK[:80]), JSON.map(orjson.dumps)))
@example(content=NESTED)
@example(content=b'{"pid": 1, "host": "h", "started_us": 1' + b"0" * 40 + b', "clean": 1}')
def test_owners_file_of_any_bytes(tmp_path: Path, content: bytes) -> None:
    """What the owner's file says is believed if it fits; nobody owns by it; only a whole one says all is well."""
    (tmp_path / LOCK_FILE).write_bytes(content)

    assert owner_info(tmp_path) is None
    clean = tried(was_closed_cleanly, tmp_path)
    assert clean is False or json.loads(content)["clean"] is True


MARKER_RUN = "019b76da-a800-7000-8857-7eb1924770d3"


@IN_A_FOLDER
@given(data=st.data())
def test_marker_of_any_bytes(tmp_path: Path, data: st.DataObject) -> None:
    """A marker that was changed names the run that was on the loop, or none; never another one."""
    path = tmp_path / "on_loop"
    path.unlink(missing_ok=True)
    marker = Marker(path)
    marker.enter(MARKER_RUN, 7)
    whole = path.read_bytes()
    marker._map.close()  # as a process that is killed leaves it
    path.write_bytes(data.draw(changed(whole, bytes(len(whole)))))
    again = Marker(path)
    previous = again.previous()
    again.close()

    assert previous is None or previous[0] == MARKER_RUN
    assert previous is None or 1 <= previous[1] < 1 << 16


COMMAND = b'{"command": {"kind": "cancel", "run": "r"}}'
COMMAND_FILE = b"polos command 1\n" + hashlib.sha256(COMMAND).digest() + COMMAND


@IN_A_FOLDER
@given(
    content=changed(COMMAND_FILE), name=st.sampled_from(["a", "019b", "with space", "x" * 200, "\udcff", "unreadable-"])
)
@example(content=COMMAND_FILE, name="\udcff")
def test_inbox_file_of_any_bytes(tmp_path: Path, content: bytes, name: str) -> None:
    """A file of the inbox is a command as it was put, under a name that commands have, or it is moved aside, once."""
    path = tmp_path / "inbox"
    path.mkdir(exist_ok=True)
    aside: list[tuple[Path, str]] = []
    (path / name).write_bytes(content)
    inbox = DirectoryInbox(path, on_unreadable=lambda target, reason: aside.append((target, reason)))
    found = inbox.pending()
    if content == COMMAND_FILE and name in ("a", "019b", "unreadable-"):
        assert [(name, COMMAND)] == [(item.command_id, item.payload) for item in found]
        inbox.remove(name)
    else:
        assert [] == found
        assert [path / "unreadable" / name] == [target for target, _ in aside]
        assert [] == inbox.pending()


@IN_A_FOLDER
@given(content=changed(b"a large payload"))
def test_blob_of_any_bytes(tmp_path: Path, content: bytes) -> None:
    """A blob that isn't what was put is damage, and names its file."""
    blobs = FileBlobs(tmp_path)
    digest = blobs.put(b"a large payload")
    blobs.file(digest).write_bytes(content)
    found = tried(blobs.get, digest)

    assert content == found if content == b"a large payload" else str(blobs.file(digest)) in str(found)
    blobs.file(digest).unlink()


@pytest.mark.parametrize("what", ["fifo", "directory", "link", "nowhere"])
def test_what_is_no_file_holds_nobody(tmp_path: Path, what: str) -> None:
    """Where a file is expected, a fifo isn't waited for, and neither it nor a directory is anything but an error."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "inbox").mkdir()
    blobs = FileBlobs(tmp_path / "blobs")
    digest = blobs.put(b"x")
    inbox = DirectoryInbox(tmp_path / "inbox", on_unreadable=lambda _target, _reason: None)
    explored = save(
        tmp_path / "explored", SavedSchedule(test="test", decisions=[], departures={}, failure="wrong", seed="0")
    )
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as zipped:
        zipped.writestr("a.py", "import os")
    archive = zipimporter(str(tmp_path / "zipped.zip"))
    places: tuple[tuple[Path, Callable[[], Any]], ...] = (
        (tmp_path / "format", lambda: check_format(tmp_path)),
        (tmp_path / LOCK_FILE, lambda: (owner_info(tmp_path), was_closed_cleanly(tmp_path))),
        (blobs.file(digest), lambda: blobs.get(digest)),
        (tmp_path / "inbox" / "a", inbox.pending),
        (tmp_path / "on_loop", lambda: Marker(tmp_path / "on_loop").close()),
        (tmp_path / "prices.json", lambda: default_prices().with_prices(tmp_path / "prices.json")),
        (tmp_path / "replies.json", lambda: find_script(str(tmp_path / "replies.json"))),
        (tmp_path / "recorded.json", lambda: RecordedRun.load(tmp_path / "recorded.json")),
        (explored, lambda: load_all(tmp_path / "explored", "test")),
        (tmp_path / "source.py", lambda: sources.read(str(tmp_path / "source.py"), None)),
        (tmp_path / "zipped.zip", lambda: sources.read("zipped.zip/a.py", archive)),
    )
    for path, read in places:
        path.unlink(missing_ok=True)
        if what == "fifo":
            os.mkfifo(path)
        elif what == "directory":
            path.mkdir()
        else:
            path.symlink_to(path if what == "link" else "nowhere")
        tried(read)


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_log_that_is_no_file_holds_nobody(tmp_path: Path, name: str, read_only: bool) -> None:
    """Whether somebody looks or writes, where LMDB's files belong a fifo isn't waited for, and the error names it."""
    with open_store(tmp_path) as store:
        store.acquire_ownership()
    (tmp_path / "log" / name).unlink()
    os.mkfifo(tmp_path / "log" / name)

    with pytest.raises(StoreDamaged, match=name):
        open_store(tmp_path, read_only=read_only)


PRICES = json.dumps(
    {
        "sources": {"s": {"where": "a page", "read_on": "2026-01-01"}},
        "models": {
            "m": {"input": "1", "output": 2.5, "source": "s", "above": {"input_tokens": 9, "input": 1, "output": 3}}
        },
    }
).encode()
ERROR = {"type": "ModelRateLimited", "message": "busy", "retry_after_seconds": 2}
REPLIES = json.dumps(
    ["hello", {"text": "ab", "chunks": ["a", "b"], "usage": {"input_tokens": 3}}, {"attempts": [{"error": ERROR}, "b"]}]
).encode()
DEEP = tuple(opening * depth for opening in (b"[", b'{"models":') for depth in (900, 3_000, 100_000))


def any_json(*originals: bytes) -> st.SearchStrategy[bytes]:
    """Give a strategy for changed files, any JSON, and JSON in which a part is any other."""

    @st.composite
    def with_another_part(draw: st.DrawFn) -> bytes:
        top: Any = json.loads(draw(st.sampled_from(originals)))
        part = top
        while True:
            key = draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
            if not (isinstance(part[key], dict | list) and part[key] and draw(st.booleans())):
                break
            part = part[key]
        part[key] = draw(JSON)
        return json.dumps(top).encode()

    return st.one_of(changed(*originals), JSON.map(orjson.dumps), with_another_part(), st.sampled_from(DEEP))


@IN_A_FOLDER
@given(content=any_json(PRICES))
@example(content=b'{"sources":{"s":{}},"models":{"m":{"input":"1","output":"1","source":"s"}}}')
@example(content=b'{"models":{"m":{"input":"1","output":"1","source":[]}}}')
@example(content=b'{"models":{"m":{"input":"1e99","output":"1e999999999"}}}')
@example(content=b'{"models":{"m":' + b"[" * 900 + b"]" * 900 + b"}}")
def test_price_file_of_any_bytes(tmp_path: Path, content: bytes) -> None:
    """A file of prices is a table, or refused by its name; a price in it is one, or has none."""
    path = tmp_path / "prices.json"
    path.write_bytes(content)
    found = tried(PriceTable({}).with_prices, path)

    assert isinstance(found, PriceTable) or (str(path) in str(found) and isinstance(found, PolosUsageError))
    if isinstance(found, PriceTable):
        cost = found.cost_microdollars("m", Usage(input_tokens=20, output_tokens=1))
        assert cost is None or cost >= 0


@IN_A_FOLDER
@given(content=any_json(REPLIES))
@example(content=b'[{"attempts": []}]')
@example(content=b'[{"tool_calls": [[]]}]')
@example(content=b'[{"error": {"type": "__doc__"}}]')
@example(content=b"[" * 900 + b"]" * 900)
def test_script_file_of_any_bytes(tmp_path: Path, content: bytes) -> None:
    """A file of replies is a script, or refused by its name."""
    path = tmp_path / "replies.json"
    path.write_bytes(content)
    found = tried(find_script, str(path))

    assert isinstance(found, Script) or (str(path) in str(found) and isinstance(found, PolosUsageError))


@given(any_json(b'{"a": [1, "b"]}'))
@example(b"\xff")
def test_json_of_others_of_any_bytes(content: bytes) -> None:
    """What a model or a server writes is JSON, or none; brackets in brackets without end are none."""
    with contextlib.suppress(ValueError):
        parse_json(content)


def test_stray_files_keep_no_garbage_from_being_collected(tmp_path: Path) -> None:
    """What lies between blobs and is none is left alone."""
    blobs = FileBlobs(tmp_path)
    stray = tmp_path / "zz" / ("y" * 62)
    stray.parent.mkdir()
    stray.touch()
    os.utime(stray, (0, 0))

    assert () == blobs.collect(set).blobs
    assert stray.exists()


def test_an_owner_whose_file_is_nonsense_is_still_the_owner(tmp_path: Path) -> None:
    """Who holds the lock is told by the kernel, also if the file says a time that no calendar has."""
    code = """
        import fcntl, json, os, sys
        file = open(sys.argv[1], "w+")
        fcntl.lockf(file, fcntl.LOCK_EX)
        json.dump({"pid": os.getpid(), "host": "h", "started_us": 1 << 62, "clean": False}, file)
        file.flush()
        print("held")
        sys.stdin.read()
    """
    with open_store(tmp_path / "data"):
        pass
    with Child(code, tmp_path / "data" / LOCK_FILE) as owner:
        assert "held" == owner.hear()
        with open_store(tmp_path / "data") as store, pytest.raises(StoreInUse, match=f"process {owner.pid}"):
            store.acquire_ownership()


# ------------------------------------------------------------------------- settings, cursors, command lines


@given(st.text(max_size=20))
@example("9" * 5000)
@example("9" * 19 + ":x")
@example("²:x")
@example("18:" + "\ud800")
def test_any_text_is_a_cursor_or_refused(cursor: str) -> None:
    """A cursor that no page gave is refused, and one that could have been gives a page."""
    with MemoryLog().reader() as reader:
        found = tried(lambda: reads.list_runs(reader, cursor=cursor))

    assert isinstance(found, PolosUsageError | reads.RunPage)


@given(
    st.sampled_from(["POLOS_MAX_CONCURRENT_WORKFLOWS", "POLOS_WAIT_THRESHOLD_SECONDS", "POLOS_DEPLOYMENT_ID"]),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12),
)
@example("POLOS_MAX_CONCURRENT_WORKFLOWS", "nan")
@example("POLOS_MAX_CONCURRENT_WORKFLOWS", "1e999")
@example("POLOS_WAIT_THRESHOLD_SECONDS", "-inf")
def test_environment_of_any_text(name: str, text: str) -> None:
    """A variable that makes no sense is refused by its name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(name, text)
        try:
            settings_from({}, deployment_id=None, max_concurrent_workflows=None)
        except (PolosUsageError, ValueError) as error:
            refused = str(error)
        else:
            refused = ""

    assert not refused or name in refused or name.removeprefix("POLOS_").lower() in refused


def test_payload_reference_comes_back() -> None:
    """What stands for a blob is read as it was written."""
    digest = hashlib.sha256(b"x").hexdigest()

    assert (digest, 5) == parse_blob_reference(blob_reference(digest, 5))

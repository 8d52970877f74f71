"""
A whole data directory of a format, as LMDB left it when its process was killed.

`python -m tests.golden.store NAME` writes `format-<n>/NAME/store.tar.xz` and what to expect of it, once. Exported
histories show that today's code understands the records; these show that it understands the files. `store` has pages,
index, rows, blobs, a command that waits in the inbox, and an owner who didn't say goodbye; `segments` has runs that
were archived, with and without their deltas, and of which the log has nothing but the leaves.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polos
from polos.clock import uuid7
from polos.engine.projections import run_stream
from polos.errors import RecordsSealed
from polos.runtime.archived import ArchivedTree, archived_tree
from polos.runtime.folding import FOLD
from polos.store.check import verify
from polos.store.directory import open_store
from polos.store.format import FORMAT_VERSION
from polos.store.inbox_dir import DirectoryInbox

from tests.golden.form import FOLDER, load_program
from tests.golden.make import AlreadyKept

__all__ = ["ARCHIVES", "SEGMENTS", "extract", "told"]

ARCHIVES = sorted(FOLDER.glob("format-*/store/store.tar.xz"))
SEGMENTS = sorted(FOLDER.glob("format-*/segments/store.tar.xz"))


def extract(archive: Path, place: Path) -> Path:
    """Unpack a data directory; nothing of the archive can land outside of the place."""
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    directory = place / "data"
    directory.chmod(0o700)
    return directory


def told(tree: ArchivedTree) -> dict[str, Any]:
    """Give what is kept of an archived tree: its runs and how they ended, its events, deltas that were pruned."""
    return {
        "runs": [[run["id"], run["workflow_id"], run["status"], _digest(run["result"])] for run in tree.executions],
        "events": [[event["position"], event["run"], event["type"]] for event in tree.events],
        "pruned": sum(event["data"].get("pruned", 0) for event in tree.events),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


async def live_and_archive(directory: Path, program: Any) -> None:
    """Run, have what has ended archived, and die when the log has nothing of it any more but leaves."""
    patch("platform.node", lambda: "golden").start()
    client = polos.Polos(data_dir=directory)
    await client.start()
    handles = [await program.sealed.invoke(client, {"n": 1}, session_id="s-1"), await program.talk.invoke(client)]
    await program.left_over.invoke(client, tags=["left over"])

    def in_log(run: str) -> bool:
        with client.engine.store.log.reader() as reader:
            try:
                return bool(list(reader.stream(run_stream(run))))
            except RecordsSealed:
                return False

    while any(in_log(handle.id) for handle in handles):
        await asyncio.sleep(0)
    os._exit(0)


async def live(directory: Path, program: Any) -> None:
    """Run, and die as by a SIGKILL when all that is wanted is durable."""
    client = polos.Polos(data_dir=directory)
    with patch("platform.node", lambda: "golden"):
        await client.start()
    finished = await program.invoice.run(client, {"number": 3, "lines": 3}, session_id="s-1", user_id="ada")
    assert finished.number == 3
    handle = await program.order.invoke(client, {}, session_id="s-1", user_id="ada")
    await program.day.invoke(client, {"round": 1})
    async for event in polos.events.stream_workflow(client, "golden_order", handle.id, from_sequence=0):
        if event.event_type == "suspend_approve":
            break
    await polos.events.publish(client, "payments", polos.events.EventData(data={"cents": 1}))
    command = {"kind": "resume", "run": handle.id, "key": "approve", "data": {"by": "another process"}}
    # It must not be taken before the end: the engine looks every 20 ms, and this process doesn't wait.
    (directory / "inbox").rename(directory / "elsewhere")
    payload = json.dumps({"command": command, "by": "process 1"}).encode()
    DirectoryInbox(directory / "elsewhere").put(uuid7(0, bytes(8)), payload)
    (directory / "elsewhere").rename(directory / "inbox")
    os._exit(0)


LIVES: dict[str, Callable[[Path, Any], Coroutine[Any, Any, None]]] = {"store": live, "segments": live_and_archive}


def make(name: str) -> None:
    """Write the archive and what to expect."""
    place = FOLDER / f"format-{FORMAT_VERSION}" / name
    if (place / "store.tar.xz").exists():
        raise AlreadyKept(f"{place} is kept for ever")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "data")
        subprocess.run([sys.executable, "-m", "tests.golden.store", name, str(directory)], check=True)
        report = verify(directory, fold=FOLD)
        assert report.ok, report.damage
        with open_store(directory, read_only=True) as store, store.log.reader() as reader:
            runs = {str(key[1]): json.loads(value) for key, value in reader.rows(("run",))}
            archived = {str(key[1]): json.loads(value) for key, value in reader.rows(("archived",))}
            trees = {run: told(archived_tree(store, run)) for run, row in archived.items() if row["root"] == run}
        expected = {
            "made_by": {"polos": polos.__version__, "python": sys.version.split()[0]},
            "chain": report.chain,
            "records": report.records,
            "blobs": report.blobs,
            "rows": report.rows,
            "runs": {run: [found["workflow"], found["status"], found["waiting_reason"]] for run, found in runs.items()},
            "archived": trees,
        }
        (directory / "log" / "lock.mdb").unlink()  # the table of readers: of this machine and this boot
        with tarfile.open(place / "store.tar.xz", "w:xz", preset=9) as packed:
            packed.add(directory, "data", filter=_anonymous)
    (place / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member


if __name__ == "__main__":
    name = sys.argv[1]
    if sys.argv[2:]:
        asyncio.run(LIVES[name](Path(sys.argv[2]), load_program(FOLDER / f"format-{FORMAT_VERSION}" / name)))
    else:
        make(name)

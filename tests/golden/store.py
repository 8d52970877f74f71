"""
A whole data directory of a format, as LMDB left it when its process was killed.

`python -m tests.golden.store` writes `format-<n>/store/store.tar.xz` and what to expect of it, once. Exported
histories show that today's code understands the records; this one shows that it understands the files: pages, index,
rows, blobs, a command that waits in the inbox, and an owner who didn't say goodbye.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polos
from polos.clock import uuid7
from polos.runtime.folding import FOLD
from polos.store.check import verify
from polos.store.directory import open_store
from polos.store.format import FORMAT_VERSION
from polos.store.inbox_dir import DirectoryInbox

from tests.golden.form import FOLDER, load_program
from tests.golden.make import AlreadyKept

__all__ = ["ARCHIVES", "extract"]

ARCHIVES = sorted(FOLDER.glob("format-*/store/store.tar.xz"))


def extract(archive: Path, place: Path) -> Path:
    """Unpack a data directory; nothing of the archive can land outside of the place."""
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    directory = place / "data"
    directory.chmod(0o700)
    return directory


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


def make() -> None:
    """Write the archive and what to expect."""
    place = FOLDER / f"format-{FORMAT_VERSION}" / "store"
    if (place / "store.tar.xz").exists():
        raise AlreadyKept(f"{place} is kept for ever")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "data")
        subprocess.run([sys.executable, "-m", "tests.golden.store", "live", str(directory)], check=True)
        report = verify(directory, fold=FOLD)
        assert report.ok, report.damage
        with open_store(directory, read_only=True) as store, store.log.reader() as reader:
            runs = {str(key[1]): json.loads(value) for key, value in reader.rows(("run",))}
        expected = {
            "made_by": {"polos": polos.__version__, "python": sys.version.split()[0]},
            "chain": report.chain,
            "records": report.records,
            "blobs": report.blobs,
            "rows": report.rows,
            "runs": {run: [found["workflow"], found["status"], found["waiting_reason"]] for run, found in runs.items()},
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
    if sys.argv[1:2] == ["live"]:
        asyncio.run(live(Path(sys.argv[2]), load_program(FOLDER / f"format-{FORMAT_VERSION}" / "store")))
    else:
        make()

"""
Is everything there, and is it what was written?

LMDB trusts its pages. A damaged one can end a process by SIGBUS, or make LMDB abort, and no `except` helps
against either. So whatever may be damaged is read by a child process first; if the child dies, its parent
knows how far it had come, because the child notes every step in memory they share.

`verify` walks everything: each record against its digest and its place in the chain (L8), positions and
versions without a gap (L1, L2), the stream index and the list of needed blobs against the records, each
blob against its digest, each row against its checksum, and, given a function that folds records to rows,
each row against the fold (L6). The store doesn't know what rows mean; that function is named, not passed,
because it runs in the child, whose code is `polos.store.walk`.

`check_tail` is the cheap one, made before a store is opened that wasn't closed cleanly: the meta pages, the
last records, their way through the index, and what the first commit touches. It finds what a crash can have broken,
not what years can. A file that was cut short is found also in a store that was closed cleanly: `polos.store.pages`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from polos.errors import StoreFailed
from polos.store.format import LOG_DIRECTORY, check_format
from polos.store.pages import missing_pages
from polos.store.walk import NOTE, PLACES, Damage, Fold, VerifyReport

__all__ = ["Damage", "Fold", "VerifyReport", "check_before_opening", "check_tail", "verify"]

# So many pages may be missing at the end of a file that is well, as far as anybody has seen; a small file is quickly
# verified whole.
UNWRITTEN_PAGES_MAX: Final = 16
SMALL_BYTES: Final = 16 << 20
DEATHS: Final = frozenset({signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})
_ABOUT_TO_RUN = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from polos.store.walk import main; main()"


def verify(directory: str | os.PathLike[str], *, fold: str | None = None) -> VerifyReport:
    """
    Check a whole data directory, in a child process. The engine on it may go on meanwhile.

    Args:
        directory: the data directory.
        fold: "module:function" that gives the rows which records fold to; without, rows are only checked for damage. A
            `ROWS_VERSION` in the module says which projections it is: rows of others aren't compared.

    Raises:
        NotAPolosStore: the directory holds something else.
        StoreFailed: it can't be read.
    """
    return _in_child(directory, "all", fold)


def check_tail(directory: str | os.PathLike[str], *, writing: bool = False) -> VerifyReport:
    """
    Check what a crash can have broken, in a child process; costs a tenth of a second.

    Args:
        directory: the data directory.
        writing: whether its log is going to be written; a commit is rehearsed then, and taken back.
    """
    return _in_child(directory, "open" if writing else "tail", None)


def check_before_opening(directory: Path, *, clean: bool, writing: bool) -> Damage | None:
    """
    Check what whoever opens a directory would trip over; gives the damage.

    Args:
        directory: the data directory.
        clean: whether it was closed cleanly; nothing is checked then unless the file of the log is too short.
        writing: whether it is going to be written.
    """
    file = directory / LOG_DIRECTORY / "data.mdb"
    if not file.exists() and (directory / "owner.lock").exists():
        # Nobody becomes the owner of a directory before it has a log; without this it would get a new one.
        return Damage(place="environment", position=None, message=f"{file} is gone")
    missing = missing_pages(file)
    if missing and (missing > UNWRITTEN_PAGES_MAX or file.stat().st_size <= SMALL_BYTES):
        damage = verify(directory).damage
        if damage is not None:
            return damage
    if missing or not clean:
        return check_tail(directory, writing=writing).damage
    return None


def _in_child(directory: str | os.PathLike[str], extent: str, fold: str | None) -> VerifyReport:
    path = Path(directory).absolute()
    check_format(path)
    with tempfile.TemporaryFile() as shared:
        shared.write(bytes(NOTE.size))
        shared.flush()
        done = subprocess.run(  # noqa: S603  # our own interpreter, our own code
            [
                sys.executable, "-c", _ABOUT_TO_RUN,
                json.dumps(sys.path), str(path), extent, fold or "", str(shared.fileno()),
            ],
            pass_fds=[shared.fileno()], stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        shared.seek(0)
        note: tuple[int, int] = NOTE.unpack(shared.read(NOTE.size))
    if done.returncode == 0:
        return _read_report(done.stdout)
    if -done.returncode in DEATHS:
        place, position = note
        death = signal.Signals(-done.returncode).name
        at = f" at record {position}" if position else ""
        message = f"the process that read it died of {death}{at}: a page of the log is damaged or missing"
        damage = Damage(place=PLACES[place], position=position or None, message=message)
        return VerifyReport(records=max(position - 1, 0), blobs=0, rows=0, chain="", damage=damage)
    raise StoreFailed(f"checking {path} failed: {done.stderr.decode(errors='replace').strip()}")


def _read_report(raw: bytes) -> VerifyReport:
    # What the child wrote from the same dataclasses.
    fields: dict[str, Any] = json.loads(raw)
    damage = fields.pop("damage")
    return VerifyReport(**fields, damage=Damage(**damage) if damage else None)

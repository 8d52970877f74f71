"""
The rows that a log must have, for `polos.store.check.verify` and for whoever takes over a log.

The store knows bytes and order, and the engine knows what rows mean; `verify` runs in a child process and takes
`fold_log` by its name. Memory grows with the number of runs, of ended ones only by little.

Rows are stored, and another polos may compute other ones: a kind of row that wasn't there, a field that a row didn't
have. An engine that took such rows for its own would not find runs that are under way. So a log says which projections
its rows come from, and who becomes its owner with newer ones folds all of it again, before anything else is done, and
puts the rows in place in one commit. Killed anywhere in that, the log has the old rows and says so. With older ones it
gives up: it would write rows into the log that those of a newer polos don't fit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from polos.engine.codec import decode
from polos.engine.projections import ROWS_VERSION, Rows, fold_rows
from polos.errors import StoreFormatTooNew
from polos.store.log import Epoch, Key, Log, Position, Reader, Record

__all__ = ["FOLD", "ROWS_VERSION", "fold_log", "rows_are_old", "update_rows"]

FOLD = f"{__name__}:fold_log"

_log = logging.getLogger("polos")


def fold_log(records: Iterator[Record]) -> Iterable[tuple[Key, bytes]]:
    """
    Fold the records of a log to its rows (L6).

    Raises:
        StoreDamaged: a record holds no event of ours.
    """
    return _fold(records).items()


def _fold(records: Iterable[Record]) -> Rows:
    return fold_rows(
        (record.stream, decode(record.type, record.schema_version, record.payload), record.time_us)
        for record in records
    )


def rows_are_old(reader: Reader) -> bool:
    """
    Tell whether the rows of a log, in this view, come from older projections.

    Raises:
        StoreFormatTooNew: from newer ones; nobody who computes others may write here.
    """
    found = reader.rows_version()
    if found > ROWS_VERSION:
        raise StoreFormatTooNew(
            f"the rows of this log are of version {found}, and this polos computes version {ROWS_VERSION}; install a "
            "newer polos. What is there can be read all the same"
        )
    return found < ROWS_VERSION


def update_rows(log: Log, epoch: Epoch) -> None:
    """
    Compute all rows of a log anew; to be called by its owner, before anything is appended.

    Raises:
        StoreDamaged: a record isn't what was written, or holds no event of ours.
        StoreFull: there is no space; the rows are as they were.
    """
    with log.reader() as reader:
        head, found = reader.head(), reader.rows_version()
        if head.position:
            _log.info("rows of version %d are computed anew from %d records", found, head.position)
        rows = _fold(reader.records())
    changed = log.replace_rows(rows, version=ROWS_VERSION, at=Position(head.position), epoch=epoch)
    if head.position:
        _log.info("the rows are of version %d now; %d of them are others", ROWS_VERSION, changed)

"""
The rows that a log must have, for `polos.store.check.verify`.

The store knows bytes and order, and the engine knows what rows mean; `verify` runs in a child process and takes this
function by its name. Memory grows with the number of runs, of ended ones only by little.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from polos.engine.codec import decode
from polos.engine.projections import fold_rows
from polos.store.log import Key, Record

__all__ = ["FOLD", "fold_log"]

FOLD = f"{__name__}:fold_log"


def fold_log(records: Iterator[Record]) -> Iterable[tuple[Key, bytes]]:
    """
    Fold the records of a log to its rows (L6).

    Raises:
        StoreDamaged: a record holds no event of ours.
    """
    events = (
        (record.stream, decode(record.type, record.schema_version, record.payload), record.time_us)
        for record in records
    )
    return fold_rows(events).items()

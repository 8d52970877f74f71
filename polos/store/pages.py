"""
How long LMDB thinks its file is, read without LMDB.

LMDB never compares the pages it refers to with the length of the file. A file that was cut short, by a copy that
didn't end or a tool that knew better, is opened without a word, and the first look at a page that isn't there ends the
process by SIGBUS. That can be told beforehand from two pages of the file, in microseconds, also if the store was
closed cleanly and so isn't checked.

A file may be short and well: pages at its end that a transaction took and gave back are never written. So being short
is only a reason to look closer, in a process that may die of it.

The layout is that of LMDB 0.9 on machines of 64 bits: two meta pages, of which the one with the larger transaction
counts. What isn't recognised is left to LMDB, which refuses it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

__all__ = ["missing_pages"]

_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
# Behind the 16 bytes of the page's header: magic, version, address, map size; of the first database, whose padding
# field holds the size of a page, 4 bytes and the rest; the second database; the last page, the transaction.
_META: Final = struct.Struct("<16xIIQQI44x48xQQ")
_PAGE_BYTES: Final = frozenset(1 << power for power in range(9, 17))


def missing_pages(path: Path) -> int:
    """Tell how many pages at the end of a log's file aren't there; 0 if it has all of them, or is no such file."""
    try:
        if not path.is_file():
            return 0  # a fifo would be waited for
        with path.open("rb") as file:
            found = [_meta(file.read(_META.size))]
            if found[0] is None:
                return 0
            file.seek(found[0][1])
            found.append(_meta(file.read(_META.size)))
            length = path.stat().st_size
    except OSError:
        return 0  # opening it says what is wrong
    _, page_bytes, last = max(meta for meta in found if meta is not None)
    return max(0, last + 1 - length // page_bytes)


def _meta(raw: bytes) -> tuple[int, int, int] | None:
    """Give transaction, size of a page and last page of a meta page."""
    if len(raw) < _META.size:
        return None
    magic, version, _, _, page_bytes, last, transaction = _META.unpack(raw)
    if magic != _MAGIC or version != _VERSION or page_bytes not in _PAGE_BYTES:
        return None
    return transaction, page_bytes, last

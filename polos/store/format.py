"""
What is where in a data directory, and the file that makes it one and says of which format.

The file is the first thing made in a new directory and the last thing made in a copy, so a directory without
it is either somebody else's or not finished, and isn't touched. The number changes when an older polos could
misread what a newer one writes; an older one then refuses instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from polos.errors import NotAPolosStore, StoreDamaged, StoreFormatTooNew
from polos.store.files import json_fields, read_regular, translated

__all__ = [
    "BLOBS_DIRECTORY",
    "FORMAT_FILE",
    "FORMAT_VERSION",
    "INBOX_DIRECTORY",
    "INCOMPLETE_FILE",
    "LOG_DIRECTORY",
    "check_format",
    "format_content",
]

FORMAT_FILE: Final = "format"
FORMAT_VERSION: Final = 1
LOG_DIRECTORY: Final = "log"
BLOBS_DIRECTORY: Final = "blobs"
INBOX_DIRECTORY: Final = "inbox"
INCOMPLETE_FILE: Final = "incomplete"  # in a copy that isn't finished
FORMAT_BYTES_MAX: Final = 4096


def check_format(directory: Path) -> None:
    """Refuse what isn't a store that this polos can read."""
    path = directory / FORMAT_FILE
    try:
        if (directory / INCOMPLETE_FILE).exists():
            raise NotAPolosStore(f"{directory} is a backup that wasn't finished; remove it and make another")
        raw = read_regular(path, bytes_max=FORMAT_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        why = f"it has no file {FORMAT_FILE!r}" if directory.is_dir() else "there is no such directory"
        raise NotAPolosStore(
            f"{directory} is no polos store: {why}. Start an engine on an empty directory, "
            "or pass the directory that an engine was started on"
        ) from None
    except (IsADirectoryError, StoreDamaged):
        raise NotAPolosStore(f"{directory} is no polos store: {path} is no file that polos has written") from None
    except OSError as error:
        raise translated(error, path) from error
    found = json_fields(raw)
    version = found.get("version")
    if found.get("format") != "polos" or type(version) is not int or version < 1:
        raise NotAPolosStore(f"{directory} is no polos store: {path} says something else")
    if version > FORMAT_VERSION:
        raise StoreFormatTooNew(
            f"{directory} has format {version}, and this polos reads up to {FORMAT_VERSION}; install a newer polos"
        )


def format_content() -> bytes:
    """Give what the format file says."""
    return json.dumps({"format": "polos", "version": FORMAT_VERSION}).encode() + b"\n"

"""
What a program can do to files, as data.

Files are named by path and by inode: the path is the one at the time, and after a rename or an
unlink only the inode tells whether it is still the same file.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Allocate",
    "Change",
    "Create",
    "Link",
    "MakeDirectory",
    "Map",
    "Reached",
    "Remove",
    "Rename",
    "Symlink",
    "Sync",
    "SyncAll",
    "SyncMap",
    "Truncate",
    "Write",
]


@dataclass(frozen=True, slots=True)
class Write:
    """
    Bytes were put at an offset.

    `synced` if the descriptor or the call asked for them to be on disk on return; `failed` if that went wrong. A system
    may take what it couldn't write for written, so no later sync makes it certain.
    """

    path: str
    inode: int
    offset: int
    data: bytes
    synced: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file was given a length."""

    path: str
    inode: int
    length: int


@dataclass(frozen=True, slots=True)
class Allocate:
    """`fallocate`; what it did to the range depends on its mode."""

    path: str
    inode: int
    mode: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Sync:
    """
    `fsync`, `fdatasync` (`data_only`) or `sync_file_range` of a file or a directory.

    `range` is None for the first two. A range is no promise: the call syncs neither lengths nor disk caches.
    """

    path: str
    inode: int
    data_only: bool = False
    range: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SyncMap:
    """`msync` of a mapped file, and what the map held there; a promise only if `waited`."""

    path: str
    inode: int
    offset: int
    data: bytes
    waited: bool


@dataclass(frozen=True, slots=True)
class SyncAll:
    """`sync` or `syncfs`."""


@dataclass(frozen=True, slots=True)
class Create:
    """A file came to be, by an `open` that found none."""

    path: str
    inode: int


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """A directory was made."""

    path: str


@dataclass(frozen=True, slots=True)
class Rename:
    """A name was moved, over what had the new one; or the two were exchanged."""

    old: str
    new: str
    exchanged: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A file got a second name."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link was made."""

    target: str
    path: str


@dataclass(frozen=True, slots=True)
class Remove:
    """A name, or an empty directory, was removed."""

    path: str
    directory: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """A file was mapped shared; if `writable`, stores to it go unseen."""

    path: str
    inode: int
    offset: int
    length: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Reached:
    """The program passed a mark, e.g. "acknowledged"."""

    name: str
    number: int


Change = (
    Write
    | Truncate
    | Allocate
    | Sync
    | SyncMap
    | SyncAll
    | Create
    | MakeDirectory
    | Rename
    | Link
    | Symlink
    | Remove
    | Map
    | Reached
)

"""
What a power cut can leave of some files, worked out from a recording of what was done to them.

A killed process leaves what the kernel has; a power cut leaves what the disk has, and that is any mixture of what
was written since the last sync. So the recorded calls are taken apart into *effects*, each of which a cut may
keep or lose by itself: bytes put into a file, a file's new length, names that appear or go in one directory. What
an effect is certain from is a sync that covers it; `History` finds out which and when. An *image* is then the base,
the effects that are certain, and any of the others, in the order in which they happened.

What the disk is taken for, in the direction that is worst for the program:

* Effects that no sync has covered are kept or lost independently of each other and of their order, names as well
  as bytes. Real file systems are kinder; which one, and in which mode, shouldn't matter.
* A write reaches the disk by sectors of 512 bytes, each whole or not at all. A file may have got its new length
  without the bytes; it reads as zeros there.
* `fsync` and `fdatasync` of a file make its earlier bytes and its length certain, not its name. `fsync` of a
  directory makes the names in it certain, not its own name in the directory above.
* A rename is one effect: both names change, or neither.

What a call does can reach the disk from the moment it begins, and a sync covers only what had ended when it began.
Stores to mapped memory are in no recording, so a file that is mapped writable is refused, but for three that tell
nothing after a cut: LMDB's table of readers, and the notes of whose code is on the loop and of who waits for a thread,
which are made anew by the next owner. What the store doesn't do (exchanged names, moves from one directory to another)
is refused as well, rather than modelled without being tried.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from .changes import (
    Change,
    Create,
    Link,
    MakeDirectory,
    Map,
    Reached,
    Remove,
    Rename,
    Sync,
    SyncAll,
    Truncate,
    Write,
)
from .fileops import FileOp, Recording

__all__ = [
    "SECTOR_BYTES",
    "WHOLE",
    "Cut",
    "Effect",
    "History",
    "Image",
    "Names",
    "Put",
    "Resize",
    "Snapshot",
    "Unmodelled",
]

SECTOR_BYTES = 512
WHOLE = -1  # as a mask: every sector
ROOT = 0  # the node of the recorded directory itself
MAPPED_AND_NO_MATTER = frozenset({"lock.mdb", ".new-on_loop", ".new-threads"})


class Unmodelled(NotImplementedError):
    """The program did something that the model doesn't know what a power cut makes of."""


@dataclass(frozen=True, slots=True)
class Put:
    """Bytes at an offset of a file; a file that ends before is filled up with zeros."""

    node: int
    offset: int
    data: bytes

    @property
    def sectors(self) -> int:
        """How many sectors it touches."""
        return (self.offset + len(self.data) - 1) // SECTOR_BYTES - self.offset // SECTOR_BYTES + 1 if self.data else 0

    def parts(self, mask: int) -> list[tuple[int, bytes]]:
        """Give the pieces, as offset in the file and bytes, that lie in the sectors of a mask."""
        if mask == WHOLE:
            return [(self.offset, self.data)]
        first = self.offset // SECTOR_BYTES
        found: list[tuple[int, bytes]] = []
        for sector in range(self.sectors):
            if mask >> sector & 1:
                start = max(self.offset, (first + sector) * SECTOR_BYTES)
                stop = min(self.offset + len(self.data), (first + sector + 1) * SECTOR_BYTES)
                found.append((start, self.data[start - self.offset : stop - self.offset]))
        return found


@dataclass(frozen=True, slots=True)
class Resize:
    """A file's length was set."""

    node: int
    length: int


@dataclass(frozen=True, slots=True)
class Names:
    """Names of one directory that came to stand for a node, or for none, all at once."""

    node: int
    entries: tuple[tuple[str, int | None], ...]


@dataclass(slots=True)
class Effect:
    """
    What a power cut may lose by itself.

    `began` and `ended` are moments of the history, and so is `safe`: from then on it can't be lost; None if it
    always can. What `failed` to be written no sync covers.
    """

    began: int
    ended: int
    what: Put | Resize | Names
    told: str
    safe: int | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A directory as it lies there: inode and content of each file, by path from its top, and its directories."""

    files: dict[str, tuple[int, bytes]]
    directories: tuple[str, ...]

    @classmethod
    def take(cls, top: Path) -> Snapshot:
        """Read a directory; the paths of directories are given from the top down."""
        files: dict[str, tuple[int, bytes]] = {}
        directories: list[str] = []
        for path in sorted(top.rglob("*")):
            name = str(path.relative_to(top))
            if path.is_dir():
                directories.append(name)
            else:
                files[name] = path.stat().st_ino, path.read_bytes()
        return cls(files, tuple(directories))


@dataclass(frozen=True, slots=True)
class Cut:
    """
    A moment, and what of the effects that could be lost then was kept, by their numbers.

    With each number goes a mask of its sectors, of which `WHOLE` are all; a mask of 0 keeps nothing of the bytes but
    the length that they gave the file.
    """

    moment: int
    kept: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """What a cut leaves: files with content, and directories from the top down, by path."""

    files: dict[str, bytes]
    directories: tuple[str, ...]

    def key(self) -> bytes:
        """Give what is the same for the same image only."""
        digest = hashlib.blake2b(repr((self.directories, sorted(self.files))).encode(), digest_size=16)
        for name in sorted(self.files):
            digest.update(len(self.files[name]).to_bytes(8, "big"))
            digest.update(self.files[name])
        return digest.digest()

    def write(self, top: Path) -> None:
        """Lay it out in an empty directory."""
        for name in self.directories:
            (top / name).mkdir(mode=0o700)
        for name, content in self.files.items():
            (top / name).write_bytes(content)


@dataclass(slots=True)
class _State:
    """Contents of files and names in directories, by node."""

    files: dict[int, bytes] = field(default_factory=dict)
    names: dict[int, dict[str, int]] = field(default_factory=dict)

    def copy(self) -> _State:
        return _State(dict(self.files), {node: dict(names) for node, names in self.names.items()})

    def apply(self, what: Put | Resize | Names, mask: int = WHOLE) -> None:
        match what:
            case Put(node, offset, data):
                content = bytearray(self.files[node])
                for start, part in [(offset + len(data), b"")] if mask == 0 else what.parts(mask):
                    content.extend(bytes(max(0, start - len(content))))
                    content[start : start + len(part)] = part
                self.files[node] = bytes(content)
            case Resize(node, length):
                self.files[node] = self.files[node][:length].ljust(length, b"\0")
            case Names(node, entries):
                for name, target in entries:
                    if target is None:
                        self.names[node].pop(name, None)
                    else:
                        self.names[node][name] = target

    def image(self) -> Image:
        files: dict[str, bytes] = {}
        directories: list[str] = []
        waiting = [(ROOT, "")]
        while waiting:
            directory, prefix = waiting.pop()
            for name, node in self.names[directory].items():
                if node in self.names:
                    directories.append(prefix + name)
                    waiting.append((node, f"{prefix}{name}/"))
                else:
                    files[prefix + name] = self.files[node]
        return Image(files, tuple(sorted(directories)))


@final
class History:
    """
    What was done to a directory by one program, or by several one after another, as effects.

    A program that was killed is followed `until` a moment of its recording; the next one goes on with what it left,
    and a sync of the next one covers what the first had done.

    Attributes:
        effects: in the order in which they ended.
        marks: moment, name and number of what the programs told.
        moments: at which something changed about what a cut can leave.
        syncs: the moments just before a sync took effect, and the last one: where most is at stake.
    """

    def __init__(self, before: Snapshot) -> None:
        """Begin with what lies in a directory and is certain."""
        self.effects: list[Effect] = []
        self.marks: list[tuple[int, str, int]] = []
        self.moments: list[int] = [0]
        self.syncs: list[int] = []
        self._lengths: list[int] = []  # of the file of each effect, before it
        self._nodes = ROOT
        self._now = 0
        self._base = _State(names={ROOT: {}})
        for name in before.directories:
            self._enter(name, self._new_directory())
        for name, (_, content) in before.files.items():
            node = self._new_node()
            self._base.files[node] = content
            self._enter(name, node)
        self._live = self._base.copy()
        self._settled = 0, 0, self._base

    def follow(self, recording: Recording, top: Path, found: Snapshot, *, until: int | None = None) -> None:
        """
        Go on with what a program did, in a directory that lay there as the history had left it.

        Args:
            recording: what it did.
            top: the directory.
            found: the directory before it began; only for the inodes.
            until: at which moment of the recording it was killed.

        Raises:
            Unmodelled: it did something that isn't modelled.
        """
        root = os.path.realpath(top)
        start = self._now + 1
        self._settled = 0, 0, self._base  # which is about to get new nodes
        inodes = {inode: self._node_at(name) for name, (inode, _) in found.files.items()}
        for op in recording.ops:
            if until is None or op.ended <= until:
                self._do(op, start, root, inodes)
                self._now = start + op.ended
        self._now = start + (self._now - start if until is None else until)
        self.moments = sorted({*self.moments, self._now})
        self.syncs = sorted({*self.syncs, self._now})

    def certain(self, moment: int) -> list[int]:
        """Give the numbers of the effects that a cut at a moment can't lose."""
        return [number for number, effect in enumerate(self.effects) if _is_safe(effect, moment)]

    def possible(self, moment: int) -> list[int]:
        """Give the numbers of those that it may keep or lose."""
        return [
            number
            for number, effect in enumerate(self.effects)
            if effect.began <= moment and not _is_safe(effect, moment)
        ]

    def everything(self, moment: int) -> Cut:
        """Give the cut that loses nothing of what had ended: what a killed process would leave."""
        ended = [number for number in self.possible(moment) if self.effects[number].ended <= moment]
        return Cut(moment, tuple((number, WHOLE) for number in ended))

    def image(self, cut: Cut) -> Image:
        """Give what a cut leaves."""
        first, settled = self._settle_up_to(cut.moment)
        state = settled.copy()
        kept = dict(cut.kept)
        for number in range(first, len(self.effects)):
            effect = self.effects[number]
            if _is_safe(effect, cut.moment):
                state.apply(effect.what)
            elif number in kept:
                state.apply(effect.what, kept[number])
        return state.image()

    def reached(self, moment: int) -> dict[str, list[int]]:
        """Give the numbers of the marks passed by a moment, by name."""
        found: dict[str, list[int]] = {}
        for when, name, number in self.marks:
            if when <= moment:
                found.setdefault(name, []).append(number)
        return found

    def length_before(self, number: int) -> int:
        """Give how long the file of an effect was before it, if nothing was lost."""
        return self._lengths[number]

    # ---------------------------------------------------------------------------------------- private

    def _settle_up_to(self, moment: int) -> tuple[int, _State]:
        """Give the state behind those first effects that are all certain, and how many they are."""
        at, done, state = self._settled
        if moment < at:
            done, state = 0, self._base
        state = state.copy()
        while done < len(self.effects) and _is_safe(self.effects[done], moment):
            state.apply(self.effects[done].what)
            done += 1
        # Kept for the next image: those of one moment are asked for together, and moments in their order.
        self._settled = moment, done, state
        return done, state

    def _new_node(self) -> int:
        self._nodes += 1
        return self._nodes

    def _new_directory(self) -> int:
        node = self._new_node()
        self._base.names[node] = {}
        return node

    def _enter(self, path: str, node: int) -> None:
        above, name = self._place(path, self._base)
        self._base.names[above][name] = node

    @staticmethod
    def _place(path: str, state: _State) -> tuple[int, str]:
        """Give the directory's node and the name of a path."""
        *above, name = path.split("/")
        node = ROOT
        for part in above:
            node = state.names[node][part]
        return node, name

    def _node_at(self, path: str) -> int:
        if not path:
            return ROOT
        above, name = self._place(path, self._live)
        return self._live.names[above][name]

    def _do(self, op: FileOp, start: int, root: str, inodes: dict[int, int]) -> None:
        began, ended = start + op.began, start + op.ended
        match op.change:
            case Write(path, inode, offset, data, synced, failed):
                told = f"Write {offset}+{len(data)} {_inside(root, path)}"
                safe = ended if synced and not failed else None
                self._add(Effect(began, ended, Put(inodes[inode], offset, data), told, safe, failed))
            case Truncate(path, inode, length):
                told = f"Truncate {length} {_inside(root, path)}"
                self._add(Effect(began, ended, Resize(inodes[inode], length), told))
            case Sync(path, inode, range=None):
                self._sync(began, ended, self._synced_node(_inside(root, path), inode, inodes))
            case SyncAll():
                self._sync(began, ended, None)
            case Map(path, writable=True) if os.path.basename(path) not in MAPPED_AND_NO_MATTER:
                raise Unmodelled(f"{path} is mapped writable: what is stored there is in no recording")
            case Map() | Sync():
                pass  # a range that is synced is no promise
            case Reached(name, number):
                self.marks.append((ended, name, number))
                self.moments.append(ended)
            case _:
                self._do_to_names(op.change, began, ended, root, inodes)

    def _do_to_names(self, change: Change, began: int, ended: int, root: str, inodes: dict[int, int]) -> None:
        names: dict[str, int | None]
        match change:
            case Create(path, inode):
                node = inodes[inode] = self._new_node()
                self._base.files[node] = self._live.files[node] = b""
                names = {path: node}
            case MakeDirectory(path):
                node = self._new_directory()
                self._live.names[node] = {}
                names = {path: node}
            case Rename(old, new, exchanged=False):
                names = {old: None, new: self._node_at(_inside(root, old))}
            case Link(old, new):
                names = {new: self._node_at(_inside(root, old))}
            case Remove(path):
                names = {path: None}
            case _:
                raise Unmodelled(f"{change}")
        places = [(*self._place(_inside(root, path), self._live), node) for path, node in names.items()]
        above = {directory for directory, _, _ in places}
        moved = isinstance(change, Rename) and any(node in self._live.names for _, _, node in places)
        if len(above) > 1 or moved:
            raise Unmodelled(f"{change}")
        told = " ".join([type(change).__name__, *(_inside(root, path) for path in names)])
        self._add(Effect(began, ended, Names(above.pop(), tuple((name, node) for _, name, node in places)), told))

    def _synced_node(self, path: str, inode: int, inodes: dict[int, int]) -> int:
        # A file by its inode, whatever it is called by now; directories are never renamed here.
        try:
            node = self._node_at(path)
        except KeyError:
            return inodes[inode]
        return node if node in self._live.names else inodes[inode]

    def _add(self, effect: Effect) -> None:
        self.effects.append(effect)
        self._lengths.append(len(self._live.files.get(effect.what.node, b"")))
        self.moments += [effect.began, effect.ended]
        self._live.apply(effect.what)

    def _sync(self, began: int, ended: int, node: int | None) -> None:
        for effect in self.effects:
            # Only what had ended when the sync began is covered by it.
            if effect.safe is None and not effect.failed and effect.ended < began and node in (None, effect.what.node):
                effect.safe = ended
        self.moments.append(ended)
        self.syncs.append(ended - 1)


def _is_safe(effect: Effect, moment: int) -> bool:
    return effect.safe is not None and effect.safe <= moment


def _inside(root: str, path: str) -> str:
    assert path == root or path.startswith(root + "/"), f"{path} isn't inside {root}"
    return path[len(root) + 1 :]

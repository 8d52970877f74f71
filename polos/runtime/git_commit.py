"""
Which commit is checked out where a file lies, read from the files of git.

Asking the program ``git`` would start a process for each start of an engine, need it on the path, and let the
configuration of a directory that isn't ours decide what is run. The three files that hold the answer have kept
their form for as long as git exists: ``HEAD`` names a ref or a commit; a ref is a file, or a line of ``packed-refs``.
Whoever made the directory may have put something else there, so none but regular files of a size that git writes are
read.
In a linked worktree and in a submodule ``.git`` is a file that says where they are. A repository that keeps its refs
in the newer *reftable* form has no answer here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from polos.regular import read_regular

__all__ = ["git_commit"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1, or SHA-256
_LINKS_MAX: Final = 5  # refs that name refs; git's own limit
_LINE_BYTES_MAX: Final = 1 << 16  # of a file with one line: a path, a ref, a commit
_PACKED_BYTES_MAX: Final = 64 << 20  # half a million refs


def git_commit(path: Path) -> str | None:
    """
    Give the commit of the working tree that holds a file or directory; None if there is none to be read.

    Whether files differ from that commit isn't looked at: the sources are kept beside it.
    """
    try:
        for directory in (path, *path.parents):
            entry = directory / ".git"
            if entry.exists():
                own = entry if entry.is_dir() else directory / _value(entry, "gitdir: ")
                return _commit(own, "HEAD")
    except (OSError, ValueError):
        return None  # unreadable, cut short, or no text
    return None


def _value(file: Path, key: str) -> str:
    text = _text(file)
    if not text.startswith(key):
        message = f"{file} doesn't start with {key!r}"
        raise ValueError(message)
    return text.removeprefix(key).strip()


def _text(file: Path, bytes_max: int = _LINE_BYTES_MAX) -> str:
    return read_regular(file, bytes_max=bytes_max).decode()


def _commit(own: Path, ref: str) -> str | None:
    """Follow a ref; `own` is the git directory of this worktree, which shares most refs with the main one."""
    beside = own / "commondir"
    common = own / _text(beside).strip() if beside.is_file() else own
    for _ in range(_LINKS_MAX):
        file = next((place / ref for place in (own, common) if (place / ref).is_file()), None)
        if file is None:
            return _packed(common, ref)
        text = _text(file).strip()
        if _COMMIT.fullmatch(text):
            return text
        ref = _value(file, "ref: ")
    return None


def _packed(common: Path, ref: str) -> str | None:
    file = common / "packed-refs"
    if not file.is_file():
        return None
    for line in _text(file, _PACKED_BYTES_MAX).splitlines():
        commit, _, name = line.partition(" ")
        if name == ref and _COMMIT.fullmatch(commit):
            return commit
    return None

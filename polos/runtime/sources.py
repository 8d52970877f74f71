"""
One module's source: its bytes, their digest, and what its import statements name.

Parsing costs a quarter of a millisecond a kilobyte, a hundred times what reading costs; so a source is kept with the
state of its file (two times, size, inode) and read again only when that differs. Only statements are walked, not
the expressions in them, where no import can stand.
"""

from __future__ import annotations

import ast
import hashlib
import stat
import types
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final, cast
from zipimport import zipimporter

from polos.data_class import dataclass
from polos.regular import read_regular

__all__ = ["Import", "Source", "code_digest", "parse", "read", "used_names"]

PARSED_BYTES_MAX: Final = 2 << 20  # nobody wrote a longer file by hand
READ_BYTES_MAX: Final = 64 << 20  # nor did a program
_KEPT_MAX: Final = 1_024
_UNREADABLE: Final = (*BYTECODE_SUFFIXES, *EXTENSION_SUFFIXES)
_BLOCKS: Final = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True, slots=True)
class Import:
    """``from ..module import names``, with `level` dots; without names ``import module``."""

    level: int
    module: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A module's source."""

    data: bytes
    digest: str
    imports: tuple[Import, ...]


def read(file: str, loader: object) -> Source | None:
    """
    Read a module's source; None if it can't be read, or is no source.

    Args:
        file: where the module says it is.
        loader: what loaded it; only a zip archive's is asked, others are somebody else's code.
    """
    if file.endswith(_UNREADABLE):
        return None
    archive = loader if isinstance(loader, zipimporter) else None
    try:
        found = Path(file if archive is None else archive.archive).stat()
        if not stat.S_ISREG(found.st_mode):
            return None  # a fifo, which would be waited for
        return _read(file, archive, (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino))
    except (OSError, ValueError):
        return None  # gone, forbidden, a name no file can have


@lru_cache(maxsize=_KEPT_MAX)
def _read(file: str, archive: zipimporter | None, state: tuple[int, ...]) -> Source:  # noqa: ARG001 - the key
    if archive is not None:
        return parse(archive.get_data(file))
    return parse(read_regular(file, bytes_max=READ_BYTES_MAX))


def parse(data: bytes) -> Source:
    """Digest a source and find its import statements; none where it can't be parsed."""
    return Source(data, hashlib.sha256(data).hexdigest(), tuple(_imports(data)))


def _imports(data: bytes) -> Iterator[Import]:
    if b"import" not in data or len(data) > PARSED_BYTES_MAX:
        return
    try:
        with warnings.catch_warnings():
            # Python said what it thinks of this source when it was imported.
            warnings.simplefilter("ignore")
            tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # changed into something broken since it was loaded; it is recorded as it is
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(0, alias.name)
        elif isinstance(node, ast.ImportFrom):
            yield Import(node.level, node.module or "", tuple(alias.name for alias in node.names if alias.name != "*"))
        else:
            for block in reversed(_BLOCKS):
                waiting.extend(reversed(getattr(node, block, ())))


# -------------------------------------------------------------------------- code without a source


def code_digest(code: types.CodeType) -> str:
    """
    Digest what a code object does, whatever file and line it comes from.

    The same in every process: constants are taken by their text, and those of a frozen set, which come in the
    order of their hashes, are sorted.
    """
    digest = hashlib.sha256()
    for part in _parts(code):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def used_names(code: types.CodeType) -> set[str]:
    """Give the names of globals and attributes that a code object uses, inner functions included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= used_names(constant)
    return names


def _parts(code: types.CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield code.co_exceptiontable
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)).encode(errors="backslashreplace")
    yield repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)).encode()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield code_digest(constant).encode()
        else:
            yield _text(constant).encode(errors="backslashreplace")


def _text(constant: object) -> str:
    if isinstance(constant, frozenset):
        return f"frozenset({sorted(_text(member) for member in cast('frozenset[object]', constant))})"
    if isinstance(constant, tuple):
        return f"tuple({[_text(member) for member in cast('tuple[object, ...]', constant)]})"
    return repr(constant)

"""
What came with the interpreter or from a package, and from which one.

A program's own modules are told from all others by where their files lie. The standard library and installed
packages have known directories; everything else is the project's, an editable installation included.

Which package a file belongs to is asked of the packages' own lists of files (``RECORD``). The name of a module says
it only mostly: ``yaml`` is from PyYAML, and parts of ``google`` come from dozens of packages. The one whose name fits
is asked first, and the lists are searched as text: parsing them all, as `importlib.metadata` does for that question,
takes longer than the start of an engine.
"""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from importlib.metadata import Distribution

__all__ = ["is_installed", "package_of"]

_SITE_FOLDERS: Final = ("site-packages", "dist-packages")
_FILES_MAX: Final = 4096  # answers kept: what is loaded doesn't change with what is installed meanwhile
_HEADER: Final = re.compile(r"^(Name|Version): *(.*?) *$", re.MULTILINE)


def is_installed(file: str) -> bool:
    """Tell whether a file belongs to the standard library or to an installed package."""
    path = _path(file)
    return _site_of(path) is not None or path.startswith(_stdlib())


@lru_cache(maxsize=_FILES_MAX)
def package_of(file: str) -> tuple[str, str] | None:
    """Give name and version of the package that installed a file; None if no package says so."""
    path = _path(file)
    site = _site_of(path)
    if site is None:
        return None
    inside = path[len(site) :].replace(os.sep, "/")
    for distribution in _candidates(site, re.split(r"[/.]", inside)[0]):
        found = _identity(distribution)
        if found is not None and _holds(distribution, inside, found[0]):
            return found
    return None


def _path(file: str) -> str:
    # Links aren't followed: some installers fill the directory of packages with links to a cache.
    return os.path.abspath(file)  # noqa: PTH100 - `Path.resolve` would follow them


@cache
def _stdlib() -> tuple[str, ...]:
    # Both spellings: a virtual environment reaches the standard library through links.
    places = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(os.__file__).parent)}
    return tuple(sorted({spelling + os.sep for place in places for spelling in (place, os.path.realpath(place))}))


@cache
def _sites() -> tuple[str, ...]:
    return tuple(sysconfig.get_path(kind) + os.sep for kind in ("purelib", "platlib"))


def _site_of(path: str) -> str | None:
    """Give the directory of packages that a path lies in, with the separator behind it."""
    for folder in _SITE_FOLDERS:
        before, found, _ = path.rpartition(f"{os.sep}{folder}{os.sep}")
        if found:
            return before + found
    return next((site for site in _sites() if path.startswith(site)), None)


def _candidates(site: str, name: str) -> Iterator[Distribution]:
    from importlib.metadata import Distribution

    yield from Distribution.discover(name=name, path=[site])
    yield from Distribution.discover(path=[site])


def _identity(distribution: Distribution) -> tuple[str, str] | None:
    head = (_text(distribution, "METADATA") or _text(distribution, "PKG-INFO")).partition("\n\n")[0]
    fields = dict(_HEADER.findall(head))
    return (fields["Name"], fields["Version"]) if len(fields) == 2 else None


def _holds(distribution: Distribution, inside: str, package: str) -> bool:
    record = _text(distribution, "RECORD")
    if not record:
        # Packages of the operating system come without a list; then the name has to do.
        top = re.split(r"[/.]", inside)[0]
        return _normal(package) == _normal(top)
    return f"\n{inside}," in f"\n{record}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _text(distribution: Distribution, name: str) -> str:
    try:
        return distribution.read_text(name) or ""
    except (OSError, ValueError):
        return ""  # damaged, or not for us to read: this package then says nothing

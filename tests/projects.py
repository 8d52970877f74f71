"""
Small projects and installed packages, made for one test.

The projects are real files that are really imported, because what is tested with them is how files, `sys.modules`
and import statements fit together. Installed packages are imitated by files in a folder called ``site-packages``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Project", "install", "made_project", "made_site"]


class Project:
    """A folder of modules on the import path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, **files: str) -> None:
        """Write modules; `a__b` stands for a/b.py and `a__init` for a/__init__.py."""
        for name, text in files.items():
            stem = "/".join("__init__" if part == "init" else part for part in name.split("__"))
            path = self.folder / f"{stem}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    def load(self, module: str = "app", name: str = "work") -> Any:
        """Import a module and give a function of it."""
        return getattr(importlib.import_module(module), name)


@contextmanager
def made_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Make an empty project; what it loads is unloaded afterwards."""
    before = set(sys.modules)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield Project(folder)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def made_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty directory of installed packages."""
    folder = tmp_path / "lib" / "site-packages"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)
    return folder


def install(site: Path, name: str, version: str, *files: str, record: bool = True) -> None:
    """Install a package of these files, as an installer would."""
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text("value = 1\n")
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not-this\n"
    (info / "METADATA").write_text(text)
    if record:
        (info / "RECORD").write_text("".join(f"{file},sha256=x,1\n" for file in files))
    importlib.invalidate_caches()

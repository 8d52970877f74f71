"""
Finds the Python examples of the documentation and runs them as programs.

An example that isn't run is wrong sooner or later, so every fenced block of Python says what it is:

* ``python run``: it is run. The blocks of a page, or of one docstring, are one program, in order.
* ``python no-run: <reason>``: it can't be run; the reason stands there and the number of such blocks of a page is
  written down in tests/tidy.toml.

A program is written to a file whose lines have the numbers they have on the page, so that a traceback points to the
page. It runs in a process of its own, because registered definitions and open stores are state of a process, in an
empty directory, without POLOS_* settings, with warnings as errors.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import tidy
from tests.tidy import ROOT

__all__ = ["Page", "all_pages", "environment", "markdown_page", "run", "source_pages"]

_FENCE = re.compile(r"^(?P<indent>\s*)(?P<ticks>`{3,})python(?P<says>.*)$")
_RUN_SECONDS_MAX = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one page or docstring holds."""

    name: str  # where it is
    program: str  # its runnable blocks, every line at the number it has on the page; empty if there are none
    unrun: tuple[str, ...] = ()  # the reasons of blocks that are not run
    silent: tuple[int, ...] = ()  # lines of blocks that don't say what they are


def _page(name: str, numbered: Iterable[tuple[int, str]]) -> Page:
    program: dict[int, str] = {}
    unrun: list[str] = []
    silent: list[int] = []
    lines = iter(numbered)
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence is None:
            continue
        block = _until(lines, fence["ticks"])
        says = fence["says"].strip()
        if says == "run":
            code = textwrap.dedent("\n".join(text for _, text in block)).split("\n")
            program |= {at: text for (at, _), text in zip(block, code, strict=bool(block))}
        elif says.startswith("no-run:") and says.removeprefix("no-run:").strip():
            unrun.append(says.removeprefix("no-run:").strip())
        else:
            silent.append(number)
    text = "\n".join(program.get(number, "") for number in range(1, max(program) + 1)) + "\n" if program else ""
    return Page(name=name, program=text, unrun=tuple(unrun), silent=tuple(silent))


def _until(lines: Iterator[tuple[int, str]], ticks: str) -> list[tuple[int, str]]:
    block: list[tuple[int, str]] = []
    for number, line in lines:
        if line.strip() == ticks:
            return block
        block.append((number, line))
    msg = f"a block that is never closed: {block[:1]}"
    raise AssertionError(msg)


def markdown_page(name: str, text: str) -> Page:
    """Give the examples of a Markdown page."""
    return _page(name, enumerate(text.splitlines(), start=1))


def source_pages(name: str, text: str) -> Iterator[Page]:
    """Give the examples of a module's docstrings, each docstring a page."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node) is None:
            continue
        docstring = node.body[0]
        numbered = [(n, lines[n - 1]) for n in range(docstring.lineno, (docstring.end_lineno or 0) + 1)]
        page = _page(f"{name}:{getattr(node, 'name', 'module')}", numbered)
        if page.program or page.unrun or page.silent:
            yield page


def all_pages() -> list[Page]:
    """Give every page and docstring of the project that has Python on it."""
    pages: list[Page] = []
    for path, text in tidy.text_files():
        if path.suffix == ".md":
            pages.append(markdown_page(str(path), text))
        elif path.suffix == ".py" and path.parts[0] == "polos":
            pages += source_pages(str(path), text)
    return [page for page in pages if page.program or page.unrun or page.silent]


def environment() -> dict[str, str]:
    """
    Give a program what it would have on a machine where nobody set anything for polos.

    Where Python is told to keep nothing that it compiled, as in many images, each of more than a hundred programs
    would compile polos and its packages by itself, which takes longer than anything that it does.
    """
    left_out = "PYTHONDONTWRITEBYTECODE"
    return {name: value for name, value in os.environ.items() if not name.startswith("POLOS_") and name != left_out}


def run(page: Page, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a page's program in `directory`; gives how it ended, with its output and errors as one text."""
    script = directory / (re.sub(r"\W+", "_", page.name).strip("_") + ".py")
    script.write_text(page.program, encoding="utf-8")
    place = directory / "data"
    place.mkdir()
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=place,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_RUN_SECONDS_MAX,
        check=False,
    )

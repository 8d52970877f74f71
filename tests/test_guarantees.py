"""
The guarantees name tests that exist, and the tour names code that exists.

A promise whose test was renamed or removed is a promise that nobody keeps an eye on. What can be checked here is that
each test is there; that it shows what the sentence says is for a reviewer.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests import tidy
from tests.tidy import ROOT

INVARIANTS = [f"L{number}" for number in range(1, 9)] + [f"E{number}" for number in range(1, 10)]

PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
CONTROLS = (ROOT / "tests" / "controls" / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[`(?P<file>[\w/]+\.py)::(?P<test>\w+)`\]\(\.\./(?:tests/)?(?P<target>[\w/]+\.py)\)")
ROW = re.compile(r"^\| (?P<name>[^|]+) \| (?P<tests>[^|]+) \| (?P<controls>[^|]+) \|$", re.MULTILINE)


@cache
def names_in(path: Path) -> frozenset[str]:
    """Give the names under which pytest finds tests in a file of the project."""
    if path not in tidy.tracked():
        return frozenset()
    names: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) if name.startswith("Test"):
                names.add(name)  # a state machine of Hypothesis
            case _:
                pass
    return frozenset(names)


def dead(text: str) -> list[str]:
    """Give the tests that a text names and that aren't there, or whose link leads elsewhere."""
    return [
        f"{link['file']}::{link['test']}"
        for link in LINK.finditer(text)
        if link["file"] != link["target"] or link["test"] not in names_in(Path("tests", link["file"]))
    ]


def sections() -> dict[str, str]:
    """Give the sections of the page by heading, of the third level and the second."""
    parts = re.split(r"^##+ (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_named_test_exists():
    """Each test that the guarantees name is a test of a file of the project, and the link leads to that file."""
    assert [] == dead(PAGE)
    assert [] == [path for path in re.findall(r"\.\./tests/[\w/]+\.py", LINK.sub("", PAGE)) if path]


@pytest.mark.parametrize(
    "link",
    [
        "[`test_guarantees.py::test_nothing`](../tests/test_guarantees.py)",
        "[`test_nothing.py::test_dead_links_are_found`](../tests/test_nothing.py)",
        "[`test_guarantees.py::test_dead_links_are_found`](../tests/test_tidy.py)",
        "[`test_guarantees.py::dead`](../tests/test_guarantees.py)",
    ],
)
def test_dead_links_are_found(link):
    """A test that isn't there, a file that isn't there, a link to another file and a function that is no test."""
    assert 1 == len(dead(link))


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_every_invariant_is_shown(invariant):
    """Each numbered invariant has its section, says what it is and names at least one test."""
    section = sections()[invariant]

    assert section.strip().split("\n")[0].endswith(".")
    assert LINK.search(section)


def test_every_invariant_has_its_control():
    """Each numbered invariant has a row in the table of controls, with tests and broken engines that exist."""
    rows = {row["name"]: row for row in ROW.finditer(CONTROLS) if set(row["name"]) != {"-"}}

    assert [] == [name for name in INVARIANTS if name not in rows]
    assert [] == [name for name in INVARIANTS if not LINK.search(rows[name]["tests"])]
    assert [] == [name for name in INVARIANTS if not LINK.search(rows[name]["controls"])]
    assert [] == dead(CONTROLS)


def test_every_control_is_named():
    """Each control stands in the table beside what it controls, and in the guarantees with what is broken."""
    files = [path for path in tidy.python_files("tests") if path.match("controls/test_*.py")]
    controls = {f"controls/{path.name}::{name}" for path in files for name in names_in(path)}
    tabled = {f"{link['file']}::{link['test']}" for row in ROW.finditer(CONTROLS) for link in LINK.finditer(row[3])}
    listed = {f"{link['file']}::{link['test']}" for link in LINK.finditer(sections()["How the checks are checked"])}

    assert len(controls) > 25
    assert set() == controls - tabled
    assert set() == controls - listed


def test_every_promise_is_shown():
    """Each sentence of the first part names at least one test, and the invariants that it names have a section."""
    first = PAGE.split("\n## ")[1]
    promises = re.findall(r"^- .*(?:\n  .*)*", first, flags=re.MULTILINE)

    assert [] == [promise for promise in promises if not LINK.search(promise)]
    assert set(re.findall(r"\[\w+\]\(#(\w+)\)", PAGE)) <= {name.lower() for name in INVARIANTS}
    assert len(promises) > 30


def test_the_tour_names_what_exists():
    """A method that the tour through the code names is one of a class of that name."""
    tour = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    methods: set[str] = set()
    for path in tidy.python_files("polos"):
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods |= {
                    f"{node.name}.{member.name}"
                    for member in node.body
                    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
                }
    named = set(re.findall(r"`([A-Z]\w+\.\w+)`", tour))

    assert set() == named - methods
    assert named

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
LINE_KILLS = "crash/test_line_kills.py"
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


def amounts(file: str) -> list[tuple[int, int]]:
    """Give how much a file tries, in its order: in short campaigns, and in long ones."""
    return [
        (ast.literal_eval(node.args[0]), ast.literal_eval(node.args[1]))
        for node in sorted(
            (
                found
                for found in ast.walk(ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")))
                if isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and found.func.id == "scaled"
            ),
            key=lambda call: call.lineno,
        )
    ]


def figures() -> list[str]:
    """Give what the page has to say, word for word, of what is tried: from the files that try it."""
    (at_random, fresh, point), ((mixed, mixed_long),) = amounts("crash/test_engine_kills.py"), amounts(LINE_KILLS)
    short, long = (at_random[n] * 20 + fresh[n] + point[n] * 15 for n in (0, 1))
    programs, core = amounts("property/test_programs.py"), amounts("property/test_core.py")[0]
    drawn, crashed = ([sum(one) for one in zip(*some, strict=True)] for some in ((*programs[:2], core), programs[2:]))
    machine = [one for pair in amounts("property/test_machine.py") for one in pair]
    races, queues = amounts("property/test_races.py")[0], amounts("property/test_queue_histories.py")[0]
    admission, log = amounts("property/test_admission.py")[0], amounts("property/test_log_model.py")[0]
    disk, lines = amounts("crash/test_engine_disk.py")[0], amounts("property/test_lines_swept.py")[0]
    crashes = amounts("test_torture.py")[0]
    kept = [path.name for path in (ROOT / "tests" / "golden").glob("format-*/*/*")]
    files = [path for path in tidy.python_files("tests") if path.match("controls/test_*.py")]
    return [
        f"{short} kills: {point[0] * 15} at 15 points, {at_random[0] * 20} at random, {fresh[0]} in fresh interpreters",
        f"`make crash-long`: {long:,} kills",
        f"| {mixed * 8} kills | `make mixed-long`: {mixed_long * 8:,} kills |",
        f"up to {drawn[0]} programs, and each crash and failure of {crashed[0]} more |",
        f"`make property-long`: {drawn[1]:,} and {crashed[1]:,} |",
        f"up to {machine[0]} sequences of {machine[2]} | `make property-long`: {machine[1]:,} of {machine[3]} |",
        f"| at least {crashes[0]:,} crashes, ",
        f"| {races[0] * 8:,} schedules | `make property-long`: {races[1] * 8:,} |",
        f"up to {admission[0]} sequences of 50 | `make property-long`: {admission[1]:,} |",
        f"| {queues[0] * 3} histories | `make property-long`: {queues[1] * 3:,} |",
        f"of {lines[0]} programs | `make mixed-long`: at each tick of {lines[1]} programs |",
        f"up to {log[0]} sequences of 40 | `make property-long`: {log[1]:,} |",
        f"| {disk[0]} lives | `make crash-long`: {disk[1]} |",
        f"| {kept.count('history.jsonl')} histories and {kept.count('store.tar.xz')} data directories |",
        f"| the checks themselves | {sum(len(names_in(path)) for path in files)} tests with engines, ",
    ]


def test_figures_are_those_of_the_tests():
    """What the page says of how much is tried is what its tests try, where it can be counted without running them."""
    assert [] == [figure for figure in figures() if figure not in PAGE]


def test_every_folder_of_tests_is_explained():
    """The table of folders names those that there are."""
    page = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    folders = {path.parts[1] for path in tidy.tracked() if path.parts[0] == "tests" and len(path.parts) > 2}

    assert folders == set(re.findall(r"`(\w+)/`", "\n".join(line for line in page.split("\n") if line[:1] == "|")))


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

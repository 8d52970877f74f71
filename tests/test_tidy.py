"""
The repository checks itself: what a reviewer would say every time is said here, once.

Length limits, docstrings, no clocks in tests, no traces of one machine, a fast `import polos`. Exceptions stand in
tests/tidy.toml with their reasons; they are compared for equality, so the list can't hide that one has gone.
What concerns the documents is in test_tidy_docs.py.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import polos
import polos.errors

from tests import tidy
from tests.tidy import ROOT

MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60


def exceptions(kind: str) -> dict[str, int]:
    """Give the counted exceptions of one kind; each must have a reason."""
    entries = tidy.allowed()[kind]
    assert all(str(entry["reason"]).strip() for entry in entries.values()), f"[{kind}] in tests/tidy.toml: no reason"
    return {place: int(entry["count"]) for place, entry in entries.items()}


def test_module_length():
    """No module is longer than 600 lines, but for the listed ones, whose length is exact."""
    lines = {str(path): (ROOT / path).read_text(encoding="utf-8").count("\n") for path in tidy.python_files()}

    assert exceptions("module_lines") == {path: n for path, n in lines.items() if n > MODULE_LINES_MAX}


def test_function_length():
    """No function is longer than 60 lines, but for the listed ones, whose length is exact."""
    found = [function for path in tidy.python_files() for function in tidy.module(path).functions]
    long = {f"{f.path}:{f.name}": f.lines for f in found if f.lines > FUNCTION_LINES_MAX}

    assert exceptions("function_lines") == long


def test_module_docstring():
    """Each module opens with a docstring."""
    assert [] == [str(path) for path in tidy.python_files() if not tidy.module(path).docstring.strip()]


def test_each_test_says_what_it_pins():
    """Each test has a docstring that opens with a sentence naming the behaviour."""
    tests = [
        function
        for path in tidy.python_files("tests")
        if path.name.startswith("test_")
        for function in tidy.module(path).functions
        if function.name.startswith("test_")
    ]
    mute = [f"{t.path}:{t.line} {t.name}" for t in tests if not (t.docstring or "").split("\n\n")[0].endswith(".")]

    assert tests
    assert [] == mute


def test_tests_have_no_clock():
    """Tests wait for facts: no sleep and no look at a clock, but for the listed files, whose count is exact."""
    calls = {str(path): len(tidy.module(path).clock_calls) for path in tidy.python_files("tests")}

    assert exceptions("clock_calls") == {path: n for path, n in calls.items() if n}


def test_clock_calls_are_found():
    """The check sees sleeps and clocks however they are called, and lets durable ones pass."""
    source = """
import time
from asyncio import sleep
from time import monotonic
async def helper():
    await asyncio.sleep(0.1)
    await asyncio.sleep(0)
    await asyncio.sleep(5)  # durable
    time.sleep(0)
    return datetime.now()
@workflow(id="w")
async def body(ctx):
    await asyncio.sleep(3600)
    async def inner():
        await asyncio.sleep(3600)
        time.time()
"""

    assert [3, 4, 6, 9, 10, 16] == tidy.clock_calls(source)


def test_no_trace_of_one_machine():
    """No tracked file names a path of somebody's machine or the address of a package registry."""
    trace = re.compile(
        r"/(?:w[o]rk|r[o]ot|f[a]rm|h[o]me/\w+|U[s]ers/\w+|o[p]t/(?:pypi|wheels)[\w-]*)/"
        r"|pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|deb\.debian\.org|index[-]url|find[-]links"
    )
    keeps_addresses_out = "--no-emit-index" + "-url"  # what makes the lock file, and spells the word
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in tidy.text_files()
        for number, line in enumerate(text.splitlines(), start=1)
        if trace.search(line.replace(keeps_addresses_out, ""))
    ]

    assert [] == found


def test_import_polos_loads_little():
    """`import polos` loads no third-party package and not asyncio: each is loaded on use."""
    script = "import sys; before = set(sys.modules); import polos; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}

    assert {"polos"} == loaded - sys.stdlib_module_names
    assert "asyncio" not in loaded


def test_every_public_error_stands_in_the_tree():
    """The tree in the docstring of polos.errors has each public exception, below its real base, and nothing else."""
    documented: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (polos.errors.__doc__ or "").splitlines():
        match = re.match(r"( {4}[ │├└─]*)(\w+)(?: {2,}\S.*)?$", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        above = [entry for entry in above if entry[0] < depth]
        if above:
            documented[name] = above[-1][1]
        above.append((depth, name))

    real = {name: getattr(polos.errors, name).__base__.__name__ for name in polos.errors.__all__}

    assert real == documented


def test_every_public_error_has_a_first_line():
    """Each public exception says in its docstring what happened: it stands in for an empty message."""
    classes = [getattr(polos.errors, name) for name in polos.errors.__all__]

    assert [] == [c.__name__ for c in classes if not (c.__dict__.get("__doc__") or "").strip()]


def test_version_has_one_place():
    """The installed distribution has the version that the package names."""
    assert "0.1.0" == polos.__version__
    assert polos.__version__ == importlib.metadata.version("polos-engine")


def test_lock_holds_every_dependency():
    """Each dependency of pyproject.toml, groups included, is pinned in the lock file, and each pin has hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [group for name, group in project["dependency-groups"].items() if name != "lock"]
    wanted = [
        *project["project"]["dependencies"],
        *(item for group in groups for item in group if isinstance(item, str)),
    ]
    names = {re.split(r"[\[<>=!~ ;]", requirement)[0] for requirement in wanted}

    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+)==\S+.*\\\n    --hash=sha256:", lock, flags=re.MULTILINE)

    assert set() == names - set(pins)
    assert len(re.findall(r"^[\w.-]+==", lock, flags=re.MULTILINE)) == len(pins)


def test_ids_of_shared_workflows_are_their_own():
    """A workflow of a helper module has an id that no other module uses: ids stand for the definition made last."""
    defined: dict[str, set[Path]] = {}
    for path in tidy.python_files("tests"):
        if "golden" in path.parts:
            continue  # each history has a program of its own, loaded alone
        for name in tidy.module(path).workflow_ids:
            defined.setdefault(name, set()).add(path)
    shared = {
        name: sorted(map(str, paths))
        for name, paths in defined.items()
        if len(paths) > 1 and not all(path.name.startswith("test_") for path in paths)
    }

    assert {} == shared

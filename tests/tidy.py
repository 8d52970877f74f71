"""
The tree as the tidiness tests see it: which files are the project's, and what stands in them.

Only tracked files count: what lies about in a working copy is nobody's business, and a fresh clone must give the
same verdict. Without git (an unpacked source archive) every file outside hidden and built folders counts.
"""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = [
    "ROOT",
    "Function",
    "Module",
    "allowed",
    "clock_calls",
    "module",
    "python_files",
    "text_files",
    "tracked",
]

ROOT = Path(__file__).resolve().parent.parent

_Function = ast.FunctionDef | ast.AsyncFunctionDef

_CODE = ("polos", "tests", "examples", "bench")
_BUILT = {"build", "dist", "__pycache__"}

# What a test may not do: wait for time to pass, or look at how much of it has.
_CLOCK = {
    "asyncio.sleep", "anyio.sleep", "time.sleep", "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns",
    "time.perf_counter", "time.perf_counter_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today",
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today",
}  # fmt: skip


@cache
def tracked() -> tuple[Path, ...]:
    """Give the project's files, as paths from the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        names = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    else:
        names = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
        names = [path for path in names if not any(part.startswith(".") or part in _BUILT for part in path.parts[:-1])]
    return tuple(sorted(path for path in names if (ROOT / path).is_file()))


def python_files(*folders: str) -> list[Path]:
    """Give the Python files in these folders of the project (all folders with code, if none is named)."""
    return [path for path in tracked() if path.suffix == ".py" and path.parts[0] in (folders or _CODE)]


def text_files() -> Iterator[tuple[Path, str]]:
    """Give every tracked file that is text, with its text."""
    for path in tracked():
        try:
            yield path, (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


@cache
def allowed() -> dict[str, dict[str, dict[str, str | int]]]:
    """Give the exceptions that stand in tests/tidy.toml."""
    return tomllib.loads((ROOT / "tests" / "tidy.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function or method and where it stands."""

    path: Path
    name: str
    line: int
    lines: int
    docstring: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """
    What the tests ask of a module. Its tree isn't kept: those of all modules together take 150 MB.

    Attributes:
        docstring: its own, or nothing.
        functions: every function, methods and inner functions included.
        names: of its functions and classes.
        clock_calls: lines that sleep or look at a clock; of tests alone.
        workflow_ids: under which its functions are defined as workflows.
    """

    docstring: str
    functions: tuple[Function, ...]
    names: frozenset[str]
    clock_calls: tuple[int, ...]
    workflow_ids: tuple[str, ...]


@cache
def module(path: Path) -> Module:
    """Read a file of the project."""
    source = (ROOT / path).read_text(encoding="utf-8")
    tree = ast.parse(source)
    defined = list(_definitions(tree))
    return Module(
        docstring=ast.get_docstring(tree) or "",
        functions=tuple(_function(path, node) for node in defined if not isinstance(node, ast.ClassDef)),
        names=frozenset(node.name for node in defined),
        clock_calls=tuple(_clock_calls(tree, source)) if path.parts[0] == "tests" else (),
        workflow_ids=tuple(name for node in tree.body for name in _workflow_ids(node)),
    )


def _definitions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Give functions and classes at any depth; in blocks alone, for most of a tree are expressions, which have none."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, block, ()):
            if isinstance(child, _Function | ast.ClassDef):
                yield child
            yield from _definitions(child)


def _function(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    last = node.end_lineno or node.lineno
    return Function(
        path=path,
        name=node.name,
        line=node.lineno,
        lines=last - node.lineno + 1,
        docstring=ast.get_docstring(node),
    )


def _workflow_ids(node: ast.stmt) -> Iterator[str]:
    """Give the ids under which a statement of a module defines workflows."""
    if not isinstance(node, _Function):
        return
    for decorator in node.decorator_list:
        match decorator:
            case ast.Name(id="workflow"):
                yield node.name
            case ast.Call(func=ast.Name(id="workflow"), keywords=keywords):
                said = [one.value.value for one in keywords if one.arg == "id" and isinstance(one.value, ast.Constant)]
                yield str(said[0]) if said else node.name
            case _:
                pass


def clock_calls(source: str) -> list[int]:
    """
    Give the lines of a test module that sleep or look at a clock.

    Not counted: ``asyncio.sleep(0)``, which only lets others run; a sleep in the body of a ``@workflow`` or on a
    line that says ``# durable``, where it is a timer of the engine and costs a test no time.
    """
    return _clock_calls(ast.parse(source), source)


def _clock_calls(tree: ast.Module, source: str) -> list[int]:
    lines = source.splitlines()
    found: list[int] = []
    for node, in_workflow in _calls(tree, in_workflow=False):
        if isinstance(node, ast.ImportFrom):
            # An imported bare name would escape the check below, so the import itself counts.
            found += [node.lineno for name in node.names if f"{node.module}.{name.name}" in _CLOCK]
            continue
        called = _dotted(node.func)
        if called not in _CLOCK:
            continue
        if called == "asyncio.sleep":
            yields = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            said = "# durable" in "\n".join(lines[node.lineno - 1 : node.end_lineno])
            if yields or said or in_workflow:
                continue
        found.append(node.lineno)
    return sorted(found)


def _dotted(node: ast.expr) -> str:
    """Give a name as it is written, dots included; nothing for any other expression."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return before and f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _calls(node: ast.AST, *, in_workflow: bool) -> Iterator[tuple[ast.Call | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = in_workflow
        if isinstance(child, _Function):
            inside = inside or any("workflow" in ast.unparse(decorator) for decorator in child.decorator_list)
        if isinstance(child, ast.Call | ast.ImportFrom):
            yield child, inside
        yield from _calls(child, in_workflow=inside)

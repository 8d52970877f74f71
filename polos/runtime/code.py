"""
What code a workflow has: its module, the project's modules that one imports, and what they stand on.

Time travel and the upgrade check need the sources that a run was made by, long after the working tree has moved on.
So this walks the import statements from the module of a function and takes every module of the project it reaches:
those that are neither part of the standard library, nor installed by a package, nor part of polos. A module that was
installed all the same counts if it shares its top-level package with the function: a program that was deployed as a
package is still a project.

* **Nothing is imported, and nobody else's code is run.** What is loaded is found in `sys.modules`, the rest by
  Python's own path finder; import hooks and foreign loaders aren't asked. What no statement names
  (`importlib.import_module`) isn't seen.
* **Nothing raises.** A record about code must not keep the code from running, so what can't be read is left out:
  sources that are gone, modules that are only there as bytecode or compiled extensions.
* **The file is what is read**, not what was loaded: an engine asks when it first runs a workflow, and a file that
  was changed between import and that moment is recorded as changed.

Without any source (`exec`, an old REPL) the function's bytecode stands in, which differs between Python versions.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import linecache
import logging
import platform
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final, cast

from polos import __version__
from polos.data_class import dataclass
from polos.runtime.git_commit import git_commit
from polos.runtime.installed import is_installed, package_of
from polos.runtime.sources import Import, Source, code_digest, parse, read, used_names

__all__ = ["CodeInfo", "describe_code"]

MODULES_MAX: Final = 1_000  # the rest of a larger project is left out: an engine starts by reading them all
_WRAPPERS_MAX: Final = 100
_MAINS: Final = ("__main__", "__mp_main__")

_log = logging.getLogger("polos")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeInfo:
    """
    The code of a workflow.

    Attributes:
        digest: SHA-256, as hex, over names and sources of the modules; the same on every machine.
        modules: name of each module → SHA-256 of its source. ``__main__`` stands under the stem of its file.
        sources: name of each module → its source.
        git_commit: the commit that is checked out where the function's module lies.
        python: version of the interpreter.
        packages: name of each installed package that the modules import → its version.
    """

    digest: str
    modules: dict[str, str]
    sources: dict[str, bytes]
    git_commit: str | None
    python: str
    packages: dict[str, str]


def describe_code(func: Callable[..., Any], *, name: str) -> CodeInfo:
    """
    Describe the code of a function; never raises.

    Args:
        func: a workflow's function. Decorators that say what they wrap are looked through.
        name: what the function is called in the digest when there is no source to name it.

    Example:
        >>> async def greet(ctx, who):
        ...     return f"hello {who}"
        >>> len(describe_code(greet, name="greet").digest)
        64
    """
    inner = _unwrapped(func)
    code = getattr(inner, "__code__", None)
    code = code if isinstance(code, types.CodeType) else None
    own = getattr(inner, "__module__", None)
    survey = _Survey(own if isinstance(own, str) else "")
    is_read = survey.take_own(code.co_filename if code else "")
    if not is_read and code:
        # No source holds the function, so the names in its bytecode say what it uses.
        survey.visit(_used_modules(code, getattr(inner, "__globals__", {})))
    survey.walk()

    sources = dict(sorted(survey.sources.items()))
    digest = hashlib.sha256()
    for module, source in sources.items():
        digest.update(f"{module}\0{source.digest}\n".encode())
    if not is_read:
        digest.update(f"\0{name}\0{code_digest(code) if code else ''}".encode(errors="backslashreplace"))
    return CodeInfo(
        digest=digest.hexdigest(),
        modules={module: source.digest for module, source in sources.items()},
        sources={module: source.data for module, source in sources.items()},
        git_commit=git_commit(Path(survey.file).absolute()) if survey.file else None,
        python=platform.python_version(),
        packages=dict(sorted(survey.packages.items())),
    )


def _unwrapped(func: object) -> object:
    """Look through what is put around a function: partials, bound methods, decorators, callable objects."""
    for _ in range(_WRAPPERS_MAX):
        if isinstance(func, functools.partial):
            func = cast("functools.partial[object]", func).func
        elif isinstance(func, types.MethodType):
            func = func.__func__
        elif "__wrapped__" in getattr(func, "__dict__", ()):
            func = getattr(func, "__wrapped__", None)
        elif isinstance(func, types.FunctionType | type):
            break
        else:
            func = inspect.getattr_static(type(func), "__call__", None)
    return func


def _used_modules(code: types.CodeType, names: Mapping[str, object]) -> Iterator[str]:
    for name in sorted(used_names(code)):
        value = names.get(name)
        if isinstance(value, types.ModuleType):
            yield value.__name__
        elif isinstance(value, types.FunctionType | type):
            yield value.__module__


# --------------------------------------------------------------------------------------- the walk


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A module, loaded or not: where its source is and where its parts are looked for."""

    file: str | None  # None: a namespace, or built in
    folders: tuple[str, ...] = ()  # of a package
    package: str = ""  # what its relative imports start from
    loader: object = None
    names: Mapping[str, object] = field(default_factory=dict[str, object])  # what it defines, if it is loaded


class _Survey:
    """One walk over the import statements of a project."""

    def __init__(self, own: str) -> None:
        self.sources: dict[str, Source] = {}
        self.packages: dict[str, str] = {}
        self._own = own
        self._top = "" if own in _MAINS else own.partition(".")[0]
        self._found: dict[str, _Found | None] = {}
        self._seen: set[str] = set()
        self._is_cut = False
        self._waiting: deque[tuple[str, Source]] = deque()
        found = self._find(own)
        self.file = found.file if found else None

    def take_own(self, filename: str) -> bool:
        """Take the function's module; tell whether that has the source the function was made from."""
        found = self._find(self._own)
        source = read(found.file, found.loader) if found and found.file else None
        is_elsewhere = filename.startswith("<")  # made by `exec` or the like, in the name of the module
        if source is None and filename:
            # In a notebook, and in newer REPLs, what was typed is kept as the lines of a file that isn't there.
            # But a fifo by that name would be waited for.
            is_other = Path(filename).exists() and not Path(filename).is_file()
            text = "" if is_other else "".join(linecache.getlines(filename))
            source = parse(text.encode(errors="backslashreplace")) if text else None
            is_elsewhere = False
        self.visit([self._own.rpartition(".")[0]])
        self._seen.add(self._own)
        if source is None:
            return False
        self._take(self._own, source)
        return not is_elsewhere

    def visit(self, names: Iterable[str]) -> None:
        """Take these modules, and the packages around them, as far as they are the project's."""
        for name in names:
            parts = name.split(".")
            # Importing `a.b.c` runs `a` and `a.b` first.
            for count in range(1, len(parts) + 1):
                if not self._visit(".".join(parts[:count])):
                    break

    def walk(self) -> None:
        """Follow the import statements of what was taken."""
        while self._waiting:
            name, source = self._waiting.popleft()
            found = self._find(name)
            for statement in source.imports:
                self.visit(self._imported(statement, found.package if found else ""))

    def _visit(self, name: str) -> bool:
        """Take one module if it is the project's; tell whether its parts may be, too."""
        if name in self._seen:
            return True
        found = self._find(name)
        if found is None:
            return False
        if name == "polos":
            self.packages["polos-engine"] = __version__
            return False
        if found.file is None:
            return True
        if is_installed(found.file) and name.partition(".")[0] != self._top:
            package = package_of(found.file)
            if package is not None:
                self.packages[package[0]] = package[1]
            return False
        self._seen.add(name)
        source = read(found.file, found.loader)
        if source is not None:
            self._take(name, source)
        return True

    def _take(self, name: str, source: Source) -> None:
        if len(self.sources) < MODULES_MAX:
            self.sources[self._public(name)] = source
            self._waiting.append((name, source))
        elif not self._is_cut:
            self._is_cut = True
            _log.warning("%s imports over %d modules of its project; the rest isn't recorded", self._own, MODULES_MAX)

    def _public(self, name: str) -> str:
        """Give the name that a module has elsewhere, too."""
        found = self._find(name)
        return Path(found.file).stem if name in _MAINS and found and found.file else name

    def _imported(self, statement: Import, package: str) -> Iterator[str]:
        """Give the modules that a statement names, and none for names that are known to be something else."""
        base = statement.module
        if statement.level:
            parts = package.split(".")[: 1 - statement.level or None]
            base = ".".join([*parts, *([base] if base else [])]) if package and parts else ""
        found = self._find(base)
        if found is None:
            return
        yield base
        for name in statement.names:
            part = f"{base}.{name}"
            if found.folders and (part in sys.modules or name not in found.names):
                yield part

    def _find(self, name: str) -> _Found | None:
        if name not in self._found:
            module = sys.modules.get(name)
            # The type is asked: a lazy module must not wake up, and what isn't a module says nothing.
            if module is not None and issubclass(type(cast("object", module)), types.ModuleType):
                self._found[name] = _loaded(name, types.ModuleType.__getattribute__(module, "__dict__"))
            else:
                self._found[name] = self._search(name)
        return self._found[name]

    def _search(self, name: str) -> _Found | None:
        """Look for a module that isn't loaded."""
        parent, _, last = name.rpartition(".")
        if not last or name in sys.builtin_module_names or (not parent and name in sys.stdlib_module_names):
            return None
        around = self._find(parent) if parent else None
        if parent and (around is None or not around.folders):
            return None
        spec = PathFinder.find_spec(name, list(around.folders) if around else None)
        if spec is None:
            return None
        folders = tuple(spec.submodule_search_locations or ())
        return _Found(
            file=spec.origin if spec.has_location else None,
            folders=folders,
            package=name if folders else parent,
            loader=spec.loader,
        )


def _loaded(name: str, names: Mapping[str, object]) -> _Found:
    file = names.get("__file__")
    package = names.get("__package__")
    try:
        folders = tuple(str(folder) for folder in cast("Iterable[object]", names.get("__path__", ())))
    except (TypeError, LookupError):
        folders = ()  # no path at all, or a namespace whose parent was unloaded
    if not isinstance(package, str):
        package = name if folders else name.rpartition(".")[0]
    return _Found(
        file=file if isinstance(file, str) else None,
        folders=folders,
        package=package,
        loader=names.get("__loader__"),
        names=names,
    )

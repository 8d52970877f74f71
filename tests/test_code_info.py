"""
What is recorded of a workflow's code, tried on small projects made for each test.

Only what the file system and `sys.modules` say decides, so the projects are real; see tests/projects.py.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import linecache
import logging
import os
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import polos
import pytest
from polos.runtime import code as code_module
from polos.runtime import sources
from polos.runtime.code import CodeInfo, describe_code

from tests.projects import made_project

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project."""
    with made_project(tmp_path, monkeypatch) as made:
        yield made


# ------------------------------------------------------------------------------------------ modules


def test_modules_reached_by_imports(project):
    """The function's module and the project's modules it imports, over any number of steps, are recorded."""
    texts = {
        "app": "import json\nimport near\ndef work(): pass\n",
        "near": "from far import value\n",
        "far": "value = 1\n",
        "unrelated": "value = 2\n",
    }
    project.write(**texts)

    info = describe_code(project.load(), name="work")

    assert ["app", "far", "near"] == list(info.modules)
    assert {name: texts[name].encode() for name in info.modules} == info.sources
    assert {name: hashlib.sha256(source).hexdigest() for name, source in info.sources.items()} == info.modules


def test_digest_follows_every_source(project):
    """The digest changes with a module far away and with nothing else."""
    project.write(app="import near\ndef work(): pass\ndef other(): pass\n", near="import far\n", far="", unrelated="")
    work = project.load()
    first = describe_code(work, name="work").digest

    assert first == describe_code(project.load(name="other"), name="other").digest
    project.write(unrelated="changed = True\n")
    assert first == describe_code(work, name="work").digest
    project.write(far="changed = True\n")
    assert first != describe_code(work, name="work").digest
    project.write(far="")
    assert first == describe_code(work, name="work").digest


def test_digest_knows_names_from_sources(project):
    """Two modules that change names, or sources that move between them, change the digest."""
    project.write(app="import one, two\ndef work(): pass\n", one="a = 1\n", two="b = 1\n")
    first = describe_code(project.load(), name="work").digest
    project.write(one="b = 1\n", two="a = 1\n")

    assert first != describe_code(project.load(), name="work").digest


def test_packages_around_modules(project):
    """Importing a part of a package records the packages around it, whose code ran as well."""
    project.write(
        app="import outer.inner.leaf\ndef work(): pass\n",
        outer__init="from . import beside\n",
        outer__beside="",
        outer__other="",
        outer__inner__init="",
        outer__inner__leaf="from .. import beside\n",
    )

    info = describe_code(project.load(), name="work")

    assert ["app", "outer", "outer.beside", "outer.inner", "outer.inner.leaf"] == list(info.modules)


def test_own_package(project):
    """A function deep in a package brings the packages around its module, and relative imports work from there."""
    project.write(
        outer__init="",
        outer__helpers="",
        outer__flows__init="from . import shared\n",
        outer__flows__shared="",
        outer__flows__orders="from ..helpers import __doc__\nfrom . import shared\ndef work(): pass\n",
    )

    info = describe_code(project.load("outer.flows.orders"), name="work")

    assert ["outer", "outer.flows", "outer.flows.orders", "outer.flows.shared", "outer.helpers"] == list(info.modules)


def test_relative_import_above_everything(project):
    """A relative import that leads out of its package names nothing."""
    project.write(
        outer__init="", outer__flow="def work():\n    from ... import x\n    from ..... import y\n", x="", y=""
    )

    assert ["outer", "outer.flow"] == list(describe_code(project.load("outer.flow"), name="work").modules)


def test_imports_inside_functions(project):
    """A module that only a function, a branch or a handler imports is found, and is not imported for it."""
    project.write(
        app="""
def work():
    import late
    try:
        match 1:
            case 1:
                import in_case
    except ValueError:
        import in_handler
    finally:
        import in_finally
    while False:
        pass
    else:
        from package import part
class Holder:
    import in_class
""",
        late="import later\n",
        later="",
        in_case="",
        in_handler="",
        in_finally="",
        in_class="",
        package__init="",
        package__part="",
    )
    work = project.load()
    loaded = set(sys.modules)

    info = describe_code(work, name="work")

    expected = "app in_case in_class in_finally in_handler late later package package.part".split()
    assert expected == list(info.modules)
    assert loaded == set(sys.modules)


def test_imported_names_that_are_no_modules(project):
    """A function imported from a package isn't taken for the module of that name that lies there, too."""
    project.write(
        app="from package import tool, other, nothing\ndef work(): pass\n",
        package__init="def tool(): pass\nnothing = 0\n",
        package__tool="",
        package__other="",
    )

    assert ["app", "package", "package.other"] == list(describe_code(project.load(), name="work").modules)


def test_namespace_packages(project):
    """Modules in folders without __init__.py are found, loaded or not."""
    project.write(
        app="import space.loaded\ndef work():\n    import space.late\n    import space.missing\n",
        space__loaded="",
        space__late="",
    )

    assert ["app", "space.late", "space.loaded"] == list(describe_code(project.load(), name="work").modules)


def test_polos_is_left_out(project):
    """No module of polos is recorded as the project's; its version is."""
    project.write(app="import polos.errors\nfrom polos import clock\ndef work(): pass\n")

    info = describe_code(project.load(), name="work")

    assert ["app"] == list(info.modules)
    assert {"polos-engine": polos.__version__} == info.packages


def test_same_in_every_process(project):
    """Digests, of sources and of bytecode with sets in it, don't depend on the seed of hashes."""
    project.write(app="import far\ndef work(): pass\n", far="")
    script = f"""
import sys; sys.path[:0] = [{str(project.folder)!r}, {str(Path(polos.__file__).parent.parent)!r}]
import app
from polos.runtime.code import describe_code
made = {{"__name__": "nowhere"}}
exec("def work(x): return x in {{'one', 'two', 'three', ('four', frozenset(()))}}", made)
print(describe_code(app.work, name="w").digest, describe_code(made["work"], name="w").digest)
"""
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert 1 == len(printed)


def test_main_stands_under_its_file(project):
    """A program's own file is recorded under its stem, and so are the packages of a module run with -m."""
    project.write(
        program="import far\ndef work(): pass\nif __name__ == '__main__':\n"
        "    from polos.runtime.code import describe_code\n    print(*describe_code(work, name='work').modules)\n",
        far="",
    )
    script = project.folder / "program.py"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(polos.__file__).parent.parent), str(project.folder)])}

    def printed(*arguments: str) -> list[str]:
        return subprocess.run(
            [sys.executable, *arguments], env=env, cwd=project.folder, capture_output=True, check=True, text=True
        ).stdout.split()

    assert ["far", "program"] == printed(str(script))
    assert ["far", "program"] == printed("-m", "program")


def test_too_many_modules(project, monkeypatch, caplog):
    """A project over the limit is recorded up to it, and the log says so once."""
    monkeypatch.setattr(code_module, "MODULES_MAX", 3)
    project.write(app="import a, b, c, d\ndef work(): pass\n", a="", b="", c="", d="")

    with caplog.at_level(logging.WARNING, "polos"):
        info = describe_code(project.load(), name="work")

    assert ["a", "app", "b"] == list(info.modules)
    assert ["app imports over 3 modules of its project; the rest isn't recorded"] == caplog.messages


# --------------------------------------------------------------------------- what can't be read


@pytest.mark.parametrize(
    "broken",
    [b"import far\ndef", b"import far\n\0", b"import far\n\xff", b"import far\nx = " + b"-" * 100_000 + b"1\n"],
    ids=["syntax", "null", "not utf-8", "too deep"],
)
def test_source_that_is_no_python(project, broken):
    """A module whose file was changed into something broken is recorded as it is, without its imports."""
    project.write(app="import near\ndef work(): pass\n", near="import far\n", far="")
    work = project.load()
    (project.folder / "near.py").write_bytes(broken)

    info = describe_code(work, name="work")

    assert ["app", "near"] == list(info.modules)
    assert broken == info.sources["near"]


def test_source_that_is_gone(project):
    """A module whose file is gone is left out; what it was imported beside stays."""
    project.write(app="import near, far\ndef work(): pass\n", near="", far="")
    work = project.load()
    (project.folder / "near.py").unlink()

    assert ["app", "far"] == list(describe_code(work, name="work").modules)


@pytest.mark.parametrize("name", ["app.py", "near.py"])
def test_source_in_whose_place_is_a_fifo(project, name):
    """A fifo by the name of a source isn't waited for, and is none."""
    project.write(app="import near\ndef work(): pass\n", near="")
    work = project.load()
    (project.folder / name).unlink()
    os.mkfifo(project.folder / name)
    linecache.clearcache()

    assert name.removesuffix(".py") not in describe_code(work, name="work").modules


def test_own_source_that_is_gone(project):
    """Without the function's own source its bytecode is digested, and the names it uses lead to modules."""
    text = "import far\nfrom near import helper\ndef work(): return far, helper, no_such\ndef other(): return far\n"
    project.write(app=text, near="def helper(): pass\n", far="")
    work, other = project.load(), project.load(name="other")
    (project.folder / "app.py").unlink()
    linecache.clearcache()

    info = describe_code(work, name="work")

    assert ["far", "near"] == list(info.modules)
    assert info.digest == describe_code(work, name="work").digest
    assert info.digest != describe_code(work, name="another").digest
    assert info.digest != describe_code(other, name="work").digest


def test_file_names_that_no_file_can_have(project):
    """A module that says it lies in an impossible file is left out."""
    project.write(app="import odd\ndef work(): pass\n", odd="")
    work = project.load()
    sys.modules["odd"].__file__ = "nul\0.py"

    assert ["app"] == list(describe_code(work, name="work").modules)


def test_compiled_modules(project):
    """Bytecode and compiled extensions are no sources."""
    project.write(app="import bytecode, extension\ndef work(): pass\n", bytecode="", extension="")
    work = project.load()
    for name, suffix in (("bytecode", ".pyc"), ("extension", ".so")):
        file = project.folder / (name + suffix)
        file.write_bytes(b"\0")
        sys.modules[name].__file__ = str(file)

    assert ["app"] == list(describe_code(work, name="work").modules)


def test_odd_entries_among_loaded_modules(project):
    """What isn't a module is looked for like one that isn't loaded, and a path that is none leads nowhere."""
    project.write(app="import odd, strange\ndef work(): pass\n", odd="", strange="")
    work = project.load()

    class Nosy:
        def __getattr__(self, name):
            raise RuntimeError(name)

    loaded: dict[str, Any] = sys.modules
    loaded["odd"] = Nosy()
    loaded["strange"].__path__ = 5
    loaded["strange"].__package__ = None

    info = describe_code(work, name="work")

    assert ["app", "odd", "strange"] == list(info.modules)


def test_namespace_without_its_parent(project):
    """A namespace package whose parent was unloaded can't say where its parts are; they are left out."""
    project.write(app="import lost.inner.leaf\ndef work(): pass\n", lost__inner__leaf="import far\n", far="")
    work = project.load()
    inner = sys.modules["lost.inner"]
    del sys.modules["lost"]

    with pytest.raises(KeyError):
        list(inner.__path__)
    assert ["app", "far", "lost.inner.leaf"] == list(describe_code(work, name="work").modules)


def test_lazy_modules_stay_asleep(project):
    """A module that loads itself when it is first used isn't loaded by describing it."""
    project.write(app="def work(): import sleeper\n", sleeper="raise RuntimeError('awake')\n")
    spec = importlib.util.find_spec("sleeper")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = loader = importlib.util.LazyLoader(spec.loader)
    sys.modules["sleeper"] = module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)

    assert ["app", "sleeper"] == list(describe_code(project.load(), name="work").modules)


def test_warnings_of_sources_are_silent(project):
    """A source with an invalid escape is read without a warning, which might be an error, and with its imports."""
    project.write(near="import far\n", far="")
    project.write(app="import near\ndef work(): return '\\d'\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work = project.load()

    assert ["app", "far", "near"] == list(describe_code(work, name="work").modules)


def test_long_sources_are_not_parsed(project, monkeypatch):
    """A source over the limit is recorded without its imports."""
    project.write(app="import near\ndef work(): pass\n", near=f"import far\n# {'x' * 100}\n", far="")
    monkeypatch.setattr(sources, "PARSED_BYTES_MAX", 100)

    assert ["app", "near"] == list(describe_code(project.load(), name="work").modules)


# ------------------------------------------------------------------- functions from other places


def test_function_without_a_file():
    """A function made by `exec` is digested by what it does, not by its file or line."""

    def made(text: str, filename: str = "<string>") -> CodeInfo:
        names: dict[str, Any] = {"__name__": "nowhere"}
        exec(compile(text, filename, "exec"), names)
        return describe_code(names["work"], name="work")

    info = made("def work(x):\n    return [y + 1 for y in x]\n")

    assert ({}, {}, None) == (info.modules, info.sources, info.git_commit)
    assert info.digest == made("\n\ndef work(x):\n    return [y + 1 for y in x]\n", "<other>").digest
    assert info.digest != made("def work(x):\n    return [y + 2 for y in x]\n").digest
    assert info.digest != made("def work(x):\n    return [y.a for y in x]\n").digest


def test_function_made_inside_a_module(project):
    """A function made by `exec` in the name of a module counts itself and that module."""
    project.write(app="import far\ndef make(text):\n    exec(text, globals())\n    return work\n", far="")
    make = project.load(name="make")

    one, two = (describe_code(make(f"def work(): return {value}\n"), name="work") for value in (1, 2))

    assert ["app", "far"] == list(one.modules)
    assert one.modules == two.modules
    assert one.digest != two.digest


def test_function_typed_into_a_notebook(project, monkeypatch):
    """The cell that a function was typed into is its source, and the imports in it count."""
    project.write(far="")
    text = "import far\ndef work(): pass\n"
    filename = str(project.folder / "cell 1 of a notebook")
    monkeypatch.setitem(linecache.cache, filename, (len(text), None, text.splitlines(keepends=True), filename))
    module = types.ModuleType("cells")
    monkeypatch.setitem(sys.modules, "cells", module)
    exec(compile(text, filename, "exec"), module.__dict__)

    info = describe_code(module.work, name="work")

    assert {"cells": text.encode(), "far": b""} == info.sources


def test_wrapped_functions(project):
    """Partials, decorators, bound methods and callable objects lead to the function inside."""
    project.write(
        helpers="import functools\ndef quiet(f):\n    @functools.wraps(f)\n    def inner(*a): return f(*a)\n"
        "    inner.__module__ = 'helpers'\n    return inner\n",
        app="class Flow:\n    def method(self): pass\n    def __call__(self): pass\ndef work(): pass\n",
    )
    work, flow, quiet = project.load(), project.load(name="Flow"), project.load("helpers", "quiet")
    around = [functools.partial(functools.partial(work)), quiet(quiet(work)), flow().method, flow(), flow, work]

    assert [["app"]] * len(around) == [list(describe_code(f, name="work").modules) for f in around]


def test_objects_that_are_no_functions():
    """Whatever is handed in is described, if only by its name."""

    def endless():
        pass

    endless.__dict__["__wrapped__"] = endless
    odd: list[Any] = [len, functools.partial(len), endless, 5, None]

    assert [64] * len(odd) == [len(describe_code(thing, name="odd").digest) for thing in odd]
    assert describe_code(odd[3], name="one").digest != describe_code(odd[3], name="two").digest


def test_function_of_a_zip_archive(tmp_path, project):
    """Modules in a zip archive are read from it."""
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("zipped/__init__.py", "")
        out.writestr("zipped/flow.py", "from . import near\ndef work(): pass\n")
        out.writestr("zipped/near.py", "def late():\n    from . import far\n")
        out.writestr("zipped/far.py", "")
    sys.path.insert(0, str(archive))
    try:
        info = describe_code(project.load("zipped.flow"), name="work")
    finally:
        sys.path.remove(str(archive))

    assert ["zipped", "zipped.far", "zipped.flow", "zipped.near"] == list(info.modules)
    assert b"from . import near\ndef work(): pass\n" == info.sources["zipped.flow"]


# ---------------------------------------------------------------------------------------- caching


def test_unchanged_files_are_parsed_once(project, monkeypatch):
    """A second look parses only what changed."""
    project.write(app="import near\ndef work(): pass\n", near="")
    work = project.load()
    describe_code(work, name="work")
    parsed, parse = [], sources.parse

    def counting(data: bytes) -> sources.Source:
        parsed.append(data)
        return parse(data)

    monkeypatch.setattr(sources, "parse", counting)

    describe_code(work, name="work")
    assert [] == parsed
    project.write(near="changed = 1\n")
    assert b"changed = 1\n" == describe_code(work, name="work").sources["near"]
    assert [b"changed = 1\n"] == parsed


# ------------------------------------------------------------------------------------- git commit


def test_commit_around_the_module(project):
    """The commit that is checked out around the function's module is recorded."""
    git = project.folder / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    project.write(package__init="", package__app="def work(): pass\n")

    assert COMMIT == describe_code(project.load("package.app"), name="work").git_commit

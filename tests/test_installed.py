"""What belongs to the interpreter, to which package, and to the project."""

from __future__ import annotations

import linecache
import os
import sys

import orjson
import pytest
from polos.runtime.code import describe_code
from polos.runtime.installed import is_installed, package_of

from tests.projects import install, made_project, made_site


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project."""
    with made_project(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty directory of installed packages."""
    return made_site(tmp_path, monkeypatch)


def test_versions_of_packages(project):
    """What modules import from installed packages is recorded with the version, and the interpreter's with it."""
    project.write(app="import orjson, os\ndef work():\n    import pydantic.fields\n")

    info = describe_code(project.load(), name="work")

    assert {"orjson", "pydantic"} == set(info.packages)
    assert orjson.__version__ == info.packages["orjson"]
    assert sys.version.split()[0] == info.python


def test_packages_named_otherwise(project, site):
    """A package is known by its list of files, whatever its modules are called, namespaces shared by many included."""
    install(site, "PyShape", "1.2", "shape/__init__.py")
    install(site, "shape", "6.0", "contour/__init__.py")
    install(site, "cloud-one", "1.0", "cloud/one/__init__.py")
    install(site, "cloud-two", "2.0", "cloud/two.py")
    install(site, "unused", "9.9", "unused.py")
    project.write(app="import shape, cloud.two\nfrom cloud import one\ndef work(): pass\n")

    info = describe_code(project.load(), name="work")

    assert {"PyShape": "1.2", "cloud-one": "1.0", "cloud-two": "2.0"} == info.packages
    assert ["app"] == list(info.modules)


def test_packages_without_a_list(site):
    """A package that lists no files is known by its name; a file that nobody lists belongs to none."""
    install(site, "Old-Style", "0.1", "old_style/__init__.py", record=False)
    (site / "stray.py").write_text("")

    assert ("Old-Style", "0.1") == package_of(str(site / "old_style" / "__init__.py"))
    assert None is package_of(str(site / "stray.py"))
    assert None is package_of(str(site.parent / "outside.py"))


def test_damaged_packages(site):
    """A package whose description can't be read says nothing and keeps nobody else from being found."""
    install(site, "damaged", "1.0", "damaged.py")
    install(site, "whole", "2.0", "whole.py", "damaged_too.py")
    (site / "damaged-1.0.dist-info" / "METADATA").write_bytes(b"Name: \xff\xfe")

    description = site / "circle-1.0.dist-info" / "METADATA"
    install(site, "circle", "1.0", "circle.py")
    description.unlink()
    description.symlink_to(description)

    assert None is package_of(str(site / "damaged.py"))
    assert None is package_of(str(site / "circle.py"))
    assert ("whole", "2.0") == package_of(str(site / "damaged_too.py"))


def test_program_installed_as_a_package(project, site):
    """A program that was installed is a project still: modules of its own top-level package count."""
    install(site, "shop", "1.0", "shop/__init__.py", "shop/flows.py", "shop/cards.py")
    install(site, "other", "1.0", "other.py")
    (site / "shop/flows.py").write_text("import other\nfrom shop import cards\ndef work(): pass\n")

    info = describe_code(project.load("shop.flows"), name="work")

    assert ["shop", "shop.cards", "shop.flows"] == list(info.modules)
    assert {"other": "1.0"} == info.packages


def test_what_is_installed(project):
    """The standard library and packages are installed; this test and a project aren't."""
    installed = [os.__file__, linecache.__file__, orjson.__file__, pytest.__file__]

    assert [True] * 4 == [is_installed(file) for file in installed]
    assert [False] * 2 == [is_installed(file) for file in (__file__, str(project.folder / "app.py"))]

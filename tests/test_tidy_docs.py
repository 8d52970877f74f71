"""
The documents check themselves: what can be found, what is listed, what a word means.

The README's list of pages and the index of docs/ are the same, links lead somewhere, the glossary has each word of
the design once and in order, and fragments of the changelog have the form that the next version needs.
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import fields
from typing import Literal, get_origin

import polos
import pytest
from polos.children import INITIAL_STATE_BYTES_MAX
from polos.engine.decide import SIGNALS_KEPT_MAX
from polos.runtime.performer import TRACEBACK_CHARACTERS_MAX
from polos.runtime.reads import LIMIT_MAX
from polos.runtime.settings import Settings
from polos.store.inbox_dir import COMMAND_BYTES_MAX
from polos.value_checks import DEPTH_MAX

from tests import tidy
from tests.tidy import ROOT

KINDS = ("security", "removed", "deprecated", "added", "changed", "fixed")

WORDS = """
    activation attempt blob cause debt divergence epoch eviction execution fact group inbox message owner position
    projection record replay resume row run signal step stream suspend timer topic unit version wait workflow
""".split()

# Words that mean something else elsewhere, or that we have another word for; as parts of names in polos/.
REJECTED = {"journal": "history or log", "checkpoint": "record or snapshot", "leader": "owner"}


def read(name: str) -> str:
    """Give the text of a file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def links(text: str) -> list[str]:
    """Give the targets of the Markdown links of a text that lead to files, code aside."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [target for target in targets if target and ":" not in target]


def test_readme_lists_the_pages_of_the_index():
    """The README's documentation section and docs/index.md list the same pages with the same words, in one order."""
    section = read("README.md").split("## Documentation\n")[1].split("\n##")[0]
    entry = re.compile(r"^- \[.*$", flags=re.MULTILINE)

    in_readme = [line.replace("](docs/", "](") for line in entry.findall(section)]

    assert entry.findall(read("docs/index.md")) == in_readme
    assert in_readme


def test_every_page_is_in_the_index():
    """A page that the index doesn't lead to is a page that nobody finds; design notes have an index of their own."""
    pages = {
        str(path.relative_to("docs")) for path in tidy.tracked() if path.parts[0] == "docs" and path.suffix == ".md"
    }
    pages = {page for page in pages if not page.startswith("design/")} - {"index.md"}

    assert pages == {link for link in links(read("docs/index.md")) if not link.startswith("..")}


def test_links_lead_somewhere():
    """Every link from one file of the project to another has a file at its end."""
    dead = [
        f"{path} -> {link}"
        for path, text in tidy.text_files()
        if path.suffix == ".md"
        for link in links(text)
        if not (ROOT / path.parent / link).exists()
    ]

    assert [] == dead


def test_glossary_has_each_word_once_in_order():
    """The glossary is sorted, defines each entry, and has every word that the design stands on."""
    terms = re.findall(r"^(\w[\w ]*)\n: \S", read("docs/glossary.md"), flags=re.MULTILINE)

    assert sorted(set(terms)) == terms
    assert set() == set(WORDS) - set(terms)


def test_glossary_explains_its_own_words():
    """A word in italics in the glossary has an entry, in the singular or the plural."""
    text = read("docs/glossary.md").split("\n\n", maxsplit=2)[2]
    terms = set(re.findall(r"^(\w[\w ]*)\n: \S", text, flags=re.MULTILINE))
    used = {word.lower() for word in re.findall(r"\*(\w+)\*", text)}

    assert set() == {word for word in used if word not in terms and word.removesuffix("s") not in terms}


@pytest.mark.parametrize("word", REJECTED)
def test_rejected_words_name_nothing(word):
    """No class, function or module of polos is named by a word that the glossary has another one for."""
    names = {path.stem for path in tidy.python_files("polos")}
    for path in tidy.python_files("polos"):
        names |= tidy.module(path).names

    assert [] == [name for name in sorted(names) if word in name.lower()], f"say {REJECTED[word]}"


def test_changelog_fragments():
    """Each fragment is named by its issue and kind, and holds a sentence for users."""
    fragments = [path for path in tidy.tracked() if path.parts[0] == "changes" and path.name != "README.md"]
    named = re.compile(rf"\d+(-[a-z0-9-]+)?\.({'|'.join(KINDS)})\.md")

    assert [] == [str(path) for path in fragments if not named.fullmatch(path.name)]
    assert [] == [str(path) for path in fragments if not re.search(r"\w.*\.\s*\Z", read(str(path)), flags=re.DOTALL)]


def test_public_names_are_shown():
    """Each public name has a docstring with an example that runs, or one that says where there is one."""
    silent: list[str] = []
    for name in polos.__all__:
        public = getattr(polos, name)
        if name == "__version__" or inspect.ismodule(public) or get_origin(public) is Literal:
            continue  # what has no docstring
        docstring = inspect.getdoc(public) or ""
        pointed = re.search(r"stands at `(\w+)`", docstring)
        shown = inspect.getdoc(getattr(polos, pointed[1])) if pointed else docstring
        if "```python run" not in (shown or ""):
            silent.append(name)

    assert [] == silent


@pytest.mark.parametrize(
    "module", ["polos.features.queues", "polos.features.schedules", "polos.features.triggers", "polos.testing"]
)
def test_names_of_modules_are_shown(module: str):
    """Of the modules that programs use, each function, and each class of the kit, has an example, or says which has."""
    home = importlib.import_module(module)
    silent: list[str] = []
    for name in home.__all__:
        public = getattr(home, name)
        if inspect.isclass(public) and module != "polos.testing":
            continue  # what the functions give
        docstring = inspect.getdoc(public) or ""
        pointed = re.search(r"example stands at `(\w+)`", docstring)
        shown = (inspect.getdoc(getattr(home, pointed[1])) or "") if pointed else docstring
        if "```python run" not in shown and ">>> " not in shown:
            silent.append(name)

    assert [] == silent


def test_settings_are_documented():
    """Each setting of an engine stands on its page with its default, and each variable that polos reads."""
    page = read("docs/settings.md")
    settings = dict(re.findall(r"^\| `([a-z_]+)` \| `([^`]+)` \|", page, flags=re.MULTILINE))
    source = "".join(read(str(path)) for path in tidy.python_files("polos"))
    variables = set(re.findall(r"\bPOLOS_[A-Z_]+[A-Z]\b", source))

    assert {spec.name: repr(spec.default).replace("'", '"') for spec in fields(Settings)} == settings
    assert variables == set(re.findall(r"`(POLOS_\w+)`", page))


@pytest.mark.parametrize(
    ("shown", "limit"),
    [
        ("for them | 100 |", SIGNALS_KEPT_MAX),
        ("as JSON", INITIAL_STATE_BYTES_MAX >> 20),
        ("| 64 MiB |", COMMAND_BYTES_MAX >> 20),
        ("| 128 |", DEPTH_MAX),
        ("| 10,000 |", LIMIT_MAX),
        ("| 20,000 characters |", TRACEBACK_CHARACTERS_MAX),
    ],
)
def test_limits_are_documented(shown, limit):
    """The limits on the page are those of the code."""
    (line,) = [line for line in read("docs/settings.md").splitlines() if shown in line]

    assert str(limit) in line.replace(",", "")

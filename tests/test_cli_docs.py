"""The page on the command line has every command, every option, every reason and every exit code, and no others."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import polos.reasons
from polos.cli.app import app
from polos.cli.options import Runs
from polos.cli.outcomes import Exit

from tests.tidy import ROOT

PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
GROUPS = r"(?:(?:test|schedules|queues) )?\w+"
SECTIONS = dict(re.findall(rf"^### `polos ({GROUPS})[^\n]*\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
HEADS = dict(re.findall(rf"^### `polos ({GROUPS})([^`\n]*)`", PAGE, flags=re.MULTILINE))
FILTERS = {spec.name for spec in fields(Runs)}


def commands() -> dict[str, inspect.Signature]:
    """Give the commands with what they take, the options that all of them take left out."""
    found: dict[str, inspect.Signature] = {}
    named = [(name, app[name]) for name in app if not name.startswith("-")]
    for name, command in named:
        function: Any = command.default_command
        if function is None:  # a group
            named += [(f"{name} {inner}", command[inner]) for inner in command if not inner.startswith("-")]
            continue
        signature = inspect.signature(function)
        kept = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]
        found[name] = signature.replace(parameters=kept)
    return found


def test_every_command_has_its_section():
    """Each command has a section of its own, and each section a command."""
    assert set(commands()) == set(SECTIONS)


def test_every_option_is_explained():
    """Each command's section names each of its options and no other, and its heading each argument."""
    for name, signature in commands().items():
        options = {
            "--" + parameter.name.replace("_", "-")
            for parameter in signature.parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "runs"
        }
        if "runs" in signature.parameters:
            assert name in ("ls", "cancel", "retry")
            if name == "ls":
                options |= {f"--{option}" for option in FILTERS}
            else:  # which say where they are explained
                assert "[the filters of `ls`](#polos-ls)" in SECTIONS[name]
        arguments = [
            parameter for parameter in signature.parameters.values() if parameter.kind is parameter.POSITIONAL_ONLY
        ]

        assert (name, options) == (name, set(re.findall(r"--[a-z][a-z-]*", SECTIONS[name])))
        assert (name, len(arguments)) == (name, len(HEADS[name].split()))


def test_every_exit_code_is_explained():
    """The table of exit codes is the enumeration."""
    table = PAGE.split("## Exit codes")[1]

    assert {int(code) for code in Exit} == {
        int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)
    }


def test_every_kind_of_reason_is_explained():
    """The table of reasons has each kind that `why` can give."""
    documented = {
        kind
        for cell in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", SECTIONS["why"], flags=re.MULTILINE)
        for kind in re.findall(r"`(\w+)`", cell)
    }
    source = Path(str(polos.reasons.__file__)).read_text(encoding="utf-8")
    given = set(re.findall(r'kind="(\w+)"', source)) | {"suspend", "signal", "topic"}
    given |= {"diverged", "no_code", "pinned", "poisoned", "internal_error"}

    assert given == documented

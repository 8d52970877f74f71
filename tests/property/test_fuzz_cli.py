"""
The command line, given anything: an exit code that means something, and words or JSON instead of a traceback.

Only what looks is tried at random; what acts goes through the inbox, whose commands have tests of their own. The
directory is the golden one, whole or with a file of it replaced by nonsense.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polos.cli import run
from polos.cli.options import parse_value
from polos.cli.outcomes import BadCommandLine, Exit
from polos.store.ownership import LOCK_FILE

from tests.campaign import scaled
from tests.golden.store import ARCHIVES, extract

CODES = {Exit.OK, Exit.REFUSED, Exit.USAGE, Exit.DAMAGED}
WORDS = st.one_of(
    st.sampled_from(
        ["01a2", "golden_order", "suspend", "1h", "-1h", "2026-01-01", "9" * 30, "0", "-1", "", "--json", "--"]
    ),
    st.text(st.characters(exclude_characters="\x00"), max_size=8),
)
OPTIONS = [
    "--status",
    "--workflow",
    "--parent",
    "--tag",
    "--since",
    "--until",
    "--limit",
    "--cursor",
    "--full",
    "--json",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data directory whose owner said that all is well, so that looking needs no check."""
    found = extract(ARCHIVES[-1], tmp_path_factory.mktemp("golden"))
    lock = found / LOCK_FILE
    lock.write_bytes(lock.read_bytes().replace(b'"clean": false', b'"clean": true '))
    return found


def say(*arguments: str) -> tuple[int, str, str]:
    """Carry a command line out; gives its code, and what it printed on both ways."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = run(arguments)
    return code, out.getvalue(), errors.getvalue()


def check(arguments: list[str]) -> int:
    """Check how a command line ends; gives its code."""
    code, out, errors = say(*arguments)

    assert code in CODES, (arguments, errors)
    assert "Traceback" not in out + errors
    assert out or errors or code == Exit.OK, arguments
    if "--json" in arguments and "--help" not in arguments:
        for line in [*out.splitlines(), *errors.splitlines()]:
            assert isinstance(orjson.loads(line), dict), line
    return code


@settings(max_examples=scaled(70, 20_000))
@given(
    st.sampled_from(["ls", "show", "why", "running"]),
    st.lists(st.one_of(WORDS, st.sampled_from(OPTIONS)), max_size=5),
)
@example("ls", ["--cursor", "9" * 5000])
@example("ls", ["--since", "99999999999999d"])
@example("ls", ["--limit", "9" * 5000])
@example("show", ["\udcff", "--json"])
def test_command_line_of_anything(directory: Path, command: str, words: list[str]) -> None:
    """Whatever is typed, there is an answer, or a refusal that says why; with `--json` both are JSON."""
    check([command, "--data-dir", str(directory), *words])


@pytest.mark.parametrize("content", [b"", b"[" * 4000], ids=["nothing", "brackets"])
@pytest.mark.parametrize("name", ["format", LOCK_FILE, "log/data.mdb", "on_loop", "inbox/nonsense", "blobs/zz"])
@pytest.mark.parametrize("command", ["show", "verify"])
def test_command_line_on_nonsense(tmp_path: Path, name: str, content: bytes, command: str) -> None:
    """A directory one of whose files holds nonsense is shown as far as it is whole, or refused with what is wrong."""
    directory = extract(ARCHIVES[-1], tmp_path)
    (directory / name).write_bytes(content)
    words = ["01a2"] if command == "show" else []
    code = check([command, *words, "--data-dir", str(directory), "--json"])

    if name == "log/data.mdb":
        assert code == Exit.DAMAGED
    if name == "format":
        assert code == Exit.REFUSED


@given(st.text(max_size=30))
@example("1e999")
@example("[" * 5000)
@example('"\\ud800"')
@example("\ud800")
def test_value_of_any_text(text: str) -> None:
    """A value of the command line is JSON that can be recorded, or the text as it is, or a mistake."""
    try:
        value = parse_value(text)
    except BadCommandLine:
        value = None

    assert value == orjson.loads(orjson.dumps(value))

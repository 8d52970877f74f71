"""How a command ends: exit codes, what errors say, and what a value on the command line means."""

from __future__ import annotations

import orjson
import pytest
from polos.cli.options import parse_value
from polos.cli.outcomes import BadCommandLine, outcome
from polos.errors import (
    BlobMissing,
    ClientTimeout,
    CommandRefused,
    EngineNotRunning,
    PolosError,
    PolosInternalError,
    RecordingDiffers,
    StoreDamaged,
    StoreFull,
    UnknownRun,
)


@pytest.mark.parametrize(
    ("error", "code", "following"),
    [
        (UnknownRun("no"), 1, "polos ls"),
        (CommandRefused("no"), 1, "polos why RUN"),
        (BadCommandLine("no", "polos ls --help"), 2, "polos ls --help"),
        (StoreDamaged("no"), 3, "polos verify"),
        (BlobMissing("no"), 3, "polos verify"),
        (EngineNotRunning("no"), 1, "polos running"),
        (ClientTimeout("no"), 4, "polos running"),
        (StoreFull("no"), 5, "polos --help"),
        (PolosInternalError("no"), 70, "polos verify"),
    ],
)
def test_exit_codes_of_errors(capsys, error, code, following):
    """Each error has its exit code for good, and ends with the command that helps next."""

    def fail() -> int:
        raise error

    assert code == outcome(fail)
    assert f"polos: no\nnext: {following}\n" == capsys.readouterr().err
    assert code == outcome(fail, as_json=True)
    said = orjson.loads(capsys.readouterr().err)
    assert {"error": type(error).__name__, "message": "no", "exit_code": code, "next": following} == said


def test_every_public_error_has_an_exit_code():
    """No error of polos leaves the command line as a traceback."""
    import polos.errors

    def code_of(kind: type[PolosError]) -> int:
        def fail() -> int:
            raise kind(index=0) if issubclass(kind, RecordingDiffers) else kind

        return outcome(fail)

    kinds = [getattr(polos.errors, name) for name in polos.errors.__all__]
    codes = {code_of(kind) for kind in kinds if issubclass(kind, PolosError)}

    assert {1, 3, 4, 5, 70} == codes


def test_an_interruption_ends_quietly(capsys):
    """Ctrl-C ends a command with 130 and no words."""

    def interrupted() -> int:
        raise KeyboardInterrupt

    assert (130, "") == (outcome(interrupted), capsys.readouterr().err)


def test_other_errors_are_not_hidden():
    """A bug of ours keeps its traceback."""

    def broken() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outcome(broken)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None), ("", ""), ("5", 5), ("-5", -5), ('{"a": [1]}', {"a": [1]}), ("null", None), ("true", True),
        ('"5"', "5"), ("plain text", "plain text"), ("NaN", "NaN"), ("{broken", "{broken"),
    ],
)  # fmt: skip
def test_values(text, value):
    """A value is JSON if it can be, else the text."""
    found = parse_value(text)

    assert (type(value), value) == (type(found), found)

"""
E7: what is decoded is what was encoded.

Events are drawn by the annotations of their fields, so an event that is added is tried without a word here. Of older
schema versions there are none yet; that decoding goes through every upcaster in between is shown on one made up.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polos.engine import events as e
from polos.engine.codec import SCHEMA_VERSIONS, UPCASTERS, decode, encode
from polos.errors import StoreDamaged

# What JSON has, and what orjson writes of it: whole numbers of 64 bits, finite floats, texts that have UTF-8.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
WHOLE = st.integers(-(1 << 63), (1 << 63) - 1)
SCALARS = st.one_of(st.none(), st.booleans(), WHOLE, st.floats(allow_nan=False, allow_infinity=False), TEXT)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)


PLAIN = {"int": WHOLE, "str": TEXT, "bool": st.booleans(), "Json": JSON, "None": st.none()}


def values(hint: str) -> st.SearchStrategy[Any]:
    """Give a strategy for the values of a field, by its annotation as it is written."""
    if " | " in hint:
        return st.one_of(*map(values, hint.split(" | ")))
    if hint.startswith("tuple["):
        return st.lists(values(hint.removeprefix("tuple[").removesuffix(", ...]")), max_size=3).map(tuple)
    return events(e.Failure) if hint == "Failure" else PLAIN[hint]


def events(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Give a strategy for the events of a class."""
    return st.builds(cls, **{spec.name: values(str(spec.type)) for spec in fields(cls)})


@pytest.mark.parametrize("name", sorted(e.EVENTS))
def test_e7_every_event_comes_back(name: str) -> None:
    """E7: each event comes back equal from its bytes, every field of its own type, and says what it is."""

    @given(events(e.EVENTS[name]))
    def comes_back(event: e.Event) -> None:
        written, version, payload = encode(event)
        found = decode(written, version, payload)

        assert (name, SCHEMA_VERSIONS[name]) == (written, version)
        assert event == found
        assert encode(event) == encode(found)  # `==` alone takes True for 1

    comes_back()


def test_e7_old_bytes_go_through_every_upcaster(monkeypatch: pytest.MonkeyPatch) -> None:
    """E7: bytes of an older schema version become today's event, one version after another."""
    monkeypatch.setitem(SCHEMA_VERSIONS, "TimerFired", 3)
    monkeypatch.setitem(UPCASTERS, ("TimerFired", 1), lambda found: {"title": found["nom"]})
    monkeypatch.setitem(UPCASTERS, ("TimerFired", 2), lambda found: {"name": found["title"].lower()})

    assert e.TimerFired(name="pause") == decode("TimerFired", 1, b'{"nom": "PAUSE"}')
    assert e.TimerFired(name="pause") == decode("TimerFired", 2, b'{"title": "PAUSE"}')
    assert ("TimerFired", 3, b'{"name":"pause"}') == encode(e.TimerFired(name="pause"))


@pytest.mark.parametrize("name", sorted(e.EVENTS))
def test_e7_every_version_has_its_upcasters(name: str) -> None:
    """E7: for each schema version before today's there is a way to the next one."""
    assert [] == [number for number in range(1, SCHEMA_VERSIONS[name]) if (name, number) not in UPCASTERS]


@pytest.mark.parametrize(
    ("name", "version", "payload", "says"),
    [
        ("StepForgotten", 1, b"{}", "written by a newer polos"),
        ("TimerFired", 2, b'{"name": "a"}', "knows up to 1"),
        ("TimerFired", 0, b'{"name": "a"}', "knows up to 1"),
        ("TimerFired", 1, b"{", "isn't one"),
        ("TimerFired", 1, b"[]", "isn't one"),
        ("TimerFired", 1, b'{"name": "a", "more": 1}', "isn't one"),
        ("StepFailed", 1, b'{"name": "a", "attempt": 1, "error": 5}', "isn't one"),
    ],
)
def test_bytes_that_are_no_event_are_damage(name: str, version: int, payload: bytes, says: str) -> None:
    """An unknown type, a version of the future, and bytes that don't fit are told as damage, never as an event."""
    with pytest.raises(StoreDamaged, match=says):
        decode(name, version, payload)


def test_what_is_no_json_is_refused() -> None:
    """A field that holds what JSON can't is our mistake, and nothing is written of it."""
    with pytest.raises(TypeError, match="isn't JSON"):
        encode(e.RunCompleted(cause=1, result=object()))  # type: ignore[arg-type]  # that is the mistake


def test_defaults_are_left_out() -> None:
    """A field with its default takes no bytes; one that only equals it is written."""
    assert {"cause": 1} == orjson.loads(encode(e.RunCompleted(cause=1))[2])
    assert {"cause": 1, "result": False} == orjson.loads(encode(e.RunCompleted(cause=1, result=False))[2])

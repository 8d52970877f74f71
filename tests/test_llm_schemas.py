"""Tests of strict schemas: narrowed where that is possible, refused where it isn't."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from polos.llm.schemas import is_strict, schema_instruction, strict_schema
from pydantic import BaseModel, Field


class Colour(Enum):
    """Colours."""

    RED = "red"


class Inner(BaseModel):
    """A part."""

    name: str = Field(min_length=2, description="its name")
    weight: float = Field(default=1.0, ge=0)


class Outer(BaseModel):
    """The whole."""

    inner: Inner = Field(description="beside a reference")
    many: list[Inner] = []
    either: int | str | None = None
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED


def having(inner: dict[str, Any]) -> dict[str, Any]:
    """Make the schema of an object that has this part."""
    return {"type": "object", "properties": {"a": inner}, "required": ["a"]}


def test_a_model_of_pydantic_becomes_strict():
    """Each object requires all it has and nothing else; words that limit nothing are gone; references stand alone."""
    inner = {
        "title": "Inner",
        "description": "A part.",
        "type": "object",
        "properties": {
            "name": {"title": "Name", "type": "string", "description": "its name"},
            "weight": {"title": "Weight", "type": "number", "minimum": 0},
        },
        "required": ["name", "weight"],
        "additionalProperties": False,
    }

    assert {
        "title": "Outer",
        "description": "The whole.",
        "type": "object",
        "properties": {
            "inner": {"$ref": "#/$defs/Inner"},
            "many": {"title": "Many", "type": "array", "items": {"$ref": "#/$defs/Inner"}},
            "either": {"title": "Either", "anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
            "kind": {"title": "Kind", "type": "string", "enum": ["a", "b"]},
            "colour": {"$ref": "#/$defs/Colour"},
        },
        "required": ["inner", "many", "either", "kind", "colour"],
        "additionalProperties": False,
        "$defs": {
            "Inner": inner,
            "Colour": {"title": "Colour", "description": "Colours.", "type": "string", "enum": ["red"]},
        },
    } == strict_schema(Outer.model_json_schema())


def test_limits_can_be_left_out():
    """A provider that knows no limits gets none."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "pattern": "x"}}}

    assert {"n": {"type": "integer"}} == (strict_schema(schema, limits=False) or {})["properties"]


@pytest.mark.parametrize(
    "inner",
    [
        {},
        True,
        {"type": "object"},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {}, "patternProperties": {}},
        {"type": "array"},
        {"type": "array", "items": {}},
        {"type": "array", "prefixItems": []},
        {"allOf": [{"type": "string"}, {"type": "string"}]},
        {"not": {"type": "string"}},
        {"description": "anything"},
        {"anyOf": [{"type": "string"}, {}]},
    ],
)
def test_what_has_no_strict_form(inner):
    """Free keys, anything at all, and words that only a whole validator knows, have no strict form."""
    assert strict_schema({"type": "object", "properties": {"x": inner}}) is None
    assert not is_strict({"type": "object", "properties": {"x": inner}, "required": ["x"]})


@pytest.mark.parametrize(
    "schema", [{"type": "string"}, {"anyOf": []}, {}, {"type": "array", "items": {"type": "string"}}]
)
def test_an_answer_is_an_object(schema):
    """What isn't an object can't be an answer that a provider is held to."""
    assert strict_schema(schema) is None


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ({"oneOf": [{"type": "string"}]}, {"anyOf": [{"type": "string"}]}),
        ({"allOf": [{"$ref": "#/$defs/X"}], "description": "d"}, {"$ref": "#/$defs/X", "description": "d"}),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"type": "string", "format": "uri"}, {"type": "string"}),
        ({"enum": [1, 2]}, {"enum": [1, 2]}),
    ],
)
def test_words_that_have_another_form(inner: dict[str, Any], expected: dict[str, Any]):
    """Words with a strict form take it."""
    assert expected == (strict_schema({"type": "object", "properties": {"x": inner}}) or {})["properties"]["x"]


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}}, True),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, True),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, False),
        (Inner.model_json_schema(), False),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "array", "items": Inner.model_json_schema()}},
                "required": ["a"],
            },
            False,
        ),
        (
            {
                "type": "object",
                "properties": {},
                "$defs": {"X": {"type": "object", "properties": {"a": {"type": "null"}}}},
            },
            False,
        ),
    ],
)
def test_what_is_strict_already(schema, strict):
    """A tool is held to its schema unasked only if that takes no freedom from the model, at any depth."""
    assert strict == is_strict(schema)


def test_the_same_words_each_time():
    """A schema is said in the same words however its keys are ordered, so that a request keeps its digest."""
    assert schema_instruction({"a": 1, "b": 2}) == schema_instruction({"b": 2, "a": 1})

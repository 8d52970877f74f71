"""
JSON schemas, as strictly as providers can hold a model to them.

A provider that promises to keep to a schema does so for a part of JSON Schema: every object lists all its properties,
requires each of them and allows no other. `strict_schema` brings a schema there by **narrowing**, so that whatever
fits the strict one fits the given one: a property that may be left out is always written. What the part has no word
for and only limits values (`minLength`, a default) is left out; the reply is checked against the given schema anyway.
Where narrowing isn't possible, as for objects with free keys, there is no strict form, and the caller sends the
schema as a wish.
"""

from __future__ import annotations

import json
from typing import Any, Final

from polos.llm.jsonish import a_list, an_object

__all__ = ["is_strict", "schema_instruction", "strict_schema"]

_KEPT: Final = frozenset({"type", "description", "title", "enum", "const"})
_LIMITS: Final = frozenset(
    {"pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"}
)
_FORMATS: Final = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_SAYS_NOTHING: Final = frozenset(
    "default examples deprecated readOnly writeOnly discriminator minLength maxLength format uniqueItems $schema $id"
    " $comment contentEncoding contentMediaType additionalProperties required".split()
)


class _NotStrict(Exception):  # an outcome of the search, not an error
    """The schema says something that has no strict form."""


def strict_schema(schema: dict[str, Any], *, limits: bool = True) -> dict[str, Any] | None:
    """
    Give the strict form of a schema.

    Args:
        schema: JSON schema of an object, with `$defs` and `$ref` as Pydantic writes them.
        limits: whether the provider knows limits of numbers, texts and lists; they are left out otherwise.

    Returns:
        A schema that everything strict fits and that fits the given one; None if there is none.
    """
    if schema.get("type") != "object" and "$ref" not in schema:
        return None
    try:
        return _strict(schema, limits=limits)
    except _NotStrict:
        return None


def is_strict(schema: dict[str, Any]) -> bool:
    """Tell whether a schema loses no freedom in its strict form: nothing in it may be left out."""
    strict = strict_schema(schema)
    return strict is not None and _required(schema) == _required(strict)


def schema_instruction(schema: dict[str, Any]) -> str:
    """Say in words that the answer has to fit a schema, to a model that can't be held to it."""
    text = json.dumps(schema, ensure_ascii=False, sort_keys=True)
    wish = "Answer with one JSON object that fits the following JSON schema, and with nothing before or after it."
    return f"{wish}\n{text}"


def _strict(schema: dict[str, Any], *, limits: bool) -> dict[str, Any]:
    if "$ref" in schema:
        # A reference stands alone; what is written beside it are words.
        kept: dict[str, Any] = {"$ref": schema["$ref"]}
    else:
        kept = _strict_here(schema, limits=limits)
    definitions = an_object(schema.get("$defs"))
    if definitions is not None:
        kept["$defs"] = {name: _strict(_an(inner), limits=limits) for name, inner in definitions.items()}
    return kept


def _strict_here(schema: dict[str, Any], *, limits: bool) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for word, value in schema.items():
        if word in _KEPT or (word in _LIMITS and limits) or (word == "format" and value in _FORMATS):
            kept[word] = value
        elif word in ("anyOf", "oneOf"):
            kept["anyOf"] = [_strict(_an(one), limits=limits) for one in a_list(value) or []]
        elif word == "allOf" and len(a_list(value) or []) == 1:
            kept.update(_strict(_an(value[0]), limits=limits))
        elif word == "items":
            kept["items"] = _strict(_an(value), limits=limits)
        elif word not in _SAYS_NOTHING and word not in _LIMITS and word not in ("properties", "$defs"):
            raise _NotStrict
    if schema.get("type") == "object":
        kept.update(_strict_object(schema, limits=limits))
    elif not {"type", "anyOf", "enum", "const", "$ref"} & set(kept):
        raise _NotStrict  # anything is allowed here
    elif kept.get("type") == "array" and "items" not in kept:
        raise _NotStrict  # or here
    return kept


def _strict_object(schema: dict[str, Any], *, limits: bool) -> dict[str, Any]:
    properties = an_object(schema.get("properties"))
    if schema.get("additionalProperties", False) is not False or properties is None:
        raise _NotStrict
    return {
        "properties": {name: _strict(_an(inner), limits=limits) for name, inner in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


def _an(value: object) -> dict[str, Any]:
    found = an_object(value)
    if found is None:
        raise _NotStrict  # `true` and `false` are schemas, too
    return found


def _required(schema: object) -> list[Any]:
    """List what is required at each object of a schema, to compare two of them."""
    as_object, as_list = an_object(schema), a_list(schema)
    if as_object is None:
        return [found for part in as_list or [] for found in _required(part)]
    here = [sorted(as_object.get("required", []))] if as_object.get("type") == "object" else []
    inner = [
        found
        for word, part in sorted(as_object.items())
        if word in ("$defs", "properties")
        for name in sorted(an_object(part) or {})
        for found in _required(part[name])
    ]
    inner += [found for word in ("anyOf", "oneOf", "allOf", "items") for found in _required(as_object.get(word))]
    return here + inner

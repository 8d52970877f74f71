"""
Structured answers: a Pydantic class as the schema that a model has to fill in, and back.

Providers that enforce a schema want all of it in one place, every property required and nothing beside them. So
references are put in, and a class with an optional field that has no default is refused where the agent is defined:
the model would have to invent a value for what the program says may be missing.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ValidationError

from polos.engine.json import Json
from polos.llm.jsonish import a_list, an_object, parse_json
from polos.types.agents import AgentResult
from polos.value_types import resolve_path, type_path
from polos.values import encode

__all__ = ["changed_result", "json_of", "json_schema", "read_answer", "repair_message", "typed_answer"]


def json_schema(model: Any) -> tuple[dict[str, Any], str]:
    """
    Give the schema of a class, and its name.

    Raises:
        ValueError: it isn't a Pydantic class, a field may be left out and says not by what, or it refers to itself.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ValueError(f"output_schema must be a Pydantic class, it is {model!r}")  # noqa: TRY004  # as Polos has it
    for name, field in model.model_fields.items():
        if field.is_required() and type(None) in getattr(field.annotation, "__args__", ()):
            raise ValueError(
                f"output_schema: field {name!r} of {model.__name__} is optional and has no default; give it one, such "
                f"as `= None`"
            )
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return _closed(_inlined(schema, definitions, ())), model.__name__


def _inlined(schema: Any, definitions: dict[str, Any], above: tuple[str, ...]) -> Any:
    members, told = a_list(schema), an_object(schema)
    if members is not None:
        return [_inlined(one, definitions, above) for one in members]
    if told is None:
        return schema
    reference = told.get("$ref")
    if isinstance(reference, str):
        name = reference.rsplit("/", 1)[-1]
        if name in above:
            raise ValueError(f"output_schema refers to itself ({name}); a model can't be given a schema without end")
        rest = {key: value for key, value in told.items() if key != "$ref"}
        return {**_inlined(definitions[name], definitions, (*above, name)), **rest}
    return {key: _inlined(value, definitions, above) for key, value in told.items()}


def _closed(schema: Any) -> Any:
    """Require every property of every object, and forbid others."""
    members, fields = a_list(schema), an_object(schema)
    if members is not None:
        return [_closed(one) for one in members]
    if fields is None:
        return schema
    told = {key: _closed(value) for key, value in fields.items()}
    if told.get("type") == "object" and "properties" in told:
        told["additionalProperties"] = False
        told["required"] = list(told["properties"])
    return told


def read_answer(model: type[BaseModel], text: str | None) -> BaseModel:
    """
    Read a model's answer; a fence around it is let pass.

    Raises:
        ValueError: it is no JSON, or doesn't fit; says why.
    """
    told = (text or "").strip()
    if told.startswith("```"):
        told = told.split("\n", 1)[-1].rsplit("```", 1)[0]
    try:
        return model.model_validate(parse_json(told))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ValueError(f"it doesn't fit {model.__name__}: {wrong}") from error
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error


def json_of(answer: object) -> Json:
    """
    Give an answer as JSON.

    Its own class says how: that may be one that nobody else finds again, such as one that a function made.
    """
    hint = type(answer) if isinstance(answer, BaseModel) else None
    return encode(answer, hint=hint, what="answer of the agent")[0].value


def repair_message(schema: dict[str, Any], why: str) -> str:
    """Give what the model is told whose answer didn't fit."""
    return (
        f"Your answer can't be used: {why}\nAnswer again, with nothing but a JSON object that fits this schema:\n"
        f"{json.dumps(schema)}"
    )


def typed_answer(answer: BaseModel) -> tuple[Any, str | None]:
    """Give an answer as it is recorded: with the path of its type, if that can be found again."""
    path = type_path(type(answer))
    if resolve_path(path) is type(answer):
        return answer, path
    return json_of(answer), None


def changed_result(result: AgentResult, output: Json, model: type[BaseModel] | None) -> AgentResult:
    """
    Give an agent's result after a hook said what its output is to be.

    A hook may give the answer alone, as a program thinks of an agent's output: a text, or an object of the output
    schema. It may also give fields of the result, all of them or some.

    Args:
        result: as it was.
        output: what the hook gave.
        model: the agent's output schema, if it has one.

    Raises:
        ValidationError: it gave fields of a result that don't fit.
    """
    fields = an_object(output)
    if fields is None or not fields or not fields.keys() <= AgentResult.model_fields.keys() or _fits(output, model):
        return result.model_copy(update=_answer_fields(output, model))
    checked = AgentResult.model_validate({"agent_run_id": result.agent_run_id, **fields})
    changes = {name: getattr(checked, name) for name in fields}
    if "result" in fields and "result_schema" not in fields:
        changes |= _answer_fields(fields["result"], model)
    return result.model_copy(update=changes)


def _fits(output: Json, model: type[BaseModel] | None) -> bool:
    if model is None:
        return False
    try:
        model.model_validate(output)
    except ValidationError:
        return False
    return True


def _answer_fields(output: Json, model: type[BaseModel] | None) -> dict[str, Any]:
    if model is None or not _fits(output, model):
        return {"result": output, "result_schema": None}
    answer, path = typed_answer(model.model_validate(output))
    return {"result": answer, "result_schema": path}

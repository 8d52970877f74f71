"""
Classes that hold data and nothing else, as far as can be seen: models, dataclasses, enumerations, exceptions.

What such a class has is data, methods that are plain functions, and what Python and pydantic have put there. Nothing in
it is run by itself when an object is made, asked or changed, and no attribute of it can hold anything but constants.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, Final, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from polos.testing.harmless import is_of_library

__all__ = ["parts_of", "values_of"]


class _Sample(enum.Enum):
    ONE = 1


class _Text(enum.StrEnum):
    ONE = "one"


class _OfText(str, enum.Enum):  # noqa: UP042  # this is written, too
    ONE = "one"


class _Number(enum.IntEnum):
    ONE = 1


class _Model(BaseModel):
    one: int = 1


_METACLASSES: Final = frozenset({type, enum.EnumMeta, type(BaseModel)})
_MADE: Final = frozenset({
    "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__slots__",
    "__match_args__", "__dataclass_params__", "__dataclass_fields__", "__static_attributes__", "__firstlineno__",
    "__annotations_cache__", "__annotate_func__", "__annotate__", "__class_vars__", "__private_attributes__",
    "__signature__", "__abstractmethods__", "_abc_impl", "model_config",
    "__slotnames__",  # of `copyreg`, when an instance is copied first
})  # fmt: skip
_ENUMS: Final[tuple[type[enum.Enum], ...]] = (_Sample, _Text, _OfText, _Number)
_OF_ENUMS: Final = frozenset(str(name) for one in _ENUMS for name in vars(one)) - {"ONE"}
_OF_MODELS: Final[frozenset[str]] = frozenset(name for name in vars(_Model) if name.startswith("__pydantic_"))
_OF_MEMBERS: Final = frozenset(vars(_Sample.ONE))
_DATACLASS_METHODS: Final = frozenset({
    "__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__setattr__", "__delattr__",
    "__replace__", "__getstate__", "__setstate__",
})  # fmt: skip


def parts_of(cls: type[Any]) -> Iterator[tuple[str, object]] | str:
    """
    Give what a class is made of beside its annotations: bases, attributes, methods and defaults, with their names.

    Returns:
        Those parts, or what is wrong with it in words, if it isn't plain.
    """
    if type(cls) not in _METACLASSES:
        return f"has a metaclass {type(cls).__qualname__}"
    made: frozenset[str] = (_MADE | _OF_ENUMS) if issubclass(cls, enum.Enum) else _MADE
    if issubclass(cls, BaseModel):
        decorated = cls.__pydantic_decorators__
        if any(getattr(decorated, field.name) for field in dataclasses.fields(decorated)):
            return "has validators, serializers or computed fields"
        if cls.__private_attributes__:
            return "has private attributes"
        made |= _OF_MODELS
    for name, value in vars(cls).items():
        special = name.startswith("_")
        if special and not (_is_generated(cls, name, value) if name not in made else _is_made(value)):
            return f"has {name}"
    return _parts(cls)


def _is_made(value: object) -> bool:
    """Tell whether code behind a name that Python or pydantic give a class is theirs."""
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    return code is None or is_of_library("", code.co_filename)


def _is_generated(cls: type[Any], name: str, value: object) -> bool:
    """Tell whether a method was made by `dataclass`, or by pydantic for what is frozen."""
    if name == "__hash__" and (value is None or issubclass(cls, BaseModel)):
        return _is_made(value)
    by_dataclass = "__dataclass_params__" in vars(cls) and name in _DATACLASS_METHODS
    return by_dataclass and isinstance(value, FunctionType) and _is_made(value)


def _parts(cls: type[Any]) -> Iterator[tuple[str, object]]:
    yield from (("a base", base) for base in cls.__bases__)
    yield from _attributes(cls)
    if issubclass(cls, enum.Enum):
        for member in cls.__members__.values():
            yield member.name, member.value
            yield from ((f"{member.name}.{name}", one) for name, one in vars(member).items() if name not in _OF_MEMBERS)
    if issubclass(cls, BaseModel):
        yield from _values("model_config", dict(cls.model_config))
        for name, field in cls.model_fields.items():
            yield from _of_field(name, field)
    for name, known in vars(cls).get("__dataclass_fields__", {}).items():
        for one in (known.default, known.default_factory):
            if one is not dataclasses.MISSING:
                yield name, one


def _attributes(cls: type[Any]) -> Iterator[tuple[str, object]]:
    for name, value in vars(cls).items():
        if name.startswith("_") or isinstance(value, MemberDescriptorType | GetSetDescriptorType):
            continue
        if type(value) is property:
            yield name, value.fget
            yield name, value.fset
            yield name, value.fdel
        elif type(value) in {staticmethod, classmethod}:
            yield name, value.__func__
        elif not (issubclass(cls, enum.Enum) and type(value) is cls) and name != "model_config":
            yield name, value


def _of_field(name: str, field: FieldInfo) -> Iterator[tuple[str, object]]:
    default: object = field.default
    if default is not PydanticUndefined:
        yield from _values(name, default)  # each model gets a copy, but of what is in it perhaps not
    if field.default_factory is not None:
        yield name, field.default_factory
    yield from ((name, said) for said in field.metadata if type(said).__module__ != "annotated_types")


def _values(name: str, value: object) -> Iterator[tuple[str, object]]:
    if type(value) in {list, set, tuple, frozenset}:
        for one in cast("Iterable[object]", value):
            yield from _values(name, one)
    elif type(value) is dict:
        for pair in cast("Mapping[object, object]", value).items():
            yield from _values(name, pair)
    else:
        yield name, value


def values_of(what: object) -> list[object] | None:
    """Give the values of a frozen dataclass's fields; None if it is none, or holds anything besides."""
    fields: dict[str, Any] = vars(type(what)).get("__dataclass_fields__", {})
    parameters = vars(type(what)).get("__dataclass_params__")
    if parameters is None or not parameters.frozen or type(what).__bases__ != (object,):
        return None
    held = getattr(what, "__dict__", None)
    if held is None:
        return [getattr(what, name) for name in fields]
    return list(held.values()) if held.keys() == fields.keys() else None

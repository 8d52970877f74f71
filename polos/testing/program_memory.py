"""
Whether a program keeps anything in memory that one process would hand from one life to the next.

A crash takes all memory away; within one process it stays. A fake in a list of the test's module is what steps act
upon, and it must have seen what the first life of a scenario did, so that life has to be lived. But most programs keep
nothing. Of some that can be seen: everything their code can reach by name is a function, a class or a constant. Then
nothing is left that could change, but what is recorded and what is in the directory of the scenario.

So this looks through all that code can reach: from functions to the names in their code, their closures, defaults and
annotations, from classes to their attributes. It has to be sure, so what it doesn't know stands for memory: other
people's libraries, files, all objects but a few kinds. It calls nothing of the program, and tells what it stumbled
over. As everywhere in a sweep, what Python calls by itself is taken to leave nothing (``__del__``, ``__str__`` of
exceptions).
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import inspect
import re
import sys
import typing
from abc import ABCMeta
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any, Final, cast, final

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from polos import registry
from polos.definition import Workflow
from polos.replay.stdlib import install
from polos.testing.code_uses import Kind, Use, uses
from polos.testing.harmless import WHOLE_MODULES, is_harmless, is_of_library
from polos.testing.outside import Outside

__all__ = ["Memory"]

OBJECTS_MAX: Final = 2_000  # that are looked at, so that no sweep spends its time here
_NOWHERE: Final = object()
_METACLASSES: Final = frozenset({type, ABCMeta, enum.EnumMeta, type(BaseModel)})
_OF_PYTHON: Final = frozenset({"_abc_impl", "model_config"})  # attributes of classes that Python and pydantic made
_OF_PYTEST: Final = frozenset({"@py_builtins", "@pytest_ar"})  # in an `assert` of a test's module
_PATHS: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_TEXTS: Final = re.compile(r"'[^']*'|\"[^\"]*\"")

Names = Mapping[str, Any]


class _Found(Exception):  # what may be memory, in words
    pass


@final
class Memory:
    """
    What a look through a program found.

    Attributes:
        kept: what may be kept in memory, in words; empty if nothing can be.
        workflows: ids of those that were looked at.
    """

    def __init__(self, program: Iterable[tuple[str, object]], workflows: Mapping[str, Workflow[Any]]) -> None:
        """
        Look.

        Args:
            program: where its code begins: workflows and functions, each with what it is in words.
            workflows: that it may start and that aren't registered, by id.
        """
        self.workflows: set[str] = set()
        self.kept = ""
        self._by_id = workflows
        self._met: dict[int, object] = {}
        self._seen: list[tuple[str, object]] = []
        self._left: list[tuple[str, object]] = []
        self._looks: dict[type, Callable[[str, Any], None]] = {
            FunctionType: self._function,
            Workflow: self._workflow,
            tuple: self._all,
            frozenset: self._all,
            staticmethod: lambda who, what: self._add(who, what.__func__),
            classmethod: lambda who, what: self._add(who, what.__func__),
            property: lambda who, what: self._all(who, (what.fget, what.fset, what.fdel)),
            partial: lambda who, what: self._all(who, (what.func, *what.args, *what.keywords.values())),
            Outside: lambda _who, _what: None,
        }
        install()  # functions of asyncio become others by it, and an engine does it sooner or later
        try:
            for who, what in program:
                self._add(who, what)
            while self._left:
                self._look(*self._left.pop())
        except _Found as found:
            self.kept = str(found)

    def is_as(self, before: Memory) -> bool:
        """Tell whether an earlier look has found the same: nothing has become another."""
        return len(self._seen) == len(before._seen) and all(
            one[0] == other[0] and one[1] is other[1] for one, other in zip(self._seen, before._seen, strict=True)
        )

    def _add(self, who: str, what: object) -> None:
        self._seen.append((who, what))
        if id(what) in self._met:
            return
        self._met[id(what)] = what
        if len(self._met) > OBJECTS_MAX:
            raise _Found("the program is too large to be looked through")
        self._left.append((who, what))

    def _all(self, who: str, parts: Iterable[object]) -> None:
        for part in parts:
            self._add(who, part)

    def _look(self, who: str, what: object) -> None:
        look = self._looks.get(type(what))
        if look is not None:
            look(who, what)
        elif isinstance(what, type):
            self._class(who, what)
        elif isinstance(what, enum.Enum):
            self._all(who, (type(what), what.value))
        elif _is_frozen(what):
            fields: tuple[Any, ...] = dataclasses.fields(cast("Any", what))
            self._all(who, (type(what), *(getattr(what, field.name) for field in fields)))
        elif not is_harmless(what):
            raise _Found(f"{who}, {_kind(what)}")

    def _workflow(self, _who: str, workflow: Workflow[Any]) -> None:
        self.workflows.add(workflow.id)
        who = f"workflow {workflow.id!r}"
        if workflow.on_start or workflow.on_end:
            raise _Found(f"{who} has hooks")
        self._add(who, workflow.func)
        for hint in (workflow.payload_schema_class, workflow.state_schema, workflow.output_schema):
            self._hint(who, hint, {})

    # --------------------------------------------------------------------------------------- classes

    def _class(self, who: str, cls: type) -> None:
        if is_harmless(cls) or (cls.__module__ == "builtins" and issubclass(cls, BaseException)):
            return
        if type(cls) not in _METACLASSES or is_of_library(cls.__module__):
            raise _Found(f"{who}, {_kind(cls)}")
        self._all(who, cls.__bases__)
        name, attributes = cls.__qualname__, dict(cast("Any", cls).__dict__)
        for attribute, value in attributes.items():
            if _is_written(cls, attribute, value):
                self._add(f"{name}.{attribute}", value)
        if issubclass(cls, BaseModel):
            self._model(cls)
        elif "__dataclass_fields__" in attributes:
            for field in dataclasses.fields(cast("Any", cls)):
                self._defaults(f"{name}.{field.name}", field.default, field.default_factory)
        self._hints(name, cls, vars(sys.modules[cls.__module__]))

    def _model(self, model: type[BaseModel]) -> None:
        decorated = model.__pydantic_decorators__
        if any(getattr(decorated, field.name) for field in dataclasses.fields(decorated)):
            raise _Found(f"{model.__qualname__}, a model with validators, serializers or computed fields")
        if model.__private_attributes__:
            raise _Found(f"{model.__qualname__}, a model with private attributes")
        for name, field in model.model_fields.items():
            who = f"{model.__qualname__}.{name}"
            self._hint(who, field.annotation, {})
            copied = isinstance(field.default, list | dict | set)  # each model gets one of its own
            self._defaults(who, None if copied else field.default, field.default_factory)

    def _defaults(self, who: str, *defaults: object) -> None:
        self._all(who, (one for one in defaults if one is not dataclasses.MISSING and one is not PydanticUndefined))

    # ------------------------------------------------------------------------------------- functions

    def _function(self, who: str, function: FunctionType) -> None:
        if is_harmless(function):
            return
        code, name = function.__code__, function.__qualname__
        if is_of_library(function.__module__, code.co_filename):
            raise _Found(f"{who}, a function of a library")
        for attribute, value in vars(function).items():
            if attribute != "__wrapped__":
                raise _Found(f"{name} has an attribute {attribute}")
            self._add(name, value)
        self._all(f"a default of {name}", (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()))
        free: dict[str, object] = {}
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                free[variable] = cell.cell_contents
            except ValueError:
                raise _Found(f"{name} uses {variable}, which isn't there yet") from None
        self._hints(name, function, {**function.__globals__, **free})
        self._code(name, code, function.__globals__, free)

    def _code(self, who: str, code: CodeType, names: Names, free: Names) -> None:
        """Look at what code uses; `free` is what its closure brings from outside of all that is looked at."""
        for use in uses(code):
            if use.kind is Kind.OUT_OF_SIGHT:
                raise _Found(f"{who} {use.name}")
            if use.kind is Kind.IMPORT:
                if use.name not in WHOLE_MODULES:
                    raise _Found(f"{who} imports {use.name}")
            elif use.kind is Kind.NAME:
                if use.name not in _OF_PYTEST:
                    self._used(who, use, names.get(use.name, getattr(builtins, use.name, _NOWHERE)))
            elif use.name in free:  # any other variable is of one call, and gone with it
                if use.kind is Kind.ASSIGNED:
                    raise _Found(f"{who} assigns to {use.name}")
                self._used(who, use, free[use.name])
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                brought = [name for name in constant.co_freevars if name in free and name not in code.co_cellvars]
                self._code(who, constant, names, {name: free[name] for name in brought})
            elif isinstance(constant, str):
                self._named(f"{who} names {constant!r}", constant)

    def _named(self, who: str, text: str) -> None:
        """Look at a workflow that is started by its id."""
        named = self._by_id.get(text) or registry.get_workflow(text)
        if named is not None:
            self._add(who, named)

    def _used(self, who: str, use: Use, what: object) -> None:
        """Look at what a name stands for; of a module at the attribute of it that is used."""
        who = f"{who} uses {use.name}"
        if what is _NOWHERE:
            raise _Found(f"{who}, which isn't there yet")
        if use.changes:
            raise _Found(f"{who}, and may change it")
        if isinstance(what, ModuleType) and use.attribute is not None and hasattr(what, use.attribute):
            who, what = f"{who}.{use.attribute}", getattr(what, use.attribute)
        self._add(who, what)

    # ----------------------------------------------------------------------------------------- hints

    def _hints(self, who: str, of: Any, names: Names) -> None:
        try:
            hints = inspect.get_annotations(of)
        except NameError as error:  # from Python 3.14 on they are evaluated when somebody asks
            raise _Found(f"{who} is annotated with {error.name}, which can't be found") from error
        for hint in hints.values():
            self._hint(who, hint, names)

    def _hint(self, who: str, hint: object, names: Names) -> None:
        """Look at the classes in a hint, for values are made of them."""
        if isinstance(hint, str):
            self._text_hint(who, hint, names)
        elif isinstance(hint, typing.ForwardRef):
            self._text_hint(who, hint.__forward_arg__, names)
        elif typing.get_origin(hint) is not None:
            if typing.get_origin(hint) is not typing.Literal:
                self._hint(who, typing.get_origin(hint), names)
                for part in typing.get_args(hint):
                    self._hint(who, part, names)
        elif isinstance(hint, list):
            for part in cast("list[object]", hint):  # of a Callable
                self._hint(who, part, names)
        elif not _says_no_class(hint):
            self._add(f"{who} is annotated with {getattr(hint, '__qualname__', hint)}", hint)

    def _text_hint(self, who: str, text: str, names: Names) -> None:
        """Look at what is named in a hint that is a text; nothing evaluates it."""
        for path in _PATHS.findall(_TEXTS.sub("", text)):
            first, *others = path.split(".")
            named: object = names.get(first, getattr(builtins, first, _NOWHERE))
            for other in others:
                named = getattr(named, other, _NOWHERE)
            if named is _NOWHERE:
                raise _Found(f"{who} is annotated with {path}, which can't be found")
            if not isinstance(named, ModuleType):
                self._hint(who, named, names)


def _is_written(cls: type, name: str, value: object) -> bool:
    """Tell whether an attribute of a class is the program's; others are what Python and pydantic put there."""
    special = name.startswith("__") and name.endswith("__")
    if isinstance(value, FunctionType):
        made = special and "__dataclass_fields__" in vars(cls) and is_of_library("", value.__code__.co_filename)
        return not (made or value.__module__ == "enum")
    if special or name in _OF_PYTHON or isinstance(value, MemberDescriptorType | GetSetDescriptorType):
        return False
    return not (issubclass(cls, enum.Enum) and (name.startswith("_") or type(value) is cls))


def _is_frozen(what: object) -> bool:
    parameters = getattr(type(what), "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


def _says_no_class(hint: object) -> bool:
    """Tell whether a hint is none of the program's classes: one of typing, a builtin, or a constant."""
    if isinstance(hint, type):
        return hint.__module__ in {"builtins", "typing", "types", "collections.abc"}
    return is_harmless(hint)


def _kind(what: object) -> str:
    if isinstance(what, ModuleType):
        return "a module"
    name = f"class {what.__qualname__}" if isinstance(what, type) else type(what).__qualname__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"

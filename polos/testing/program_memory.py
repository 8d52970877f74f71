"""
Whether a program keeps anything in memory that one process would hand from one life to the next.

A crash takes all memory away; within one process it stays. A fake in a list of the test's module is what steps act
upon, and it must have seen what the first life of a scenario did, so that life has to be lived. But most programs keep
nothing. Of plain ones that can be seen: everything their code can reach by name is a function, a class that holds data,
a constant or an `Outside`, and no code assigns to an attribute or to a variable of somebody else's. Then nothing is
left that could change, but what is recorded and what is in the directory of the scenario.

So this looks through all that code can reach: from functions to the names in their code, their closures, defaults and
annotations, from classes to their attributes. It has to be sure, so what it doesn't know stands for memory: other
people's libraries, files, all objects but a few kinds. It calls nothing of the program, and tells what it stumbled
over. As everywhere in a sweep, what Python calls by itself is taken to leave nothing: ``__del__``, warnings,
``__str__`` of exceptions.
"""

from __future__ import annotations

import builtins
import collections.abc
import enum
import inspect
import re
import sys
import types
import typing
from collections import ChainMap, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, cast, final

from pydantic import BaseModel

from polos import registry
from polos.context import WorkflowContext
from polos.definition import Workflow
from polos.engine.retry import RetryPolicy
from polos.replay.stdlib import install
from polos.step import Step
from polos.testing.code_uses import Kind, Use, uses
from polos.testing.failing import says_no
from polos.testing.harmless import are_tools_changed, has_changed, is_harmless, is_of_library, learn
from polos.testing.outside import Outside
from polos.testing.plain_classes import parts_of, values_of

__all__ = ["Memory"]

OBJECTS_MAX: Final = 2_000  # that are looked at, so that no sweep spends its time here
_NOWHERE: Final = object()
_EMPTY: Final = ModuleType("empty")
_LEDGER: Final = Outside()


async def _nothing(_ctx: WorkflowContext) -> None:
    pass


_OF_WORKFLOWS: Final = {*vars(Workflow("sample", _nothing)), "result_hint"}  # it is found out when it is asked
_OF_PYTEST: Final = frozenset({"@py_builtins", "@pytest_ar"})  # in an `assert` of a test's module
_PATHS: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_SENTENCE: Final = re.compile(r"\w\s+\w")  # in no hint
_TEXTS: Final = re.compile(r"'[^']*'|\"[^\"]*\"")
_ORIGINS: Final = (typing.Union, types.UnionType, typing.Annotated)

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
        self._hints_kept: list[object] = []
        self._hints_met: set[tuple[int, str, int]] = set()
        self._seen: list[tuple[str, object]] = []
        self._left: deque[tuple[str, object]] = deque()
        self._looks: dict[type, Callable[[str, Any], None]] = {
            FunctionType: self._function,
            Workflow: self._workflow,
            tuple: self._all,
            frozenset: self._all,
            partial: self._partial,
            Outside: self._ledger,
        }
        try:
            install()  # functions of asyncio become others by it, and an engine does it sooner or later
            learn()
            if are_tools_changed() or has_changed(WorkflowContext) or has_changed(Step):
                raise _Found("what a test has put in the place of a part of Python or polos")
            for who, what in program:
                self._add(who, what)
            while self._left:
                self._look(*self._left.popleft())
        except _Found as found:
            self.kept = str(found)
        except BaseException as error:
            if not says_no(error):
                raise
            # An object may raise whenever it is asked anything.
            self.kept = f"something that can't be looked at: {type(error).__name__}: {error}"

    def is_as(self, before: Memory) -> bool:
        """Tell whether an earlier look has found the same: nothing has become another."""
        return (self.kept, len(self._seen)) == (before.kept, len(before._seen)) and all(
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
        kind = type(what)
        look = self._looks.get(kind)
        if look is not None:
            look(who, what)
        elif issubclass(kind, type):
            self._class(who, cast("type[Any]", what))
        elif issubclass(kind, enum.Enum):
            self._add(who, kind)
        elif kind.__module__ in {"typing", "types"} and typing.get_origin(what) is not None:
            self._hint(who, what, {})
        elif (values := values_of(what)) is not None:
            self._all(who, (kind, *values))
        elif not is_harmless(what):
            raise _Found(f"{who}, {_kind(what)}")

    def _workflow(self, _who: str, workflow: Workflow[Any]) -> None:
        self.workflows.add(workflow.id)
        who = f"workflow {workflow.id!r}"
        if workflow.on_start or workflow.on_end:
            raise _Found(f"{who} has hooks")
        if type(workflow.retries) is not RetryPolicy or not vars(workflow).keys() <= _OF_WORKFLOWS:
            raise _Found(f"{who} has attributes or retries of its own")
        self._named(who, workflow.id)  # by which the engine finds it
        self._add(who, workflow.func)
        if workflow.trigger is not None and workflow.trigger.filter is not None:
            self._add(f"the trigger_filter of {who}", workflow.trigger.filter)
        for hint in (workflow.payload_schema_class, workflow.state_schema, workflow.output_schema):
            self._hint(who, hint, {})

    def _partial(self, who: str, what: partial[Any]) -> None:
        self._all(who, (what.func, *what.args, *what.keywords.values(), *vars(what).values()))

    @staticmethod
    def _ledger(who: str, what: Outside) -> None:
        if has_changed(Outside) or vars(what).keys() != vars(_LEDGER).keys():
            raise _Found(f"{who}, an Outside that was changed")

    def _class(self, who: str, cls: type[Any]) -> None:
        if is_harmless(cls) and has_changed(cls):
            raise _Found(f"{who}, {_kind(cls)} that was changed")
        if is_harmless(cls) or (vars(builtins).get(cls.__name__) is cls and issubclass(cls, BaseException)):
            return
        if is_of_library(cls.__module__):
            raise _Found(f"{who}, {_kind(cls)}")
        parts = parts_of(cls)
        if isinstance(parts, str):
            raise _Found(f"{cls.__qualname__} {parts}")
        for name, part in parts:
            self._add(f"{cls.__qualname__}.{name}", part)
        if not issubclass(cls, BaseModel):  # of models it is known what their hints stand for
            self._hints(cls.__qualname__, cls, vars(sys.modules[cls.__module__]))
            return
        for name, field in cls.model_fields.items():
            self._hint(f"{cls.__qualname__}.{name}", field.annotation, {})

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
        self._hints(name, function, ChainMap(free, function.__globals__))
        self._code(name, code, function.__globals__, free)

    def _code(self, who: str, code: CodeType, names: Names, free: Names) -> None:
        """Look at what code uses; `free` is what its closure brings from outside of all that is looked at."""
        for use in uses(code):
            if use.kind is Kind.OUT_OF_SIGHT:
                raise _Found(f"{who} {use.name}")
            if use.kind is Kind.IMPORT:
                module, _, name = use.name.rpartition(".")
                self._used(who, use, vars(sys.modules.get(module, _EMPTY)).get(name, _NOWHERE))
            elif use.kind is Kind.NAME and use.name not in _OF_PYTEST:
                self._used(who, use, names.get(use.name, vars(builtins).get(use.name, _NOWHERE)))
            elif use.kind is Kind.ASSIGNED and use.name in free:
                raise _Found(f"{who} assigns to {use.name}")
            elif use.kind is Kind.CELL and use.name in free:  # any other is of one call, and gone with it
                self._used(who, use, free[use.name])
        around = ChainMap[str, Any]({**free}, cast("Any", names))  # looked into, and not copied
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                brought = [name for name in constant.co_freevars if name in free and name not in code.co_cellvars]
                self._code(who, constant, names, {name: free[name] for name in brought})
            else:
                self._text(who, constant, around)

    def _text(self, who: str, constant: object, names: Names) -> None:
        """Look at what a text may name: a workflow that is started by its id, or a class in a hint of a function."""
        if isinstance(constant, tuple):
            for one in cast("tuple[object, ...]", constant):
                self._text(who, one, names)
        elif isinstance(constant, str):
            self._named(f"{who} names {constant!r}", constant)
            for path in () if _SENTENCE.search(constant) else _PATHS.findall(constant):
                found = names.get(path.partition(".")[0])
                if issubclass(type(found), type):
                    self._hint(f"{who} names {path}", found, names)

    def _named(self, who: str, text: str) -> None:
        """Look at the workflow that is found by an id, if it is one."""
        named = self._by_id.get(text) or registry.get_workflow(text)
        if named is not None:
            self._add(who, named)

    def _used(self, who: str, use: Use, what: object) -> None:
        """Look at what a name stands for; of a module at the attribute of it that is used."""
        who = f"{who} {'imports' if use.kind is Kind.IMPORT else 'uses'} {use.name}"
        if type(what) is Workflow and use.attribute not in {None, "id"}:
            raise _Found(f"{who}.{use.attribute}")
        if what is _NOWHERE:
            raise _Found(f"{who}, which isn't there yet")
        if type(what) is ModuleType and use.attribute is not None:
            who, there = f"{who}.{use.attribute}", vars(what)
            if use.attribute not in there and what is sys.modules.get("polos"):
                there = {use.attribute: getattr(what, use.attribute, _NOWHERE)}  # it imports what is asked for
            what = there.get(use.attribute, _NOWHERE)
            if what is _NOWHERE:
                raise _Found(f"{who}, which isn't there yet")
        self._add(who, what)

    # ----------------------------------------------------------------------------------------- hints

    def _hints(self, who: str, of: Any, names: Names) -> None:
        for hint in inspect.get_annotations(of).values():
            self._hint(who, hint, names)

    def _hint(self, who: str, hint: object, names: Names) -> None:
        """Look at the classes in a hint, for values are made of them."""
        if isinstance(hint, typing.ForwardRef):
            hint = hint.__forward_arg__
        text = hint if isinstance(hint, str) else ""
        met = (0 if text else id(hint), text, id(names) if text else 0)
        if met in self._hints_met:
            return
        self._hints_met.add(met)
        self._hints_kept += (hint, names)  # so that nothing else gets their ids
        if isinstance(hint, str):
            self._text_hint(who, hint, names)
        elif (parts := _parts_of_hint(hint)) is not None:
            for part in parts:
                self._hint(who, part, names)
        elif not _says_no_class(hint):
            self._add(f"{who} is annotated with {getattr(hint, '__qualname__', hint)}", hint)

    def _text_hint(self, who: str, text: str, names: Names) -> None:
        """Look at what is named in a hint that is a text; nothing evaluates it."""
        bare = set(_PATHS.findall(_TEXTS.sub("", text)))
        for path in _PATHS.findall(text):
            first, *others = path.split(".")
            named: object = names.get(first, vars(builtins).get(first, _NOWHERE))
            for other in others:
                named = vars(named).get(other, _NOWHERE) if type(named) is ModuleType else _NOWHERE
            if named is _NOWHERE and path not in bare:
                continue  # a text of a Literal
            if named is _NOWHERE:
                raise _Found(f"{who} is annotated with {path}, which can't be found")
            if type(named) is not ModuleType:
                self._hint(who, named, names)


def _parts_of_hint(hint: object) -> tuple[object, ...] | None:
    """Give the hints that a hint is made of; None if it is made of none."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return ()
    if origin is not None:
        return typing.get_args(hint) if origin in _ORIGINS else (*typing.get_args(hint), origin)
    if isinstance(hint, list):  # of a Callable
        return tuple(cast("list[object]", hint))
    if isinstance(hint, typing.TypeVar):
        return (hint.__bound__, *hint.__constraints__)
    return (hint.__supertype__,) if isinstance(hint, typing.NewType) else None


def _says_no_class(hint: object) -> bool:
    """Tell whether a hint is none of the program's classes: one of typing's words, a builtin, or a constant."""
    if is_harmless(hint) or hint is typing.Any:
        return True
    words = (builtins, typing, collections.abc, types)
    if any(vars(module).get(getattr(hint, "__name__", "")) is hint for module in words):
        return True
    return any(hint is word for word in _SPECIAL)


_SPECIAL: Final = tuple(
    word for word in vars(typing).values() if type(word).__module__ == "typing" and not isinstance(word, type)
)


def _kind(what: object) -> str:
    kind = type(what)
    if kind is ModuleType:
        return "a module"
    name = f"class {cast('type[Any]', what).__qualname__}" if issubclass(kind, type) else kind.__qualname__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"

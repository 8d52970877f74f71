"""
What an annotation says about a value, and how a type is found again.

A record is JSON, so something else must say what it was. Two things can, and this module reads both:

* a **hint**: the declared schema or the return annotation. Most annotations say nothing that JSON doesn't say
  itself (``str``, ``list[int]``, ``dict[str, Any]``); `shape_of` gives None for those, so that the common step
  never meets a validator. Annotations in Python are no promises, and one that can't be used (an unresolvable name,
  a class that Pydantic doesn't know) says nothing either, instead of failing a step whose effect has happened.
* a **path**: ``module.Class``, also as ``list[…]`` and ``dict[str, …]``, recorded beside the JSON. A log outlives
  the program that wrote it, so a path is data to be doubted. Finding one imports the module, as nothing else can
  find a class, but takes only names that stand in the namespaces of modules and classes, calls nothing, and yields
  only classes that describe data: models, dataclasses, TypedDicts, enums.

The program's own file is called ``__main__`` while it runs and by its name elsewhere. Paths hold the name (the stem
of the file), and a stem is looked for in the running ``__main__`` first: importing it again would run the program
twice and give a second class of the same name that is equal to nothing. So that file isn't imported either when the
class isn't found in it, which is so for classes that a function made.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import re
import sys
import types
import typing
import weakref
from collections.abc import Callable
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Final, cast

import typing_extensions
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError

__all__ = ["Shape", "admits", "is_data_class", "resolve_path", "return_hint", "shape_of", "type_path"]

_MAINS: Final = ("__main__", "__mp_main__")
_PATH_CHARACTERS_MAX: Final = 1_000
_SPOKEN: Final[dict[str, object]] = {"bool": bool, "int": int, "float": float, "str": str}
_SCALARS: Final[tuple[object, ...]] = (None, types.NoneType, bool, int, float, str)
# Forms that fit every value, or that only a type checker understands.
_SILENT_NAMES: Final = ("Any", "LiteralString", "Never", "NoReturn", "Self")
_SILENT: Final[tuple[object, ...]] = (
    object,
    BaseModel,
    *(getattr(module, name) for module in (typing, typing_extensions) for name in _SILENT_NAMES),
)
_SILENT_IDS: Final = frozenset(map(id, _SILENT))  # a hint may have no hash, and its equality isn't meant here
_LISTS: Final[tuple[object, ...]] = (
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_DICTS: Final[tuple[object, ...]] = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
# Bytes are seldom UTF-8. Models keep their own configuration.
_CONFIG: Final = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """
    A hint that says more than JSON, with the means to write and read values of it.

    Attributes:
        hint: the hint itself.
        path: how to find it again, or None if a path can't say it.
        dump: value to JSON as Python objects.
        read: bytes of JSON to value.
        convert: plain Python objects to value.
    """

    hint: object
    path: str | None
    dump: Callable[[object], object]
    read: Callable[[bytes], object]
    convert: Callable[[object], object]


def is_data_class(kind: object) -> bool:
    """Tell whether this is a class whose values a record can hold: a model, dataclass, TypedDict or enum."""
    return isinstance(kind, type) and _describes_data(kind)


@functools.lru_cache(maxsize=2_048)
def _describes_data(cls: type[Any]) -> bool:
    return issubclass(cls, BaseModel | Enum) or dataclasses.is_dataclass(cls) or _is_typed_dict(cls)


def _is_typed_dict(kind: object) -> bool:
    return typing.is_typeddict(kind) or typing_extensions.is_typeddict(kind)


# ------------------------------------------------------------------------------------------------ hints


def shape_of(hint: object) -> Shape | None:
    """
    Give what a hint says beyond JSON, or None if it says nothing or can't be used.

    What was found is kept, but for hints with names that don't exist yet: they may exist at the next call.
    """
    try:
        return _shape(hint, _order(hint))
    except _Unfinished:
        return None
    except TypeError:  # the hint can't be hashed: Annotated[int, {...}]
        return _shape.__wrapped__(hint, "")


class _Unfinished(Exception):
    """A hint has names that don't exist yet; raised because what is raised isn't kept."""


def _order(hint: object) -> object:
    """
    Tell apart hints that are equal and differ in order.

    ``UUID | str`` equals ``str | UUID``, and the order decides what a text becomes. If one were taken for the other
    because it was seen first, the next process could read a record differently.
    """
    arguments = () if isinstance(hint, type) else typing.get_args(hint)
    return tuple([(argument, _order(argument)) for argument in arguments]) if arguments else None


@functools.lru_cache(maxsize=2_048)
def _shape(hint: object, _text: str) -> Shape | None:
    if _says_nothing(hint):
        return None
    configured = is_data_class(hint) and not issubclass(cast("type", hint), Enum)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", hint), config=None if configured else _CONFIG)
        dump = functools.partial(
            adapter.serializer.to_python, mode="json", by_alias=True, round_trip=True, warnings=False
        )
        return Shape(hint, _describe(hint), dump, adapter.validator.validate_json, adapter.validator.validate_python)
    except PydanticUserError as error:
        if error.code == "class-not-fully-defined":
            raise _Unfinished from error
        return None
    except Exception:  # noqa: BLE001  # classes bring their own schema functions, which may raise whatever they like
        return None


def _says_nothing(hint: object, above: tuple[object, ...] = ()) -> bool:
    """Tell whether JSON alone brings back every value of this hint."""
    if any(hint is silent for silent in (*_SCALARS, *_SILENT, *_LISTS, *_DICTS)):
        return True
    # A name that is still text couldn't be resolved; in `Json` it is the alias itself.
    if isinstance(hint, str | typing.ForwardRef | typing.TypeVar | types.FunctionType):
        return True
    if isinstance(hint, typing.NewType):
        return _says_nothing(hint.__supertype__, above)
    if _is_typed_dict(hint):
        return any(hint is one for one in above) or _typed_dict_says_nothing(hint, above)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return all(type(argument) in (bool, int, str, types.NoneType) for argument in arguments)
    if origin in _DICTS and arguments:
        key, member = arguments
        return (key is str or key is Any or isinstance(key, typing.TypeVar)) and _says_nothing(member, above)
    if origin in (typing.Union, types.UnionType, *_LISTS, *_DICTS):
        return all(_says_nothing(argument, above) for argument in arguments)
    return False


def _typed_dict_says_nothing(hint: object, above: tuple[object, ...]) -> bool:
    try:
        fields = typing_extensions.get_type_hints(hint)
    except Exception:  # noqa: BLE001  # annotations are expressions, and may raise whatever they like
        return True
    return all(_says_nothing(field, (*above, hint)) for field in fields.values())


def admits(hint: object, found: object) -> bool:
    """Tell whether a value of the type that was found is a value of the hint, so that the narrower one can be used."""
    if hint is found:
        return True
    if hint is None or id(hint) in _SILENT_IDS or isinstance(hint, typing.TypeVar):
        return hint is not None
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(admits(member, found) for member in typing.get_args(hint))
    if origin is typing.Annotated:
        return admits(typing.get_args(hint)[0], found)
    container = typing.get_origin(found)
    if container is None:
        return isinstance(found, type) and any(hint is base for base in found.__mro__)
    outer = hint if origin is None else origin
    if not any(outer is known for known in (*_LISTS, *_DICTS)) or not issubclass(container, cast("type", outer)):
        return False
    members = typing.get_args(hint)
    return not members or admits(members[-1], typing.get_args(found)[-1])


def return_hint(func: object) -> object:
    """
    Give what a callable says that it returns, or None if it says nothing.

    Looks through `functools.partial`, methods, callable objects, and objects that hold their function as ``func``
    (workflows do). Names are resolved where the function was written, its closure included.

    Args:
        func: anything that can be called.

    Returns:
        The annotation, ``Annotated`` kept; for a plain function that returns an awaitable, what is awaited. None for
        no annotation, None, Any, or one that can't be resolved. Never raises.
    """
    function = _function_of(func)
    try:
        # Python 3.14 evaluates annotations when they are read, so reading may raise whatever they like.
        annotation: object = cast("Any", function).__annotations__.get("return")
        if annotation is None or isinstance(annotation, type):
            return None if annotation is None or _is_silent(annotation) else annotation
        return _resolved_return(function, annotation)
    except Exception:  # noqa: BLE001  # see above; and an annotation is no reason to fail a call
        return None


def _is_silent(annotation: object) -> bool:
    return annotation is types.NoneType or id(annotation) in _SILENT_IDS


def _function_of(func: object) -> object:
    for _ in range(20):  # a chain of wrappers that is longer is a ring
        if isinstance(func, types.FunctionType | type):
            break
        inner: object = getattr(func, "__func__", None) or getattr(func, "func", None)
        # An object that `functools.wraps` made like a function has annotations of its own, not only of its class.
        if inner is None and "__annotations__" not in getattr(func, "__dict__", ()):
            inner = getattr(type(func), "__call__", None)  # noqa: B004  # the function is wanted, not whether there is one
        if not callable(inner):
            break
        func = inner
    return func


_RETURN_HINTS: Final[weakref.WeakKeyDictionary[object, object]] = weakref.WeakKeyDictionary()


def _resolved_return(function: object, annotation: object) -> object:
    known: object = _RETURN_HINTS.get(function, _RETURN_HINTS)
    if known is not _RETURN_HINTS:
        return known
    inner: Any = inspect.unwrap(cast("Callable[..., Any]", function))
    names: dict[str, object] = {}
    for name, cell in zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
    # The other annotations stay unread: one that only a type checker can resolve must not cost the return hint.
    holder: Any = types.SimpleNamespace(__annotations__={"return": annotation})
    hint: object = typing_extensions.get_type_hints(
        holder, globalns=inner.__globals__, localns=names, include_extras=True
    )["return"]
    if typing.get_origin(hint) in (collections.abc.Awaitable, collections.abc.Coroutine):
        hint = typing.get_args(hint)[-1]
    if _is_silent(hint):
        hint = None
    _RETURN_HINTS[function] = hint
    return hint


# ------------------------------------------------------------------------------------------------ paths


def type_path(cls: type) -> str:
    """
    Name a class so that `resolve_path` finds it again.

    Args:
        cls: any class; a parametrised generic model is named with its arguments.

    Returns:
        ``module.Class``. A class of the running program is named by the stem of the program's file.
    """
    generic: Any = cls.__dict__.get("__pydantic_generic_metadata__") or {}
    if generic.get("origin") is not None:
        arguments = [_describe(argument) for argument in generic["args"]]
        if all(arguments):
            return f"{type_path(generic['origin'])}[{', '.join(cast('list[str]', arguments))}]"
    module = cls.__module__
    return f"{_main_stem(module) if module in _MAINS else module}.{cls.__qualname__}"


def _main_stem(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return _stem(file, module) if file else module  # an interactive session has no file


@functools.cache
def _stem(file: str, module: str) -> str:
    stem = PurePath(file).stem
    # What comes through a pipe is <stdin>; and brackets have a meaning in paths.
    return module if re.search(r"[\[\],<>]|^\s|\s$", stem) else stem


def _describe(hint: object) -> str | None:
    """Give the path of a hint, or None if a path can't say it."""
    if any(hint is scalar for scalar in _SPOKEN.values()):
        return cast("type", hint).__name__
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is list:
        member = _describe(arguments[0])
        return member and f"list[{member}]"
    if typing.get_origin(hint) is dict and arguments[0] is str:
        member = _describe(arguments[1])
        return member and f"dict[str, {member}]"
    return type_path(cast("type", hint)) if is_data_class(hint) else None


def resolve_path(path: str) -> object:
    """
    Find what a recorded path names, importing its module if need be.

    Args:
        path: ``module.Class``, ``list[module.Class]``, ``dict[str, module.Class]``, ``module.Generic[module.Class]``.

    Returns:
        The class, or the generic made of the classes. None if there is no such module or name, if the module can't
        be imported, or if the name isn't a class that describes data.
    """
    words = _words(path)
    if words is None or len(words) == 1:
        return words and _find_class(path)
    found, rest = _parse(list(words))
    return None if rest else found


@functools.lru_cache(maxsize=1_024)
def _words(path: str) -> tuple[str, ...] | None:
    # A name may be that of a file, which holds spaces and hyphens if it likes.
    words = [word.strip() for word in re.findall(r"[^\[\],]+|[\[\],]", path)]
    return tuple(filter(None, words)) or None if len(path) <= _PATH_CHARACTERS_MAX else None


def _parse(words: list[str]) -> tuple[object, list[str]]:
    """Read one type off the front; None if it isn't one that is known."""
    name, rest = words[0], words[1:]
    found = _SPOKEN.get(name) or {"list": list, "dict": dict}.get(name) or _find_class(name)
    if not rest or rest[0] != "[":
        return (None if found in (list, dict) else found), rest
    arguments: list[object] = []
    while rest and rest[0] in "[,":
        if len(rest) < 2:
            return None, rest
        argument, rest = _parse(rest[1:])
        arguments.append(argument)
    if not rest or rest[0] != "]" or found is None or None in arguments:
        return None, rest
    return _parametrised(found, arguments), rest[1:]


def _parametrised(found: object, arguments: list[object]) -> object:
    if found is list:
        return types.GenericAlias(list, (arguments[0],)) if len(arguments) == 1 else None
    if found is dict:
        return types.GenericAlias(dict, tuple(arguments)) if len(arguments) == 2 and arguments[0] is str else None
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        return None
    try:
        return cast("Any", found)[tuple(arguments)]
    except TypeError:  # the model isn't generic any more, or takes other arguments
        return None


def _find_class(name: str) -> type | None:
    if "<locals>" in name:  # no namespace holds what a function made
        return None
    splits = _splits(name)
    # Loaded modules come first, so that none is imported in vain.
    for module_name, names in splits:
        for known in (*_mains_called(module_name), module_name):
            loaded = sys.modules.get(known)
            found = None if loaded is None else _member(loaded, names)
            if found is not None:
                return found
    for module_name, names in splits:
        module = _imported(module_name)
        if module is not None:
            return _member(module, names)
    return None


@functools.lru_cache(maxsize=1_024)
def _splits(name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Give the ways to part a name into module and class: which parts are modules can't be seen from it."""
    parts = name.split(".")
    if not all(parts):
        return ()
    return tuple((".".join(parts[:split]), tuple(parts[split:])) for split in range(len(parts) - 1, 0, -1))


def _mains_called(stem: str) -> list[str]:
    return [main for main in _MAINS if main in sys.modules and _main_stem(main) == stem]


def _imported(name: str) -> types.ModuleType | None:
    try:
        if any(_is_file_of(main, name) for main in _mains_called(name)):
            return None  # a program without a main guard would start once more, inside itself
        return importlib.import_module(name)
    except Exception:  # noqa: BLE001  # a module is a program: without its settings it may raise whatever it likes
        return None


def _is_file_of(main: str, name: str) -> bool:
    """Tell whether importing a name would run the program's own file; another may have the same stem."""
    found = importlib.util.find_spec(name)
    file = getattr(sys.modules[main], "__file__", None)  # an interactive session has none
    if found is None or found.origin is None or file is None:
        return False
    return Path(found.origin).resolve() == Path(file).resolve()


def _member(module: types.ModuleType, names: tuple[str, ...]) -> type | None:
    """Look into namespaces only: `getattr` would call what modules and metaclasses define."""
    found: object = module
    for name in names:
        found = vars(found).get(name) if isinstance(found, (type, types.ModuleType)) else None
    return cast("type", found) if is_data_class(found) else None

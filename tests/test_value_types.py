"""
Hints and paths: what an annotation says, and how a class is found again.

What depends on how a program was started (its own file, another hash seed) runs in processes of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import subprocess
import sys
import textwrap
import types
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import pytest
from polos.value_types import admits, is_data_class, resolve_path, return_hint, shape_of, type_path
from pydantic import BaseModel
from typing_extensions import TypedDict

from tests.ids import stable_id

if TYPE_CHECKING:
    from somewhere import Unknown  # type: ignore[import-not-found]  # that it can't be resolved is the case

HERE = __name__
T = TypeVar("T")


class Item(BaseModel):
    """A model."""

    n: int

    class Part(BaseModel):
        """A nested model."""

        n: int


class Box(BaseModel, Generic[T]):
    """A generic model."""

    content: T


@dataclasses.dataclass
class Record:
    """A dataclass."""

    n: int


class Row(TypedDict):
    """A TypedDict."""

    n: int


class Thing:
    """A class that isn't data, with one in it that is."""

    Inner = Item
    instance = Item(n=1)


class Eager(type):
    """A metaclass that runs code when an attribute is asked for."""

    def __getattr__(cls, name: str) -> object:
        raise AssertionError(f"{name} was asked for")


class Trap(metaclass=Eager):
    """A class whose missing attributes run code."""


# ------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    ("cls", "path"),
    [
        (Item, f"{HERE}.Item"),
        (Item.Part, f"{HERE}.Item.Part"),
        (Record, f"{HERE}.Record"),
        (Row, f"{HERE}.Row"),
        (Box[Item], f"{HERE}.Box[{HERE}.Item]"),
        (Box[list[Item]], f"{HERE}.Box[list[{HERE}.Item]]"),
        (Box[dict[str, int]], f"{HERE}.Box[dict[str, int]]"),
    ],
    ids=stable_id,
)
def test_path_leads_back(cls: type, path: str):
    """The path of a class leads back to it, nested and generic ones included."""
    assert path == type_path(cls)
    assert cls == resolve_path(path)


def test_path_of_containers():
    """Lists and dicts of a class are found as what they are."""
    assert list[Item] == resolve_path(f"list[{HERE}.Item]")
    assert dict[str, list[Item]] == resolve_path(f"dict[str, list[{HERE}.Item]]")


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "Item", "os.system", "os.path.join", "sys.modules", "builtins.eval", "json.JSONDecoder",
        f"{HERE}.pytest", f"{HERE}.Thing", f"{HERE}.Thing.instance", f"{HERE}.Thing.instance.n", f"{HERE}.Trap.Missing",
        f"{HERE}.HERE", f"{HERE}.Nothing", f"{HERE}.Item.__class__", "no_such_module.Item", f"{HERE}.f.<locals>.Item",
        "list", "dict", "list[", "list[]", f"list[{HERE}.Item", f"list[{HERE}.Item]]", f"list[{HERE}.Item,", "[", "]",
        f"list[{HERE}.Item, {HERE}.Item]", f"dict[{HERE}.Item]", f"dict[int, {HERE}.Item]", f"set[{HERE}.Item]",
        f"{HERE}.Item[{HERE}.Item]", f"{HERE}.Box[{HERE}.Item, {HERE}.Item]", f"{HERE}.Record[int]", f"list[{HERE}.No]",
        "list[" * 200 + "int" + "]" * 200, "a b.C", "os;import sys.X", "int[int]",
    ],
)  # fmt: skip
def test_path_to_something_else_gives_nothing(path: str):
    """A path that isn't one, or leads to something that isn't a class of data, gives None and calls nothing."""
    assert resolve_path(path) is None


def test_alias_in_a_class_is_found():
    """A class is also found under another name that it stands under."""
    assert Item is resolve_path(f"{HERE}.Thing.Inner")


def test_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module that isn't loaded is imported; one that raises whatever it likes gives nothing."""
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package" / "__init__.py").write_text("raise_it = True")
    (tmp_path / "some_package" / "good.py").write_text(
        "import dataclasses\n@dataclasses.dataclass\nclass Made:\n    class In: pass\n    n: int = 0\n"
    )
    (tmp_path / "some_package" / "bad.py").write_text("raise KeyError('a setting is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("some_package", "some_package.good", "some_package.bad"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    found = resolve_path("some_package.good.Made")

    assert is_data_class(found)
    assert found is resolve_path("some_package.good.Made")
    assert resolve_path("some_package.bad.Made") is None
    assert resolve_path("some_package.good.Made.In") is None


SHOP = """
    import sys
    from pydantic import BaseModel
    from polos.value_types import resolve_path, type_path

    class Order(BaseModel):
        n: int

    print("loaded", __name__)
    if __name__ == "__main__":
        import helper
        print(type_path(Order), resolve_path("shop.Order") is Order, "shop" in sys.modules)
        print(type_path(helper.Part), resolve_path("helper.Part") is helper.Part)
"""
HELPER = """
    from pydantic import BaseModel

    class Part(BaseModel):
        n: int
"""


def run(tmp_path: Path, root: Path, *arguments: str) -> str:
    """Run Python in a folder, with polos on its path."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_main_is_named_by_its_file(tmp_path: Path, root: Path):
    """A class of the running program is named by the file, found in `__main__` without importing that file again."""
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))
    (tmp_path / "helper.py").write_text(textwrap.dedent(HELPER))
    expected = "loaded __main__\nshop.Order True False\nhelper.Part True\n"

    assert expected == run(tmp_path, root, "shop.py")
    assert expected == run(tmp_path, root, "-m", "shop")


@pytest.mark.parametrize("stem", ["my-shop", "my shop", "2.shop", "été"])
def test_file_of_any_name(tmp_path: Path, root: Path, stem: str):
    """The file of a program may have a name that no import statement could hold."""
    (tmp_path / f"{stem}.py").write_text(textwrap.dedent(SHOP).replace("shop", stem))
    (tmp_path / "helper.py").write_text(textwrap.dedent(HELPER))

    assert f"loaded __main__\n{stem}.Order True False\nhelper.Part True\n" == run(tmp_path, root, f"{stem}.py")


@pytest.mark.parametrize("stem", ["shop[1]", "shop ", "a,b"])
def test_file_of_a_name_that_a_path_can_not_hold(tmp_path: Path, root: Path, stem: str):
    """A program whose file has a name with a meaning in paths is called `__main__`."""
    program = textwrap.dedent(SHOP).replace("shop.Order", "__main__.Order")
    (tmp_path / f"{stem}.py").write_text(program)
    (tmp_path / "helper.py").write_text(textwrap.dedent(HELPER))

    assert "loaded __main__\n__main__.Order True False\nhelper.Part True\n" == run(tmp_path, root, f"{stem}.py")


UNGUARDED = """
    from pydantic import BaseModel
    from polos.value_types import resolve_path, type_path

    print("loaded", __name__)

    def make():
        class Local(BaseModel):
            n: int
        return Local

    print(type_path(make()), resolve_path(type_path(make())), resolve_path("shop.Gone"), resolve_path("other.Gone"))
"""


def test_main_without_a_guard_runs_once(tmp_path: Path, root: Path):
    """A class that the running program doesn't have, or has inside a function only, is no reason to import it."""
    (tmp_path / "shop.py").write_text(textwrap.dedent(UNGUARDED))
    (tmp_path / "other.py").write_text("")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "shop.py").symlink_to(tmp_path / "shop.py")
    expected = "loaded __main__\nshop.make.<locals>.Local None None None\n"

    for arguments in (["shop.py"], ["-m", "shop"], ["linked/shop.py"]):
        assert expected == run(tmp_path, root, *arguments)


def test_a_class_in_a_function_is_no_reason_to_import(tmp_path: Path, root: Path):
    """No module holds what a function made, so none is imported to look for it."""
    (tmp_path / "shop.py").write_text(textwrap.dedent(UNGUARDED))
    look = "from polos.value_types import resolve_path; print(resolve_path('shop.make.<locals>.Local'))"

    assert "None\n" == run(tmp_path, root, "-c", look)


def test_main_of_another_program_is_imported(tmp_path: Path, root: Path):
    """What a program recorded of its own file, another program finds by importing that file."""
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))
    look = "from polos.value_types import resolve_path as find; order = find('shop.Order'); "
    look += "print(order.__module__, find('shop.Order') is order)"

    assert "loaded shop\nshop True\n" == run(tmp_path, root, "-c", look)


def test_main_without_a_file(tmp_path: Path, root: Path):
    """In a session without a file the program's own classes are named `__main__`, and are found while it lasts."""
    (tmp_path / "unused.txt").write_text("")
    say = "import sys; from pydantic import BaseModel; from polos.value_types import *; "
    say += (
        "C = type('C', (BaseModel,), {'__module__': '__main__'}); print(type_path(C), resolve_path('__main__.C') is C)"
    )

    assert "__main__.C True\n" == run(tmp_path, root, "-c", say)


def test_class_of_the_same_stem_elsewhere(tmp_path: Path, root: Path):
    """A module with the stem of the program's file is still found where the program doesn't have the class."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "helper.py").write_text(textwrap.dedent(HELPER))
    main = "import sys; sys.path.pop(0); from polos.value_types import resolve_path; print(resolve_path('helper.Part'))"
    (tmp_path / "inner" / "helper.py").write_text(main)

    assert "<class 'helper.Part'>\n" == run(tmp_path, root, "inner/helper.py")


# ------------------------------------------------------------------------------------------------ hints


class Narrow(Item):
    """A narrower model."""


def test_admits():
    """A hint admits the types whose values are values of it."""
    yes: list[tuple[object, object]] = [
        (Item, Narrow),
        (Item | None, Narrow),
        (list[Item], list[Narrow]),
        (dict[str, Item], dict[str, Narrow]),
    ]
    yes += [(Annotated[Item, 1], Narrow), (list, list[Item]), (Any, Item), (T, Item), (object, list[Item])]
    no: list[tuple[object, object]] = [
        (Narrow, Item),
        (None, Item),
        (list[Narrow], list[Item]),
        (tuple[Item, ...], list[Item]),
        (Item, list[Item]),
    ]
    no += [(dict[str, Item], list[Item]), (list[Item], Item), (int, Item), (int | str, Item), (Row, Item)]

    assert [] == [pair for pair in yes if not admits(*pair)]
    assert [] == [pair for pair in no if admits(*pair)]


def test_recursive_typed_dict_ends():
    """A TypedDict that holds itself is looked at once."""
    assert shape_of(Tree) is None
    assert shape_of(list[Tree]) is None


class Tree(TypedDict):
    """A TypedDict that holds itself."""

    branches: list[Tree]


@dataclasses.dataclass
class Incomplete:
    """A dataclass with a field that can't be resolved."""

    field: Unknown


class Broken(TypedDict):
    """A TypedDict with a field that can't be resolved."""

    field: Unknown


def test_hint_that_can_not_be_used_says_nothing():
    """Hints that Pydantic doesn't know, or that raise when it looks at them, say nothing instead of raising."""

    class Raising:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: object, handler: object) -> object:
            raise LookupError("no schema today")

    for hint in (Thing, Raising, list[Raising], Broken, Incomplete, lambda: None, 7, Box["Unknown"]):
        assert shape_of(hint) is None


def test_hint_that_is_completed_later():
    """A hint whose names don't exist yet is looked at anew when they do."""
    space: dict[str, Any] = {"BaseModel": BaseModel, "__name__": "later"}
    exec("class Early(BaseModel):\n    late: 'Late'\n", space)
    early = space["Early"]

    assert shape_of(types.GenericAlias(dict, (int, early))) is None

    exec("class Late(BaseModel):\n    n: int\n", space)
    early.model_rebuild(_types_namespace=space)

    assert shape_of(types.GenericAlias(dict, (int, early))) is not None


# --------------------------------------------------------------------------------------------- results


def plain() -> int:
    """Say int."""
    return 1


def silent():
    """Say nothing."""


def nothing() -> None:
    """Say None."""


def anything() -> Any:
    """Say Any."""


def unresolvable() -> Unknown:
    """Say what can't be resolved."""


def half_resolvable(argument: Unknown) -> list[Item]:
    """Say something, next to what can't be resolved."""
    return [argument]


def awaitable() -> Awaitable[Item]:
    """Say what is awaited."""
    raise NotImplementedError


def coroutine() -> Coroutine[Any, Any, list[Item]]:
    """Say what is awaited."""
    raise NotImplementedError


async def asynchronous() -> Item:
    """Say a model."""
    return Item(n=1)


def annotated() -> Annotated[int, "kept"]:
    """Say more than a type."""
    return 1


def broken() -> 1 + None:  # type: ignore[valid-type]  # that it raises is the case
    """Say something that raises."""


@functools.wraps(half_resolvable)
def wrapped(*args: Any) -> Any:
    """Say what the wrapped function says."""
    return half_resolvable(*args)


class Callable:
    """A callable object with methods, whose class has annotations of its own."""

    n: int = 1

    def __call__(self) -> Item:
        """Say a model."""
        return Item(n=1)

    def method(self) -> Item:
        """Say a model."""
        return Item(n=1)

    @classmethod
    def made(cls) -> Item:
        """Say a model."""
        return Item(n=1)

    @staticmethod
    def static() -> Item:
        """Say a model."""
        return Item(n=1)


class Ring:
    """A callable that says it is a wrapper of itself."""

    def __init__(self) -> None:
        self.func = self

    def __call__(self) -> Item:
        """Say what nobody gets to."""
        return Item(n=1)


RETURNS: list[tuple[object, object]] = [
    (plain, int),
    (silent, None),
    (nothing, None),
    (anything, None),
    (unresolvable, None),
    (broken, None),
    (half_resolvable, list[Item]),
    (awaitable, Item),
    (coroutine, list[Item]),
    (asynchronous, Item),
    (annotated, Annotated[int, "kept"]),
    (wrapped, list[Item]),
    (functools.partial(functools.partial(plain), 1), int),
    (functools.partial(Callable()), Item),
    (Callable(), Item),
    (Callable().method, Item),
    (Callable.method, Item),
    (Callable.made, Item),
    (Callable.static, Item),
    (types.SimpleNamespace(func=asynchronous), Item),
    (functools.cache(plain), int),
    (functools.cache(half_resolvable), list[Item]),
    (len, None),
    (asyncio.sleep, None),
    ("no function", None),
    (None, None),
    (Ring(), None),
    (lambda: 1, None),
]


@pytest.mark.parametrize(("func", "hint"), RETURNS, ids=[str(number) for number in range(len(RETURNS))])
def test_return_hint(func: object, hint: object):
    """What a callable says that it returns is found through wrappers, twice the same, and never raises."""
    assert hint == return_hint(func)
    assert hint == return_hint(func)


def test_return_hint_of_a_local_class():
    """A class of the enclosing function is found through the closure, a variable without a value isn't missed."""

    class Local(BaseModel):
        n: int

    def make() -> list[Local]:
        return [Local(n=len(str(later)))]

    assert list[Local] == return_hint(make)

    later = 1

    assert [Local(n=1)] == make()


def test_return_hint_does_not_keep_functions():
    """Nothing about a function is kept longer than the function."""
    import gc
    import weakref

    def passing() -> list[Item]:
        return []

    return_hint(passing)
    gone = weakref.ref(passing)
    del passing
    gc.collect()

    assert gone() is None

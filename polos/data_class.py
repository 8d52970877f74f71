"""
Data classes that are made quickly, of which and by which polos makes very many.

To type checkers `dataclass` is that of the standard library, and its `frozen` is kept by them: nothing in polos assigns
to a field of a frozen class. At run time nothing refuses it, because that refusal costs each instance a call for each
field, twice what making it costs otherwise, at some twenty instances a step; and each class three of the functions that
the standard library compiles for it, a third of what `import polos` took. What a class compares, hashes and shows is
here for all of them, instead of compiled for each. Classes that programs are given keep the standard library's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses
    from collections.abc import Callable
    from operator import attrgetter
    from types import GenericAlias

    def dataclass(cls: type | None = None, /, *, frozen: bool = False, eq: bool = True, **options: Any) -> Any:
        """Make a data class; the options that are used in polos mean what they mean in the standard library."""
        if cls is None:
            return lambda found: dataclass(found, frozen=frozen, eq=eq, **options)
        own = vars(cls).keys() & {"__eq__", "__hash__", "__repr__"}
        for field in vars(cls).values():
            if isinstance(field, dataclasses.Field) and isinstance(field.default_factory, GenericAlias):
                field.default_factory = field.default_factory.__origin__  # `dict[str, int]()` takes six times `dict()`
        made = dataclasses.dataclass(eq=False, repr=False, **options)(cls)
        if "__repr__" not in own:
            made.__repr__ = _repr
        if eq and "__eq__" not in own:
            compared = [field.name for field in dataclasses.fields(made) if field.compare]
            made.__eq__, hashing = _by_values(_values_of(compared))
            if "__hash__" not in own:
                made.__hash__ = hashing if frozen else None
        return made

    def _values_of(names: list[str]) -> Callable[[Any], tuple[object, ...]]:
        """Give what gives the values of some attributes."""
        if len(names) > 1:
            return attrgetter(*names)
        return lambda self: tuple([getattr(self, name) for name in names])

    def _by_values(values: Callable[[Any], object]) -> tuple[Callable[..., Any], Callable[..., int]]:
        """Give what compares and what hashes instances by their values."""

        def equals(self: Any, other: object) -> Any:
            return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

        return equals, lambda self: hash(values(self))

    def _repr(self: Any) -> str:
        shown = [f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr]
        return f"{type(self).__qualname__}({', '.join(shown)})"


__all__ = ["dataclass"]

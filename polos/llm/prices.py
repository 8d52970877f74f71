"""
What a call of a model costs.

Money is an integer of **micro-dollars** (a millionth of a dollar), rounded up once a call: sums of integers are exact
in every order, and a budget that is counted so is never overrun by rounding. Prices are dollars for a million tokens,
which is the same number as micro-dollars for one token; they are read as decimals and kept as integers, a millionth
of that.

The figures that come with polos stand in `prices.json`, each with its source and the day on which that was read. They
are list prices of the standard tier; fees of a provider's own tools, batches and other tiers aren't in them. A model
that isn't in the table costs None, which is not 0: nobody knows.

A model is found by its name, also followed by a date or `latest` (`gpt-5-2025-08-07` is a `gpt-5`), and by the longest
entry that ends in `*`. `gpt-5-mini` is no `gpt-5`: a name that merely begins alike is another model at another price.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, Final

from polos.errors import PolosUsageError
from polos.llm.jsonish import a_number, a_text, an_object, json_file
from polos.types.llm import Usage

__all__ = ["ModelPrice", "PriceTable", "default_prices", "set_prices"]

_MILLION: Final = 1_000_000
_FOUND_MAX: Final = 1_000
_FIGURE_MAX: Final = 10**15
_SHOWN_CHARACTERS: Final = 200
_FIELDS: Final = ("input", "output", "cache_read", "cache_write")
_VERSION: Final = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """
    What a model's tokens cost, each in dollars for 10¹² tokens, which is millionths of a micro-dollar for one.

    Attributes:
        input: what is sent and neither read from a cache nor written to one.
        output: what is made.
        cache_read: what is read from the provider's cache; the price of input if it has none of its own.
        cache_write: what is written to it; likewise.
        above_tokens: with more input than this, the whole call has the prices of `above`; None if length doesn't count.
        above: those prices; None if they aren't known.
        source: where the figures stand, and when they were read.
    """

    input: int
    output: int
    cache_read: int
    cache_write: int
    above_tokens: int | None = None
    above: ModelPrice | None = None
    source: str | None = None

    def cost_microdollars(self, usage: Usage) -> int | None:
        """
        Give what a call costs.

        Args:
            usage: of one call; the price of long prompts is one of each call alone.

        Returns:
            Micro-dollars, rounded up; None if so long a prompt has a price that isn't known.
        """
        if self.above_tokens is not None and usage.input_tokens > self.above_tokens:
            return None if self.above is None else self.above.cost_microdollars(usage)
        read = usage.cache_read_input_tokens or 0
        written = usage.cache_creation_input_tokens or 0
        plain = max(usage.input_tokens - read - written, 0)
        total = (
            plain * self.input + read * self.cache_read + written * self.cache_write + usage.output_tokens * self.output
        )
        return -(-total // _MILLION)

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON, to be recorded."""
        return asdict(self)

    @classmethod
    def of(cls, told: dict[str, Any]) -> ModelPrice:
        """Read what `to_json` gave."""
        above = told["above"]
        return replace(cls(**told), above=None if above is None else cls.of(above))


class PriceTable:
    """
    Prices of models.

    ```python run
    from polos import Usage
    from polos.llm import default_prices

    prices = default_prices().with_prices({"my-model*": {"input": "0.50", "output": 1.5}})
    usage = Usage(input_tokens=1_000_000, output_tokens=2_000)
    print(prices.cost_microdollars("my-model-7b", usage), prices.cost_microdollars("another", usage))
    ```
    """

    def __init__(self, prices: Mapping[str, ModelPrice]) -> None:
        """Take the prices by the model's name, or by how it begins, with a `*` behind."""
        self._prices = dict(prices)
        self._found: dict[str, ModelPrice | None] = {}  # what was looked for before: every call of a model asks twice

    def price_of(self, model: str) -> ModelPrice | None:
        """Give the price of a model; None if it isn't known."""
        if model not in self._found:
            if len(self._found) >= _FOUND_MAX:
                self._found.clear()
            self._found[model] = self._look_for(model)
        return self._found[model]

    def _look_for(self, model: str) -> ModelPrice | None:
        exact = self._prices.get(model)
        if exact is not None:
            return exact
        versions = [name for name in self._prices if model.startswith(name) and _VERSION.fullmatch(model[len(name) :])]
        open_ended = [name for name in self._prices if name.endswith("*") and model.startswith(name[:-1])]
        found = max(versions, key=len, default=None) or max(open_ended, key=len, default=None)
        return None if found is None else self._prices[found]

    def cost_microdollars(self, model: str, usage: Usage) -> int | None:
        """
        Give what a call costs.

        Args:
            model: the model that was asked.
            usage: of that one call.

        Returns:
            Micro-dollars, rounded up; None if the price of the model isn't known.
        """
        price = self.price_of(model)
        return None if price is None else price.cost_microdollars(usage)

    def with_prices(self, prices: Mapping[str, Any] | str | Path) -> PriceTable:
        """
        Give a table in which some prices are others.

        Args:
            prices: by model, `{"input", "output", "cache_read", "cache_write"}` in dollars for a million tokens, as
                numbers or text, the last two optional; or a file of them, in the form of `prices.json`.

        Raises:
            PolosUsageError: that is no table of prices; the message names the entry.
        """
        if isinstance(prices, str | Path):
            try:
                read = _read(json_file(Path(prices)))
            except (OSError, ValueError, RecursionError, PolosUsageError) as problem:
                # The last but one where an entry that is to be shown has brackets in brackets in brackets.
                raise PolosUsageError(
                    f"{prices} is no table of prices: {problem}; write it as polos/llm/prices.json is written, "
                    "or unset POLOS_PRICES_FILE if that names it"
                ) from problem
            return PriceTable({**self._prices, **read})
        return PriceTable({**self._prices, **_read({"models": dict(prices)})})


def default_prices() -> PriceTable:
    """
    Give the prices that hold in this process; an example stands at `PriceTable`.

    They are those that come with polos, before them those of the file that `POLOS_PRICES_FILE` names, and before
    both those that `set_prices` was given.

    Raises:
        PolosUsageError: that file is no table of prices.
    """
    return _given.get("table") or _environment_prices(os.environ.get("POLOS_PRICES_FILE"))


def set_prices(prices: Mapping[str, Any] | str | Path | None) -> None:
    """
    Have some prices of this process be others, as for a model of your own or a contract with a provider.

    ```python run
    from polos import Usage
    from polos.llm import default_prices, set_prices

    set_prices({"our-model": {"input": "0.10", "output": "0.20"}})
    print(default_prices().cost_microdollars("our-model", Usage(input_tokens=1_000, output_tokens=1_000)))
    ```

    Args:
        prices: as for `PriceTable.with_prices`; None for none but those that come with polos or stand in the file.

    Raises:
        PolosUsageError: that is no table of prices.
    """
    _given.clear()
    if prices is not None:
        _given["table"] = default_prices().with_prices(prices)


# Definitions of the program, like its agents.
_given: dict[str, PriceTable] = {}


@functools.cache
def _environment_prices(path: str | None) -> PriceTable:
    return _own_prices().with_prices(path) if path else _own_prices()


@functools.cache
def _own_prices() -> PriceTable:
    text = resources.files("polos.llm").joinpath("prices.json").read_text(encoding="utf-8")
    return PriceTable(_read(json.loads(text)))


def _read(told: Any) -> dict[str, ModelPrice]:
    table = an_object(told) or {}
    models = an_object(table.get("models"))
    if models is None:
        raise PolosUsageError('a table of prices is an object with "models"')
    sources = an_object(table.get("sources")) or {}
    return {name: _price(name, entry, sources) for name, entry in models.items()}


def _price(name: str, told: Any, sources: dict[str, Any]) -> ModelPrice:
    entry = an_object(told)
    if entry is None:
        raise PolosUsageError(f"the price of {name!r} must be an object, it is {_shown(told)}")
    unknown = sorted(set(entry) - {*_FIELDS, "above", "source"})
    if unknown:
        raise PolosUsageError(f"the price of {name!r} has no {', '.join(unknown)}")
    price = _figures(name, entry, _source(name, entry.get("source"), sources))
    if entry.get("above") is None:
        return price
    above = an_object(entry["above"]) or {}
    if a_number(above.get("input_tokens")) is None:
        raise PolosUsageError(f'the price of {name!r} for "above" must be an object with "input_tokens"')
    dearer = None if set(above) == {"input_tokens"} else _figures(f"{name} above", above, price.source)
    return replace(price, above_tokens=above["input_tokens"], above=dearer)


def _figures(name: str, entry: Mapping[str, Any], source: str | None) -> ModelPrice:
    figures: dict[str, int] = {}
    for field in _FIELDS:
        told = entry.get(field)
        if told is not None:
            figures[field] = _figure(name, field, told)
        elif field in ("input", "output"):
            raise PolosUsageError(f"the price of {name!r} needs {field!r}")
        else:
            figures[field] = figures["input"]
    return ModelPrice(
        input=figures["input"],
        output=figures["output"],
        cache_read=figures["cache_read"],
        cache_write=figures["cache_write"],
        source=source,
    )


def _figure(name: str, field: str, told: object) -> int:
    try:
        millionths = Decimal(str(told)) * _MILLION
        is_price = millionths.is_finite() and 0 <= millionths <= _FIGURE_MAX and not millionths % 1
    except ArithmeticError:
        raise PolosUsageError(f"the price of {name!r} for {field!r} must be a number, it is {_shown(told)}") from None
    if not is_price:
        what = "dollars with at most six decimals, and less than a billion"
        raise PolosUsageError(f"the price of {name!r} for {field!r} must be {what}, it is {_shown(told)}")
    return int(millionths)


def _source(name: str, told: object, sources: dict[str, Any]) -> str | None:
    if told is None:
        return None
    source = a_text(told)
    if source is None:
        raise PolosUsageError(f"the price of {name!r} for 'source' must be the name of a source, it is {_shown(told)}")
    if source not in sources:
        return None
    found = an_object(sources[source]) or {}
    where, read_on = a_text(found.get("where")), a_text(found.get("read_on"))
    if where is None or read_on is None:
        raise PolosUsageError(f'the source {source!r} must be an object with the texts "where" and "read_on"')
    return f"{where}, read {read_on}"


def _shown(told: object) -> str:
    """Give what stands there, so that it can be found; not all of it if that is much."""
    text = repr(told)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"

"""Tests of prices: exact money, unknown models, and the table that comes with polos."""

from __future__ import annotations

import json
from decimal import Decimal
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polos.errors import PolosUsageError
from polos.llm import ModelPrice, PriceTable, default_prices, set_prices
from polos.types import Usage

TABLE = PriceTable({}).with_prices(
    {
        "small": {"input": "0.15", "output": "0.60", "cache_read": "0.075", "cache_write": "0.1875"},
        "small-pro": {"input": 100, "output": 200},
        "plain": {"input": 1, "output": 2.5},
        "local/*": {"input": 0, "output": 0},
        "local/big*": {"input": 1, "output": 1},
        "long": {"input": 1, "output": 1, "above": {"input_tokens": 10, "input": 2, "output": 3}},
        "longer": {"input": 1, "output": 1, "above": {"input_tokens": 10}},
    }
)


def usage(read: int, written: int, cache_read: int | None = None, cache_write: int | None = None) -> Usage:
    """Make the usage of a call."""
    return Usage(
        input_tokens=read, output_tokens=written, total_tokens=read + written, cache_read_input_tokens=cache_read,
        cache_creation_input_tokens=cache_write,
    )  # fmt: skip


def price(table: PriceTable, model: str) -> ModelPrice:
    """Give the price of a model that is known."""
    found = table.price_of(model)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("model", "used", "cost"),
    [
        ("small", usage(1_000_000, 0), 150_000),
        ("small", usage(0, 1_000_000), 600_000),
        ("small", usage(1_000_000, 0, 1_000_000), 75_000),
        ("small", usage(1_000_000, 0, 400_000, 600_000), 30_000 + 112_500),
        ("small", usage(1_000_000, 0, 400_000, 100_000), 75_000 + 30_000 + 18_750),
        ("small", usage(1, 0), 1),  # 0.15 of a micro-dollar
        ("small", usage(0, 0), 0),
        ("plain", usage(1_000, 1_000, 500, 500), 3_500),  # no price of its own: that of input
        ("local/tiny", usage(10**9, 10**9), 0),
        ("local/big-7b", usage(5, 0), 5),
        ("long", usage(10, 10), 20),
        ("long", usage(11, 10), 52),
        ("longer", usage(10, 10), 20),
        ("longer", usage(11, 10), None),
        ("unknown", usage(10, 10), None),
        ("unknown", usage(0, 0), None),
    ],
)
def test_cost_of_a_call(model, used, cost):
    """A call costs micro-dollars, rounded up once; what nobody knows costs None and never 0."""
    assert cost == TABLE.cost_microdollars(model, used)


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("small", True),
        ("small-2025-08-07", True),
        ("small-20250807", True),
        ("small-0613", True),
        ("small-latest", True),
        ("small@20250807", True),
        ("small-mini", False),
        ("small-pro-2025-08-07", True),
        ("small-2025-08-07-mini", False),
        ("smaller", False),
        ("Small", False),
        ("", False),
    ],
)
def test_names_with_a_date_are_the_model(model, known):
    """A model's dated name is found; a name that merely begins alike is another model."""
    found = TABLE.price_of(model)

    assert known == (found is not None)
    assert not known or found == TABLE.price_of("small-pro" if "pro" in model else "small")


@given(
    read=st.integers(0, 10**9),
    cached=st.integers(0, 10**9),
    written=st.integers(0, 10**9),
    price=st.decimals(0, 1000, places=6),
)
def test_cost_is_the_exact_one_rounded_up(read, cached, written, price):
    """For any usage and price the cost is the exact sum, never below it and less than a micro-dollar above."""
    table = PriceTable({}).with_prices({"m": {"input": str(price), "output": "3.000001", "cache_read": "0.1"}})
    exact = read * price + cached * Decimal("0.1") + written * Decimal("3.000001")

    cost = table.cost_microdollars("m", usage(read + cached, written, cached))

    assert cost is not None
    assert exact <= cost < exact + 1


@pytest.mark.parametrize(
    ("prices", "what"),
    [
        ({"m": 3}, "'m' must be an object"),
        ({"m": {"output": 1}}, "'m' needs 'input'"),
        ({"m": {"input": 1}}, "'m' needs 'output'"),
        ({"m": {"input": "free", "output": 1}}, "'m' for 'input' must be a number"),
        ({"m": {"input": 1, "output": -1}}, "'m' for 'output' must be dollars"),
        ({"m": {"input": "nan", "output": 1}}, "'m' for 'input' must be dollars"),
        ({"m": {"input": "0.0000001", "output": 1}}, "at most six decimals"),
        ({"m": {"input": 1, "output": 1, "cached": 1}}, "'m' has no cached"),
        ({"m": {"input": 1, "output": 1, "above": {}}}, "'above' must be|\"above\" must be"),
        ({"m": {"input": 1, "output": 1, "above": {"input_tokens": 1, "input": 1}}}, "'m above' needs 'output'"),
    ],
)
def test_tables_that_are_none_are_refused(prices, what):
    """What isn't a price is refused, with the entry's name."""
    with pytest.raises(PolosUsageError, match=what):
        TABLE.with_prices(prices)


def test_a_file_of_prices(tmp_path):
    """A file in the form of ours replaces what it names and leaves the rest."""
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"models": {"plain": {"input": 7, "output": 7}}}))

    table = TABLE.with_prices(path)

    assert (7_000_000, 150_000) == (price(table, "plain").input, price(table, "small").input)
    assert 1_000_000 == price(TABLE, "plain").input


@pytest.mark.parametrize("text", ["no json", "[]", "{}"])
def test_files_that_are_no_tables_are_refused(tmp_path, text):
    """A file that is no table of prices is refused."""
    path = tmp_path / "prices.json"
    path.write_text(text)

    with pytest.raises(PolosUsageError, match="table of prices"):
        TABLE.with_prices(str(path))
    with pytest.raises(PolosUsageError, match=r"missing\.json is no table"):
        TABLE.with_prices(tmp_path / "missing.json")


@pytest.fixture(name="own_prices")
def _own_prices(monkeypatch):
    """Leave the prices of the process as they were."""
    monkeypatch.delenv("POLOS_PRICES_FILE", raising=False)
    yield
    set_prices(None)


@pytest.mark.usefixtures("own_prices")
def test_prices_of_a_process(tmp_path, monkeypatch):
    """A file that the environment names counts before the figures of polos, and what the program says before both."""
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"models": {"gpt-4o": {"input": 7, "output": 7}, "ours": {"input": 1, "output": 1}}}))
    one = usage(1, 0)
    before = default_prices().cost_microdollars("gpt-4o", one)
    monkeypatch.setenv("POLOS_PRICES_FILE", str(path))
    from_file = [default_prices().cost_microdollars(name, one) for name in ("gpt-4o", "ours", "o1")]
    set_prices({"ours": {"input": 9, "output": 9}})
    said = [default_prices().cost_microdollars(name, one) for name in ("gpt-4o", "ours", "o1")]
    set_prices(None)

    assert (3, [7, 1, 15], [7, 9, 15]) == (before, from_file, said)
    assert 1 == default_prices().cost_microdollars("ours", one)


@pytest.mark.usefixtures("own_prices")
def test_what_was_said_before_is_forgotten():
    """What a program says of prices replaces what it said before, and nothing is kept of what was refused."""
    set_prices({"ours": {"input": 9, "output": 9}})
    set_prices({"theirs": {"input": 9, "output": 9}})
    with pytest.raises(PolosUsageError):
        set_prices({"ours": {}})

    assert default_prices().price_of("ours") is None


def test_the_table_that_comes_with_polos():
    """Every figure has a source with a day; reading from a cache never costs more than input."""
    told = json.loads(resources.files("polos.llm").joinpath("prices.json").read_text(encoding="utf-8"))
    prices = {name: price(default_prices(), name) for name in told["models"]}

    assert all(one.source and "read 20" in one.source for one in prices.values())
    assert all(0 < one.input <= one.output for one in prices.values())
    assert all(one.cache_read <= one.input <= one.cache_write for one in prices.values())
    assert set(told["sources"]) == {entry["source"] for entry in told["models"].values()}


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("gpt-4o-mini-2024-07-18", 150_000),
        ("claude-sonnet-4-5-20250929", None),  # a million tokens are a long prompt, whose price isn't in the table
        ("claude-haiku-5-5", 500_000),
        ("claude-opus-4-20250514", 15_000_000),
        ("claude-opus-4-1-20250805", 15_000_000),
        ("gpt-6-astra", 20_000_000),
        ("gpt-5-mini", 250_000),
        ("gpt-5-micro", None),
        ("scripted", None),
    ],
)
def test_prices_of_known_models(model, cost):
    """Names as programs use them find their price."""
    assert cost == default_prices().cost_microdollars(model, usage(1_000_000, 0))


def test_however_many_models_are_looked_for_each_has_its_own_price():
    """What was found is remembered, and forgotten before it is too much."""
    for number in range(2_500):
        assert None is TABLE.price_of(f"nobody-{number}")

    assert [150_000, None] == [TABLE.cost_microdollars(model, usage(1_000_000, 0)) for model in ("small", "nobody-1")]
    assert len(TABLE._found) <= 1_000

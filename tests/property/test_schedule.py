"""
Cron expressions against a model that is too simple to be wrong: a clock on the wall, looked at every minute.

The model walks through real time in minutes and notes what the clock shows. A reading comes when it is shown for the
first time; readings that are jumped over come at the moment of the jump. The fields are read by hand.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st
from polos.engine.schedule import cron_of

from tests.campaign import scaled

MINUTE_US = 60_000_000
# Zones with half hours, with changes at midnight, across the date line, in the southern half, by half an hour, twice a
# year for Ramadan, and without any.
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia",
    "America/Sao_Paulo", "Asia/Kathmandu", "Africa/Casablanca", "Asia/Tehran", "Asia/Pyongyang", "Antarctica/Troll",
    "America/Havana", "Pacific/Kiritimati", "Europe/Dublin", "Asia/Gaza",
)  # fmt: skip
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


@st.composite
def fields(draw: st.DrawFn, at: int) -> tuple[str, frozenset[int]]:
    """Give a field as text, and what it holds."""
    low, high = RANGES[at]
    every = range(low, 7 if at == 4 else high + 1)
    kind = draw(st.sampled_from(["*", "step", "one", "list", "range", "range step"]))
    if kind == "*":
        return "*", frozenset(every)
    if kind == "step":
        step = draw(st.integers(1, high // 2))
        return f"*/{step}", frozenset(range(low, every[-1] + 1, step))
    values = sorted(draw(st.lists(st.integers(low, high), min_size=1, max_size=3)))
    if kind == "one":
        values = values[:1]
    elif kind.startswith("range") and len(values) > 1:
        step = draw(st.integers(1, 5)) if kind == "range step" else 1
        text = f"{values[0]}-{values[-1]}" + (f"/{step}" if step > 1 else "")
        return text, frozenset(value % 7 if at == 4 else value for value in range(values[0], values[-1] + 1, step))
    return ",".join(map(str, values)), frozenset(value % 7 if at == 4 else value for value in values)


EXPRESSIONS = st.tuples(*(fields(at) for at in range(5)))
FULL = (60, 24, 31, 12, 7)


def fits(reading: datetime, held: tuple[frozenset[int], ...]) -> bool:
    """Tell whether a reading of the clock fits the fields."""
    minutes, hours, days, months, weekdays = held
    if reading.minute not in minutes or reading.hour not in hours or reading.month not in months:
        return False
    by_day, by_weekday = reading.day in days, reading.isoweekday() % 7 in weekdays
    if len(days) == FULL[2] or len(weekdays) == FULL[4]:
        return by_day and by_weekday
    return by_day or by_weekday


@cache
def shown(zone: str, start_us: int, minutes: int) -> list[tuple[int, list[datetime]]]:
    """Give, for each minute of real time, the readings that the clock has reached or jumped over, each only once."""
    at = datetime.fromtimestamp(start_us // 1_000_000, UTC)
    place = ZoneInfo(zone)
    last = (at - timedelta(minutes=1)).astimezone(place).replace(tzinfo=None)
    for back in range(1, 1_600):  # what was shown before and is shown again isn't new
        last = max(last, (at - timedelta(minutes=back)).astimezone(place).replace(tzinfo=None))
    found: list[tuple[int, list[datetime]]] = []
    for number in range(minutes):
        now = (at + timedelta(minutes=number)).astimezone(place).replace(tzinfo=None)
        readings: list[datetime] = []
        while last < now:
            last += timedelta(minutes=1)
            readings.append(last)
        found.append((start_us + number * MINUTE_US, readings))
    return found


@cache
def changes(zone: str) -> list[int]:
    """Give some moments around which clocks of a zone are changed."""
    place = ZoneInfo(zone)
    moments: list[int] = []
    for year in (2008, 2011, 2016, 2023, 2026, 2030):
        before = None
        for hour in range(0, 365 * 24, 6):
            at = datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
            offset = at.astimezone(place).utcoffset()
            if before is not None and offset != before:
                moments.append(int((at - timedelta(hours=12)).timestamp()) * 1_000_000)
            before = offset
    return moments or [int(datetime(2024, 2, 28, tzinfo=UTC).timestamp()) * 1_000_000]


@settings(max_examples=scaled(150, 20_000), deadline=None)
@given(zone=st.sampled_from(ZONES), chosen=EXPRESSIONS, data=st.data())
def test_occurrences_are_those_of_a_clock_on_the_wall(
    zone: str, chosen: tuple[tuple[str, frozenset[int]], ...], data: st.DataObject
) -> None:
    """Forwards and backwards, each reading that fits comes once, when the clock shows it first or jumps over it."""
    held = tuple(values for _, values in chosen)
    expression = " ".join(text for text, _ in chosen)
    start_us = data.draw(st.sampled_from(changes(zone)))
    try:
        cron = cron_of(expression, zone)
    except ValueError:
        assert not any(fits(datetime(2024, 1, 1) + timedelta(days=day), (frozenset({0}), frozenset({0}), *held[2:]))  # noqa: DTZ001
                       for day in range(366))  # fmt: skip
        return
    minutes = 36 * 60
    expected = [at for at, readings in shown(zone, start_us, minutes) if any(fits(one, held) for one in readings)]
    found: list[int] = []
    at_us = start_us - 1
    while (at_us := cron.after(at_us)) < start_us + minutes * MINUTE_US:
        found.append(at_us)

    assert expected == found
    if not found:
        return
    # From any moment, those of an hour that comes twice included.
    for at_us in range(found[0], found[-1], 13 * MINUTE_US):
        behind = bisect_right(found, at_us)
        assert found[behind] == cron.after(at_us)
        assert found[behind - 1] == cron.before(at_us)

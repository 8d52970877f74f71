"""
Cron expressions: at which moments does something come round?

A cron expression speaks of the wall clock of a place, and a place's clock is changed now and then. So an *occurrence*
is a reading of that clock that fits the expression, and each of them comes once:

* When clocks go forward, some readings don't exist. What would have come then comes at the first moment after the gap.
  Several of them, and what comes at that moment anyway, are one occurrence: it is the moment that counts from here on.
* When clocks go back, some readings come twice. What fits one comes the first time, and not again. `0 * * * *` thus
  comes once for each reading: between 01:00 and 02:00 of that night lie two hours.

croniter reads the expressions. It doesn't find the moments, though: its own steps are over a hundred times as slow as
a look into the lists that it makes of the fields, and its way with changing clocks depends on the zone's data type.

The grammar is that of every cron: five fields, with numbers, names, ranges, lists and steps, weekdays from 0 to 7 with
Sunday at both ends, and `@daily` and the like. croniter takes more (seconds, years, random minutes, last weekdays);
what isn't standard is refused, because it means something else elsewhere or isn't the same each time. If both day
fields are restricted, a day that fits either of them fits; a field that holds every value isn't restricted.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from hashlib import sha256
from typing import Final, final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

__all__ = ["Cron", "cron_of", "jitter_of"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)
_MONTHS: Final = {name: str(at) for at, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_WEEKDAYS: Final = {name: str(at) for at, name in enumerate("sun mon tue wed thu fri sat".split())}
_ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_STANDARD: Final = re.compile(r"[0-9*,/-]+", re.ASCII)
_NAMES: Final = re.compile(r"([a-z]+)", re.ASCII)
_SAME_ENDS: Final = re.compile(r"(?<![0-9])([0-9]+)-\1(?:/[0-9]+)?(?![0-9])", re.ASCII)
_LONGEST: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_EVERY: Final = ((0, 60), (0, 24), (1, 32), (1, 13), (0, 7))


@lru_cache(maxsize=4096)
def cron_of(expression: str, timezone: str = "UTC") -> Cron:
    """
    Read a cron expression.

    Args:
        expression: five fields, or an alias such as `@daily`.
        timezone: IANA name of the place whose clock counts.

    Raises:
        ValueError: it isn't one, it never comes, or there is no such zone; the text says which argument.
    """
    return Cron(expression, timezone)


@final
class Cron:
    """
    What an expression means at a place.

    Example:
        >>> cron = Cron("30 2 * * *", "Europe/Berlin")
        >>> str(_datetime(cron.after(1_774_738_800_000_000)))  # in the night in which 02:30 doesn't exist
        '2026-03-29 01:00:00+00:00'
    """

    __slots__ = ("_any_day", "_days", "_hours", "_minutes", "_months", "_weekdays", "_zone", "expression", "timezone")

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        """Read an expression; arguments and errors as for `cron_of`."""
        self.expression = expression
        self.timezone = timezone
        self._zone = _zone(timezone)
        fields = _fields(expression)
        every = [len(found) == high - low for found, (low, high) in zip(fields, _EVERY, strict=True)]
        self._minutes, self._hours = sorted(fields[0]), sorted(fields[1])
        self._days, self._months, self._weekdays = (frozenset(found) for found in fields[2:])
        self._any_day = (every[2], every[4])
        if every[4] and not any(_LONGEST[month - 1] >= min(self._days) for month in self._months):
            raise ValueError(f"cron {expression!r} never comes: no such month has such a day")

    def after(self, moment_us: int) -> int:
        """Give the first occurrence behind a moment; both in microseconds since the epoch."""
        local = _datetime(moment_us).astimezone(self._zone).replace(tzinfo=None)
        while True:
            local = self._next(local)
            found_us = self._moment_us(local)
            # Of the readings behind this one some have come already, if clocks were just set back.
            if found_us > moment_us:
                return found_us

    def before(self, moment_us: int) -> int:
        """Give the last occurrence up to a moment, that moment included; both in microseconds since the epoch."""
        here = _datetime(moment_us).astimezone(self._zone)
        local = here.replace(tzinfo=None, fold=0) + _MINUTE
        if here.fold:
            # Readings of the hour that comes twice have all come, those behind this one as well.
            local += (here.replace(fold=0).utcoffset() or timedelta()) - (here.utcoffset() or timedelta())
        while True:
            local = self._last(local)
            found_us = self._moment_us(local)
            if found_us <= moment_us:
                return found_us

    def upcoming(self, moment_us: int, count: int) -> list[int]:
        """Give the next occurrences behind a moment."""
        found: list[int] = []
        for _ in range(count):
            moment_us = self.after(moment_us)
            found.append(moment_us)
        return found

    # ------------------------------------------------------------------------------ the wall clock

    def _fits(self, day: date) -> bool:
        if day.month not in self._months:
            return False
        any_date, any_weekday = self._any_day
        of_date, of_weekday = day.day in self._days, day.isoweekday() % 7 in self._weekdays
        if any_date or any_weekday:
            return of_date and of_weekday
        return of_date or of_weekday

    def _next(self, local: datetime) -> datetime:
        """Give the first reading behind this one, as if clocks were never changed."""
        day = local.date()
        if self._fits(day):
            at = bisect_left(self._hours, local.hour)
            if at < len(self._hours) and self._hours[at] == local.hour:
                later = bisect_right(self._minutes, local.minute)
                if later < len(self._minutes):
                    return _reading(day, local.hour, self._minutes[later])
                at += 1
            if at < len(self._hours):
                return _reading(day, self._hours[at], self._minutes[0])
        day += _DAY
        while not self._fits(day):
            if day.month in self._months:
                day += _DAY
            else:
                day = (day.replace(day=28) + 4 * _DAY).replace(day=1)
        return _reading(day, self._hours[0], self._minutes[0])

    def _last(self, local: datetime) -> datetime:
        """Give the last reading before this one, as if clocks were never changed."""
        local -= _MICROSECOND
        day = local.date()
        if self._fits(day):
            at = bisect_right(self._hours, local.hour)
            if at and self._hours[at - 1] == local.hour:
                earlier = bisect_right(self._minutes, local.minute)
                if earlier:
                    return _reading(day, local.hour, self._minutes[earlier - 1])
                at -= 1
            if at:
                return _reading(day, self._hours[at - 1], self._minutes[-1])
        day -= _DAY
        while not self._fits(day):
            day = day - _DAY if day.month in self._months else day.replace(day=1) - _DAY
        return _reading(day, self._hours[-1], self._minutes[-1])

    def _moment_us(self, local: datetime) -> int:
        """Tell when the clock shows this for the first time, or has gone past it."""
        moment = local.replace(tzinfo=self._zone)
        found_us = _us(moment)
        if _datetime(found_us).astimezone(self._zone).replace(tzinfo=None) == local:
            return found_us
        # It never shows this: seen with the offset before the gap this is a moment behind it, with the other before it.
        low_us, high_us = _us(moment.replace(fold=1)), found_us
        behind = _datetime(high_us).astimezone(self._zone).utcoffset()
        while high_us - low_us > 1:
            middle_us = (low_us + high_us) // 2
            if _datetime(middle_us).astimezone(self._zone).utcoffset() == behind:
                high_us = middle_us
            else:
                low_us = middle_us
        return high_us


def jitter_of(schedule: str, occurrence_us: int, most_us: int) -> int:
    """Tell how much later an occurrence is to come: as if by chance, and always the same, from 0 to `most_us`."""
    if not most_us:
        return 0
    digest = sha256(f"{schedule}@{occurrence_us}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (most_us + 1)


def _fields(expression: str) -> list[set[int]]:
    words = _ALIASES.get(expression.strip().lower(), expression).split()
    if len(words) != len(_EVERY):
        aliases = ", ".join(sorted(_ALIASES))
        raise ValueError(f"cron must have five fields, or be one of {aliases}; it is {expression!r}")
    for at, names in ((3, _MONTHS), (4, _WEEKDAYS)):
        words[at] = "".join(names.get(part, part) for part in _NAMES.split(words[at].lower()))
    for word in words:
        if not _STANDARD.fullmatch(word):
            raise ValueError(f"cron {expression!r} isn't standard: {word!r} is no number, name, range, list or step")
    from croniter import CroniterError, croniter

    try:
        # A range of one value is one value; croniter 7.0 takes it for all of them.
        expanded, _ = croniter.expand(" ".join(_SAME_ENDS.sub(r"\1", word) for word in words))
    except CroniterError as error:
        raise ValueError(f"cron {expression!r} can't be read: {error}") from error
    return [
        set(range(low, high)) if "*" in found else {int(value) for value in found}
        for found, (low, high) in zip(expanded, _EVERY, strict=True)
    ]


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # what most schedules have needs no database
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        hint = "" if available_timezones() else "; this system has no zones, `pip install tzdata` brings them"
        raise ValueError(f"timezone must be an IANA name such as 'Europe/Berlin', it is {name!r}{hint}") from error


def _reading(day: date, hour: int, minute: int) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001  # what a clock shows, wherever it hangs


def _datetime(moment_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=moment_us)


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND

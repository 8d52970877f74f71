"""
Schedules as programs name them: when runs are to start by themselves.

What was said is checked at once, where a workflow is defined or a schedule is made: an expression that can't come, or a
place that has no clock, would otherwise show as runs that aren't there. Keeping to it is the engine's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, cast, final

from polos.checking import SECONDS_MAX, name, text
from polos.engine.json import Json

__all__ = ["Overlap", "SaidSchedule", "read_schedule"]

Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all"]

_FIELDS: Final = ("cron", "timezone", "key", "overlap", "catch_up_seconds", "jitter_seconds")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SaidSchedule:
    """
    What was said of a schedule; what each field means stands at `polos.schedules.create`.

    Raises:
        ValueError: a field has a value that makes no sense; the text names it.
        TypeError: a field is of the wrong type.
    """

    cron: str
    timezone: str = "UTC"
    key: str = "global"
    overlap: str = "skip"
    catch_up_seconds: float | None = None
    jitter_seconds: float = 0

    def __post_init__(self) -> None:
        """Refuse what can't be."""
        # Not known before: croniter is loaded only by programs that have schedules.
        from polos.engine.schedule import cron_of
        from polos.engine.schedule_state import OVERLAPS

        text("cron", self.cron)
        text("timezone", self.timezone)
        name("key", self.key)
        cron_of(self.cron, self.timezone)
        if self.overlap not in OVERLAPS:
            raise ValueError(f"overlap must be one of {', '.join(OVERLAPS)}; it is {self.overlap!r}")
        if self.catch_up_seconds is not None:
            _seconds("catch_up_seconds", self.catch_up_seconds)
        _seconds("jitter_seconds", self.jitter_seconds)

    def recorded(self) -> dict[str, Json]:
        """Give what is recorded of it, its key left out."""
        found = asdict(self)
        del found["key"]
        catch_up, jitter = found.pop("catch_up_seconds"), found.pop("jitter_seconds")
        return {**found, "catch_up_us": None if catch_up is None else round(catch_up * 1e6),
                "jitter_us": round(jitter * 1e6)}  # fmt: skip


def read_schedule(given: object) -> SaidSchedule | None:
    """
    Read what a workflow was told of its schedule: an expression, a dict, True for "later", False or None for "never".

    Raises:
        ValueError: it is something else, or says something that a schedule can't be.
        TypeError: a field is of the wrong type.
    """
    if given is None or isinstance(given, bool):
        return None
    if isinstance(given, str):
        return SaidSchedule(cron=given)
    if not isinstance(given, dict):
        raise ValueError(f"schedule must be a cron expression, a dict or a bool, it is {given!r}")  # noqa: TRY004  # as Polos does
    said = cast("dict[str, Any]", given)
    if unknown := said.keys() - set(_FIELDS):
        raise ValueError(f"schedule can't have {sorted(map(str, unknown))}: it has {', '.join(_FIELDS)}")
    if "cron" not in said:
        raise ValueError(f"schedule must have 'cron', it is {said!r}")
    return SaidSchedule(**said)


def _seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= SECONDS_MAX:
        raise ValueError(f"{name} must be a number of seconds, not negative, nor more than a thousand years; "
                         f"it is {value!r}")  # fmt: skip

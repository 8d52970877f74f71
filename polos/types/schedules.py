"""
What a scheduled run is given.

Field names are those that programs already use.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

__all__ = ["SchedulePayload"]


class SchedulePayload(BaseModel):
    """
    What a scheduled run is given; a program that tries its workflow makes one itself.

    ```python run
    from datetime import UTC, datetime, timedelta
    from polos import SchedulePayload

    now = datetime(2026, 1, 1, 3, tzinfo=UTC)
    payload = SchedulePayload(
        timestamp=now, last_timestamp=None, timezone="UTC", schedule_id="by hand", key="global",
        upcoming=now + timedelta(days=1),
    )
    print(payload.upcoming)
    ```

    Attributes:
        timestamp: the occurrence that the run is for, also if it was created later; UTC.
        last_timestamp: the one that fired before it; None for the first.
        timezone: the place whose clock counts.
        schedule_id: the schedule.
        key: its key: "global", or whom it is for.
        upcoming: the occurrence that follows.
    """

    timestamp: datetime
    last_timestamp: datetime | None
    timezone: str
    schedule_id: str
    key: str
    upcoming: datetime

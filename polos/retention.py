"""
How long runs stay in the log once they have ended, as a program says it.

What is said here holds for whole trees: a root run and everything below it is archived together, once all of it has
ended, by the policy of the root's workflow. What archiving is stands in `polos.runtime.archiving`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast, final

__all__ = ["ENDED", "Retention", "read_retention"]

ENDED: Final = ("completed", "failed", "cancelled")
SECONDS_MAX: Final = 1_000 * 365 * 86_400
COUNT_MAX: Final = 2**31 - 1


@final
class Retention:
    """
    When runs that have ended are archived: they leave the log for compressed segments, and can still be read.

    ```python run
    import asyncio, tempfile
    from polos import Polos, Retention, workflow

    @workflow(retention=Retention(max_age_seconds=0))
    async def ping(ctx):
        return "pong"

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                handle = await ping.invoke(polos)
                while (found := await polos.get_execution(handle.id))["archived_at"] is None:
                    await asyncio.sleep(0)
                print(found["status"], found["result"], await polos.list_executions())

    asyncio.run(main())
    ```

    Attributes:
        max_age_seconds: archived so long after the last run of the tree has ended.
        max_count: so many root runs of the workflow are kept, the newest; older ones are archived whatever their age.
        statuses: only trees whose root ended like this are archived, and counted.
        keep_deltas: whether the archive has what steps sent while they ran; False prunes it, for good. What became of
            the steps stays.
    """

    __slots__ = ("keep_deltas", "max_age_seconds", "max_count", "statuses")

    def __init__(
        self,
        *,
        max_age_seconds: float | None = None,
        max_count: int | None = None,
        statuses: Sequence[str] = ENDED,
        keep_deltas: bool = True,
    ) -> None:
        """
        Take the policy; a tree is archived when its age or the count says so.

        Raises:
            ValueError: neither is given, a number isn't one that it can be, or there is no such status to end in.
            TypeError: `statuses` is one text, or `keep_deltas` no bool.
        """
        if max_age_seconds is None and max_count is None:
            raise ValueError("a Retention needs max_age_seconds or max_count; retention=False keeps runs for ever")
        age = cast("object", max_age_seconds)
        if age is not None and (
            isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age <= SECONDS_MAX
        ):
            raise ValueError(f"max_age_seconds of a Retention must be a number from 0, it is {age!r}")
        count = cast("object", max_count)
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= COUNT_MAX):
            raise ValueError(f"max_count of a Retention must be a number from 0, it is {count!r}")
        if isinstance(statuses, str):
            raise TypeError(f"statuses of a Retention must be a sequence of texts, they are {statuses!r}")
        wanted = tuple(statuses)
        if not wanted or any(status not in ENDED for status in wanted):
            raise ValueError(f"statuses of a Retention must be some of {', '.join(ENDED)}; they are {wanted!r}")
        if not isinstance(cast("object", keep_deltas), bool):
            raise TypeError(f"keep_deltas of a Retention must be True or False, it is {keep_deltas!r}")
        self.max_age_seconds: float | None = max_age_seconds
        self.max_count: int | None = max_count
        self.statuses: tuple[str, ...] = tuple(status for status in ENDED if status in wanted)
        self.keep_deltas: bool = keep_deltas

    def __eq__(self, other: object) -> bool:
        """Tell whether another one says the same."""
        return isinstance(other, Retention) and repr(self) == repr(other)

    def __hash__(self) -> int:
        """Hash what it says."""
        return hash(repr(self))

    def __repr__(self) -> str:
        """Show it as it is written."""
        said = f"max_age_seconds={self.max_age_seconds!r}, max_count={self.max_count!r}, statuses={self.statuses!r}"
        return f"Retention({said})" if self.keep_deltas else f"Retention({said}, keep_deltas=False)"


def read_retention(given: object, what: str) -> Retention | Literal[False] | None:
    """
    Read what was said: a `Retention`, a dict with the arguments of one, False for ever, None for nothing.

    Args:
        given: what was said.
        what: whose retention it is, for messages.

    Raises:
        ValueError: it is something else, or says something that a policy can't be.
        TypeError: `statuses` is one text, or `keep_deltas` no bool.
    """
    if given is None or given is False or isinstance(given, Retention):
        return given
    if isinstance(given, Mapping):
        said = dict(cast("Mapping[str, Any]", given))
        if unknown := said.keys() - set(Retention.__slots__):
            raise ValueError(f"the retention of {what} can't have {sorted(map(str, unknown))}")
        return Retention(**said)
    raise ValueError(f"retention of {what} must be a Retention, a dict, False or None, it is {given!r}")

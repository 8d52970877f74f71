"""
What keeps one run from being two, as a program asks for it where it starts one.

Three ways, and each says what makes two calls the same: an *idempotency key* means the same request, made again because
nobody knew whether it had come; a *singleton* means work of which one at a time is enough; *debounced* calls are a
flurry of which only the last one counts. All are told apart for each workflow. What follows from them
while an engine runs stands in `polos.runtime.dedup`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, cast, final

from polos.checking import optional_text, positive

__all__ = ["POLICIES", "Debounce", "Once", "SingletonPolicy", "once_fields", "read_debounce"]

SingletonPolicy = Literal["skip", "cancel_old", "queue"]

POLICIES: Final = ("skip", "cancel_old", "queue")


class Once(TypedDict, total=False):
    """
    Keywords of whatever starts a run.

    Attributes:
        idempotency_key: a later start of the workflow with this key gives the run that the first one made.
        singleton: at most one run of the workflow with this key is under way.
        singleton_policy: what a start does while there is one: "skip" gives that one (the default), "cancel_old" has
            it cancelled and goes on when it has ended, "queue" waits for its end.
        debounce_seconds: the run begins so long after the last call of the workflow with the same key; it has that
            call's payload and state, and is one run for all of them. None for what the workflow says.
        debounce_key: tells flurries of one workflow apart; without it all its calls are one.
        debounce_max_seconds: the run begins at most so long after the first call; None for no such limit.
    """

    idempotency_key: str | None
    singleton: str | None
    singleton_policy: SingletonPolicy
    debounce_seconds: float | None
    debounce_key: str | None
    debounce_max_seconds: float | None


@final
@dataclass(frozen=True, slots=True)
class Debounce:
    """What a workflow says of flurries of calls: they are debounced though the calls don't ask for it."""

    seconds: float
    max_seconds: float | None = None


def read_debounce(given: object) -> Debounce | None:
    """
    Read what a workflow was told of debouncing: seconds, or a dict with `seconds` and perhaps `max_seconds`.

    Raises:
        ValueError: a number makes no sense, or the dict has something else.
        TypeError: it is something else, or a number is none.
    """
    if given is None or isinstance(given, Debounce):
        return given
    said: dict[str, Any] = cast("dict[str, Any]", given) if isinstance(given, dict) else {"seconds": given}
    if "seconds" not in said or said.keys() - {"seconds", "max_seconds"}:
        raise ValueError(f"debounce has 'seconds' and perhaps 'max_seconds', it was given {sorted(map(str, said))}")
    _check_debounce("debounce", said["seconds"], said.get("max_seconds"))
    return Debounce(said["seconds"], said.get("max_seconds"))


def _check_debounce(name: str, seconds: float | None, most: float | None) -> None:
    positive(f"{name} seconds" if name == "debounce" else name, seconds)
    longest = "debounce max_seconds" if name == "debounce" else "debounce_max_seconds"
    positive(longest, most)
    if seconds is not None and most is not None and most < seconds:
        raise ValueError(f"{longest} must be at least as long as one wait ({seconds!r}), it is {most!r}")


def once_fields(once: Once, debounce: Debounce | None = None) -> dict[str, Any]:
    """
    Give what is recorded of the keywords, as fields of `RunCreated`; refuse what makes no sense.

    Args:
        once: the keywords.
        debounce: what the workflow says.

    Raises:
        TypeError: a key is no text, or a keyword is unknown.
        ValueError: a key is empty or can't be written, or the policy is unknown.
    """
    if unknown := once.keys() - Once.__annotations__.keys():
        raise TypeError(f"a run can't be started with {sorted(unknown)}")
    optional_text("idempotency_key", once.get("idempotency_key"))
    optional_text("singleton", once.get("singleton"))
    policy = once.get("singleton_policy", "skip")
    if policy not in POLICIES:
        raise ValueError(f"singleton_policy must be one of {', '.join(POLICIES)}; it is {policy!r}")
    if "singleton_policy" in once and once.get("singleton") is None:
        raise ValueError("singleton_policy says what holds for a singleton, and none was given")
    singleton = once.get("singleton")
    return {
        "idempotency_key": once.get("idempotency_key"),
        "singleton": singleton,
        "singleton_policy": None if singleton is None else policy,
        **_debounce_fields(once, debounce),
    }


def _debounce_fields(once: Once, said: Debounce | None) -> dict[str, Any]:
    seconds, most = once.get("debounce_seconds"), once.get("debounce_max_seconds")
    key = optional_text("debounce_key", once.get("debounce_key"))
    _check_debounce("debounce_seconds", seconds, most)
    if seconds is None and said is not None:
        seconds, most = said.seconds, said.max_seconds if most is None else most
        _check_debounce("debounce_seconds", seconds, most)
    if seconds is None:
        for name, given in (("debounce_key", key), ("debounce_max_seconds", most)):
            if given is not None:
                raise ValueError(f"{name} says something of debounce_seconds, and none were given")
        return {}
    if once.get("idempotency_key") is not None:
        raise ValueError("debounce_seconds and idempotency_key can't be combined: which call's payload would count?")
    most_us = None if most is None else round(most * 1e6)
    return {"debounce": key or "", "debounce_us": round(seconds * 1e6), "debounce_max_us": most_us}

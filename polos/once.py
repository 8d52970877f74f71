"""
What keeps one run from being two, as a program asks for it where it starts one.

Two ways, and each says what makes two calls the same: an *idempotency key* means the same request, made again because
nobody knew whether it had come; a *singleton* means work of which one at a time is enough. Both are told apart for each
workflow. What follows from them while an engine runs stands in `polos.runtime.dedup`.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypedDict

__all__ = ["POLICIES", "Once", "SingletonPolicy", "once_fields"]

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
    """

    idempotency_key: str | None
    singleton: str | None
    singleton_policy: SingletonPolicy


def once_fields(once: Once) -> dict[str, Any]:
    """
    Give what is recorded of the keywords, as fields of `RunCreated`; refuse what makes no sense.

    Raises:
        TypeError: a key is no text, or a keyword is unknown.
        ValueError: a key is empty or can't be written, or the policy is unknown.
    """
    if unknown := once.keys() - Once.__annotations__.keys():
        raise TypeError(f"a run can't be started with {sorted(unknown)}")
    # Imported on use: it brings Pydantic, which commands that only look do without.
    from polos.calls import optional_text

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
    }

"""
Retry policies: how long until the next attempt, or that there is none.

The delay before attempt *k + 1* is `min(base_delay · factor^(k-1), max_delay)`, the usual capped
exponential backoff; jitter takes off a random share of up to `jitter` of it, so that many runs that
failed together don't come back together. The random number is handed in: this module draws none.
"""

from __future__ import annotations

from dataclasses import dataclass  # the library's own: programs make these, and mustn't change them unseen
from math import inf
from typing import cast

__all__ = ["RetryPolicy", "next_delay_us", "retryable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """
    When to try again.

    ```python run
    from polos import RetryPolicy, workflow

    patient = RetryPolicy(max_retries=5, base_delay_seconds=2, max_delay_seconds=60, jitter=0.2, retry_on=(OSError,))

    @workflow(retries=patient)
    async def fetch(ctx):
        ...

    print(fetch.retries.max_retries)
    ```

    Attributes:
        max_retries: attempts after the first.
        base_delay_seconds: before the second attempt.
        max_delay_seconds: no delay is longer.
        factor: how much longer each delay is than the one before.
        jitter: share of the delay, 0 to 1, of which a random part is taken off.
        retry_on: only exceptions of these types are tried again; None for all of them.
        non_retryable: exceptions of these types never are.
    """

    max_retries: int = 2
    base_delay_seconds: float = 1.0
    max_delay_seconds: float = 10.0
    factor: float = 2.0
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] | None = None
    non_retryable: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense, naming the argument."""
        if isinstance(self.max_retries, bool) or not isinstance(cast("object", self.max_retries), int):
            message = f"max_retries must be a whole number, it is {self.max_retries!r}"
            raise TypeError(message)
        for name in ("base_delay_seconds", "max_delay_seconds", "factor", "jitter"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                message = f"{name} must be a number, it is {value!r}"
                raise TypeError(message)
        for name in ("max_retries", "base_delay_seconds", "max_delay_seconds"):
            if not getattr(self, name) >= 0:
                message = f"{name} must not be negative, it is {getattr(self, name)!r}"
                raise ValueError(message)
        if not self.factor >= 1:
            message = f"factor must be at least 1, it is {self.factor!r}"
            raise ValueError(message)
        if not 0 <= self.jitter <= 1:
            message = f"jitter must be between 0 and 1, it is {self.jitter!r}"
            raise ValueError(message)


def retryable(policy: RetryPolicy, error: BaseException) -> bool:
    """Tell whether the policy tries again after this exception, attempts permitting."""
    if isinstance(error, policy.non_retryable):
        return False
    return policy.retry_on is None or isinstance(error, policy.retry_on)


# No service is believed that asks to come back later than this: a day.
_ASKED_SECONDS_MAX = 86_400.0


def next_delay_us(
    policy: RetryPolicy, *, failed_attempts: int, chance: float, asked_seconds: object = None
) -> int | None:
    """
    Give the microseconds until the next attempt, None if there is none.

    Args:
        policy: the policy.
        failed_attempts: how many have failed, at least 1.
        chance: a random number in [0, 1), for the jitter.
        asked_seconds: what the exception says of when to come back (`retry_after_seconds`, as of an HTTP header
            `Retry-After`): no delay is shorter, up to a day. What isn't a number of seconds says nothing.
    """
    assert failed_attempts >= 1, "a delay follows a failed attempt"
    if failed_attempts > policy.max_retries:
        return None
    # The exponent is bounded so that a long history of failures can't overflow a float.
    grown = policy.base_delay_seconds * policy.factor ** min(failed_attempts - 1, 64)
    delay = min(grown, policy.max_delay_seconds)
    delay *= 1 - policy.jitter * chance
    if isinstance(asked_seconds, int | float) and 0 < asked_seconds < inf:
        delay = max(delay, min(asked_seconds, _ASKED_SECONDS_MAX))
    return round(delay * 1e6)

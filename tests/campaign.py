"""
How much the suite tries, and from which seed.

The same tests run as a short campaign (``make test``: bounded, the same cases each time, so that a red run is
red again on the next machine) and as a long one (``make crash-long``, ``make property-long``: as many cases as
patience allows, other ones each time). A test that has an amount says both with `scaled`; one that draws numbers
draws them from `SEED`. The seed is printed at the head of every run, and ``POLOS_SEED=n`` repeats it.
"""

from __future__ import annotations

import os

__all__ = ["LONG", "SEED", "scaled"]

LONG = os.environ.get("POLOS_CAMPAIGN", "short") == "long"

# Left in the environment, so that the processes which share the work of one run draw from one seed.
SEED = int(os.environ.setdefault("POLOS_SEED", str(int.from_bytes(os.urandom(4), "big")) if LONG else "0"))


def scaled(short: int, long: int) -> int:
    """Give the amount for this campaign: `short` in ``make test`` and CI, `long` in the long targets."""
    return long if LONG else short

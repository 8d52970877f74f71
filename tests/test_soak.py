"""The soak, for a few seconds, and its judgement of growth; `make soak` takes half an hour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench.soak import Sample, soak, verdict

from tests.campaign import SEED
from tests.crash.children import in_child

STEADY = Sample(
    at_seconds=0, rss_kib=50_000, descriptors=16, threads=8, bytes_per_record=300.0, records=1, runs=0
)  # fmt: skip


def samples(**last: Any) -> list[Sample]:
    """Give a life of forty seconds in which nothing grows but what is said, in its last quarter."""
    found = [replace(STEADY, at_seconds=float(second)) for second in range(41)]
    return [replace(one, **last) if one.at_seconds >= 30 else one for one in found]


@pytest.mark.parametrize(
    ("name", "value"), [("rss_kib", 70_000), ("descriptors", 30), ("threads", 20), ("bytes_per_record", 500.0)]
)
def test_growth_is_seen(name: str, value: float) -> None:
    """Each figure that grows is named, with what it was and what it is; one that doesn't isn't."""
    _, wrong = verdict(samples(**{name: value}))
    lines, nothing = verdict(samples())

    assert 1 == len(wrong)
    assert f"{name} grew from" in wrong[0]
    assert [] == nothing
    assert 5 == len(lines)


def test_too_short_a_life_says_nothing() -> None:
    """With hardly a sample nothing is judged, and that is said."""
    assert (["too short a life to say anything about growth"], []) == verdict(samples()[:3])


@pytest.mark.sweep
def test_a_short_soak(tmp_path: Path) -> None:
    """Killed, with a full disk and a clock that jumps, for a few seconds: everything that was promised holds."""
    assert 0 == in_child(lambda: soak(tmp_path, seconds=4.0, seed=SEED))

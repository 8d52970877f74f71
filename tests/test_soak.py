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
    at_seconds=0, rss_kib=50_000, descriptors=16, threads=8, log_bytes=10_000_000, blob_bytes=20_000_000,
    archive_bytes=0, archived=0, inbox_bytes=200, records=0, runs=0,
)  # fmt: skip


def samples(**last: Any) -> list[Sample]:
    """Give a life of forty seconds in which nothing grows but what is said, in its last quarter."""
    found = [replace(STEADY, at_seconds=float(second), records=second * 10_000) for second in range(41)]
    return [replace(one, **last) if one.at_seconds >= 30 else one for one in found]


@pytest.mark.parametrize(
    ("name", "value"),
    [("rss_kib", 70_000), ("descriptors", 30), ("threads", 20), ("blob_bytes", 60_000_000), ("inbox_bytes", 2_000_000)],
)
def test_growth_is_seen(name: str, value: float) -> None:
    """Each figure that grows is named, with what it was and what it is; one that doesn't isn't."""
    _, wrong = verdict(samples(**{name: value}))
    lines, nothing = verdict(samples())

    assert 1 == len(wrong)
    assert f"{name} grew from" in wrong[0]
    assert [] == nothing
    assert 8 == len(lines)


def test_a_log_that_grows_though_runs_are_archived_is_seen() -> None:
    """A little stays of each record; more than that is named, with how much it was."""
    grows = [replace(one, log_bytes=one.log_bytes + one.records * 75) for one in samples()]
    keeps = [replace(one, log_bytes=one.log_bytes + one.records * 500) for one in samples()]

    lines, wrong = verdict(grows)
    assert [] == wrong
    assert "75 bytes more with each record" in lines[-3]
    assert ["the log grew by 500 bytes a record since its second quarter, though runs are archived"] == verdict(keeps)[
        1
    ]


def test_an_archive_that_grows_by_more_than_its_runs_is_seen() -> None:
    """The archive grows by its runs; more than these can take is named, with how much it was."""
    grows = [replace(one, archive_bytes=one.records // 10 * 400, archived=one.records // 10) for one in samples()]
    keeps = [replace(one, archive_bytes=one.archive_bytes * 10) for one in grows]

    lines, wrong = verdict(grows)
    assert [] == wrong
    assert "400 bytes more with each of 40,000 runs" in lines[-2]
    assert ["the archive grew by 4,000 bytes a run since its second quarter"] == verdict(keeps)[1]


def test_a_life_that_stood_still_is_seen() -> None:
    """No sample in a whole quarter: the loop hung."""
    without = [one for one in samples() if not 10 <= one.at_seconds < 20]

    assert ([], ["for a quarter of its life the engine gave no sample"]) == verdict(without)


def test_too_short_a_life_says_nothing() -> None:
    """With hardly a sample nothing is judged, and that is said."""
    assert (["too short a life to say anything about growth"], []) == verdict(samples()[:3])


@pytest.mark.sweep
def test_a_short_soak(tmp_path: Path) -> None:
    """Killed, with a full disk and a clock that jumps, for a few seconds: everything that was promised holds."""
    assert 0 == in_child(lambda: soak(tmp_path, seconds=4.0, seed=SEED))

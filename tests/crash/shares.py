"""
What a data directory must show that is too large to be held at once, or of which runs were archived.

It is looked at share by share: the runs that one commit archived are a share, whole trees as they are in its segments,
and what is in the log is the last. Each is a `Found` with its own lines of the ledger, so the checks of
`tests.crash.engine_checks` hold for each as they do for a whole; lines about runs that are nowhere are with the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import ARCHIVE_STREAM, RUN_PREFIX, Rows, run_stream, sealed_runs
from polos.store.directory import Store, open_store
from polos.store.segments import decode_segment

from tests.crash.children import ChildFailed, in_child
from tests.crash.engine_checks import CHECKS, Found, findings, store_is_sound
from tests.crash.ledger import Excerpt, Ledger, Line

__all__ = ["broken", "shares"]


def shares(directory: Path) -> Iterator[Found]:
    """
    Give what was found in a directory that nobody owns, share by share.

    Raises:
        AssertionError: a run was archived twice, or a segment has records of others.
    """
    store = open_store(directory / "data", read_only=True)
    told = Ledger(directory).by_run()
    try:
        archived: set[str] = set()
        with store.log.reader() as reader:
            seals = [decode(one.type, one.schema_version, one.payload) for one in reader.stream(ARCHIVE_STREAM)]
        for seal in seals:
            assert isinstance(seal, e.RangeSealed), "the stream of the archive holds nothing else"
            share = _archived(directory, store, seal, told)
            assert archived.isdisjoint(share.runs), f"archived twice: {archived & share.runs.keys()}"
            archived |= share.runs.keys()
            yield share
        whole = findings(directory, store.log, tuple(item.command_id for item in store.inbox.pending()))
    finally:
        store.close()
    # Of what was sealed last some may still be in the log, too.
    streams = {run_stream(run) for run in archived}
    yield replace(
        whole,
        ledger=Excerpt(line for lines in told.values() for line in lines),
        runs={run: events for run, events in whole.runs.items() if run not in archived},
        times={stream: times for stream, times in whole.times.items() if stream not in streams},
    )


def _archived(directory: Path, store: Store, seal: e.RangeSealed, told: dict[str, list[Line]]) -> Found:
    runs: dict[str, list[tuple[e.Event, int]]] = {run["run"]: [] for run in sealed_runs(seal)}
    times: dict[str, list[int]] = {}
    for digest in seal.segments:
        for record in decode_segment(store.blobs.get(digest)):
            run = record.stream.removeprefix(RUN_PREFIX)
            assert run in runs, (
                f"a segment has record {record.position} of {record.stream}, which wasn't sealed with it"
            )
            event = decode(record.type, record.schema_version, record.payload)
            runs[run].append((event, int(record.position)))
            times.setdefault(record.stream, []).append(record.time_us)
    return Found(
        directory=directory,
        ledger=Excerpt(line for run in runs for line in told.pop(run, ())),
        runs=runs,
        inbox=[],
        rows={},
        folded=Rows(),
        pending=(),
        times=times,
    )


def broken(directory: Path) -> dict[str, Any]:
    """
    Look at all shares of a directory, in a child process.

    Returns:
        `promise`, the first that is broken and how, None if all hold; and how many `runs` were looked at.
    """
    try:
        return in_child(partial(_broken, directory))
    except ChildFailed as error:
        return {"promise": f"{shares.__name__}: {str(error)[-2_000:]}", "runs": 0}


def _broken(directory: Path) -> dict[str, Any]:
    runs = 0
    promise = shares.__name__
    try:
        for share in shares(directory):
            runs += len(share.runs)
            for check in CHECKS:
                # What is said of the whole store is said once, with the last share: the rows are there.
                if check is not store_is_sound or share.rows:
                    promise = check.__name__
                    check(share)
            promise = shares.__name__
    except AssertionError as error:
        return {"promise": f"{promise}: {error}"[:2_000], "runs": runs}
    return {"promise": None, "runs": runs}

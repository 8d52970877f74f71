"""A directory of which runs were archived is held to the same promises, share by share."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypedDict

import pytest
from polos import Polos, Retention, archive

from tests.crash.children import in_child
from tests.crash.ledger import Ledger
from tests.crash.load import quick, witness
from tests.crash.shares import broken, shares


async def live(directory: Path) -> list[str]:
    """Leave two archived runs behind, and one that has ended and stays."""
    runs: list[str] = []
    for retention in (Retention(max_age_seconds=0), False):
        async with Polos(directory / "data", retention=retention) as polos:
            ledger = witness.use(directory, str(retention), polos.engine.store.log)
            for _ in range(2 if retention else 1):
                handle = await quick.invoke(polos, {})
                ledger.note("created", handle.id)
                ledger.note("ended", handle.id, (await polos._wait_ended(handle.id))["result"])
                runs.append(handle.id)
            moves = polos._connection().moves()
            while True:
                head = moves.head()
                if 2 == len(archive.list(polos)):
                    break
                await moves.behind(head)
    return runs


@pytest.fixture
def lived(tmp_path: Path) -> tuple[Path, list[str]]:
    """Give a directory with archived runs and one that isn't, and their ids in this order."""
    runs: list[str] = in_child(lambda: asyncio.run(live(tmp_path)))
    return tmp_path, runs


class Look(TypedDict):
    """What is in a share."""

    runs: list[str]
    calls: int
    rows: bool


def look(directory: Path) -> list[Look]:
    """Say what is in each share of a directory."""
    return [
        Look(runs=sorted(one.runs), calls=len(one.ledger.lines("call")), rows=bool(one.rows))
        for one in shares(directory)
    ]


def test_all_runs_are_looked_at_once(lived: tuple[Path, list[str]]) -> None:
    """Archived runs are in shares of their own, with their events and what was told of them; the last has the log."""
    directory, runs = lived

    looks: list[Look] = in_child(lambda: look(directory))

    *before, last = looks
    assert sorted(runs[:2]) == sorted(run for one in before for run in one["runs"])
    assert all(one["calls"] == 2 * len(one["runs"]) and not one["rows"] for one in before)
    assert {"runs": [runs[2]], "calls": 2, "rows": True} == last
    assert {"promise": None, "runs": 3} == broken(directory)


@pytest.mark.parametrize("run", [0, 2], ids=["archived", "in the log"])
@pytest.mark.parametrize(
    ("kind", "step", "more", "promise"),
    [
        ("call", "/first", 1 << 40, "called_before_recorded"),
        ("ended", "", ["another", "result"], "answers_stand"),
        ("answered", "", "an answer", "answers_stand"),
    ],
)
def test_what_was_told_otherwise_is_found(
    lived: tuple[Path, list[str]], run: int, kind: str, step: str, more: object, promise: str
) -> None:
    """A line that doesn't go with a run is found, whether its run was archived or not."""
    directory, runs = lived
    Ledger(directory).note(kind, runs[run] + step, more)

    assert broken(directory)["promise"].startswith(f"{promise}:")


def test_a_run_that_is_nowhere_is_found(lived: tuple[Path, list[str]]) -> None:
    """Who was told that a run was created finds it in the log or in the archive."""
    directory, _ = lived
    Ledger(directory).note("created", "no-such-run")

    assert "no-such-run" in broken(directory)["promise"]


def test_a_lost_segment_is_found(lived: tuple[Path, list[str]]) -> None:
    """Nobody takes what can't be read for nothing."""
    directory, _ = lived
    for blob in (directory / "data" / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()

    assert "BlobMissing" in broken(directory)["promise"]

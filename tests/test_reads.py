"""What a log says about runs, on logs filled by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest
from polos.engine import events as e
from polos.engine.decide import created_to_json
from polos.errors import PolosUsageError, UnknownRun
from polos.runtime import reads
from polos.store.inbox_dir import MemoryInbox
from polos.store.lmdb_log import LmdbLog
from polos.store.memory import MemoryLog

from tests.histories import START_US, History, created, run_id

A, B, C, D = (run_id(number) for number in range(1, 5))
BROKEN = e.Failure(type="ValueError", message="no card", traceback="line 1")


@pytest.fixture(params=["memory", "lmdb"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    """An empty history, in memory and in LMDB."""
    log = MemoryLog() if request.param == "memory" else LmdbLog(tmp_path, map_bytes=16 << 20, sync=False)
    yield History(log)
    log.close()


def read(history: History, run: str) -> dict[str, Any]:
    with history.log.reader() as reader:
        return reads.execution(reader, run)


def ids(history: History, **wanted: Any) -> list[str]:
    with history.log.reader() as reader:
        return [row.run for row in reads.list_runs(reader, reads.RunFilter(**wanted)).rows]


def wanted(*runs: tuple[str, e.RunCreated]) -> bytes:
    command = {"kind": "create", "runs": [{"run": run, "created": created_to_json(made)} for run, made in runs]}
    return orjson.dumps({"command": command, "by": "a test"})


# ------------------------------------------------------------------------------------- execution


def test_execution_of_a_completed_run(history: History):
    """A completed run shows the fields that programs know, with times as RFC 3339 in UTC."""
    made = created(
        A, input={"n": 1}, queue="q", concurrency_key="k", session="s", user="u", tags=("vip",), deployment="d",
        run_timeout_us=90_500_000,
    )  # fmt: skip
    history.run(A, made)
    history.run(A, e.RunStarted(attempt=1))
    history.run(A, e.RunCompleted(cause=1, result=[0], result_type="shop.Order"))

    assert {
        "id": A,
        "workflow_id": "order",
        "status": "completed",
        "payload": {"n": 1},
        "result": [0],
        "error": None,
        "created_at": "2026-01-01T00:00:00.000000+00:00",
        "started_at": "2026-01-01T00:00:01.000000+00:00",
        "completed_at": "2026-01-01T00:00:02.000000+00:00",
        "deployment_id": "d",
        "assigned_to_worker": None,
        "parent_execution_id": None,
        "root_execution_id": A,
        "retry_count": 0,
        "step_key": None,
        "queue_name": "q",
        "concurrency_key": "k",
        "batch_id": None,
        "session_id": "s",
        "user_id": "u",
        "output_schema_name": "shop.Order",
        "cancelled_at": None,
        "cancelled_by": None,
        "run_timeout_seconds": 90.5,
        "cancel_requested_at": None,
        "waiting_reason": None,
        "tags": ["vip"],
        "archived_at": None,
    } == read(history, A)


@pytest.mark.parametrize("falsy", [None, False, 0, "", [], {}])
def test_falsy_results_are_given_as_they_are(history: History, falsy: Any):
    """A result that Python takes for false is still the result."""
    history.begin(A)
    history.end(A, falsy)

    found = read(history, A)

    assert ("completed", falsy, type(falsy)) == (found["status"], found["result"], type(found["result"]))


def test_execution_of_a_failed_run(history: History):
    """A failed run shows the error's message and counts its retries."""
    history.begin(A)
    history.run(A, e.RunRetried(cause=2, attempt=1, error=BROKEN, due_us=START_US))
    history.run(A, e.RunStarted(attempt=2))
    history.run(A, e.RunFailed(cause=4, error=BROKEN))

    found = read(history, A)

    assert ("failed", None, "no card", 1) == (found["status"], found["result"], found["error"], found["retry_count"])
    assert "2026-01-01T00:00:03.000000+00:00" == found["completed_at"]


def test_execution_of_a_cancelled_run(history: History):
    """A cancelled run tells when and by whom, and isn't completed; the request's time is kept."""
    history.begin(A)
    history.run(A, e.CancelRequested(by="ann", grace_due_us=START_US))
    pending = read(history, A)
    history.run(A, e.RunCancelled(cause=3, by="ann"))
    found = read(history, A)

    assert ("pending_cancel", None) == (pending["status"], pending["cancelled_at"])
    assert ("cancelled", "ann", None, None) == tuple(
        found[name] for name in ("status", "cancelled_by", "completed_at", "error")
    )
    assert ("2026-01-01T00:00:01.000000+00:00", "2026-01-01T00:00:02.000000+00:00") == (
        found["cancel_requested_at"],
        found["cancelled_at"],
    )


def test_result_stays_readable_behind_late_records(history: History):
    """What is recorded of a run after its end doesn't hide its result."""
    history.begin(A)
    history.end(A, "kept")
    history.run(A, e.MessageOwed(message={"id": "m"}), e.MessageDelivered(message_id="m"))

    assert "kept" == read(history, A)["result"]


def test_execution_follows_successors(history: History):
    """A handle tells how things stand with the last successor, under its own id, input and creation."""
    history.run(A, created(A, input=1), e.RunStarted(attempt=1))
    history.run(A, e.RunContinued(cause=2, successor=B, workflow="order", input=2))
    history.run(B, created(A, input=2, continues=A, chain=A), e.RunStarted(attempt=1))
    meanwhile = read(history, A)
    history.end(B, "done")
    found = read(history, A)

    assert (A, "running", 1, "2026-01-01T00:00:00.000000+00:00") == tuple(
        meanwhile[name] for name in ("id", "status", "payload", "created_at")
    )
    assert (A, "completed", 1, "done", "2026-01-01T00:00:03.000000+00:00") == tuple(
        found[name] for name in ("id", "status", "payload", "result", "completed_at")
    )


def test_successor_of_another_log(history: History):
    """A successor that this log doesn't hold leaves the handle at the run that is known."""
    history.begin(A)
    history.run(A, e.RunContinued(cause=2, successor=B, workflow="order"))

    assert "continued" == read(history, A)["status"]


def test_waiting_reason(history: History):
    """A waiting run says what for."""
    history.begin(A)
    history.run(A, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok"))

    assert ("waiting", "suspend") == (read(history, A)["status"], read(history, A)["waiting_reason"])


@pytest.mark.parametrize("run", [A, "", "no such run"])
def test_unknown_run(history: History, run: str):
    """A run that nobody created is an error that names it."""
    with pytest.raises(UnknownRun, match=f"'{run}'"):
        read(history, run)


def test_a_forks_input_is_its_origins(history: History):
    """A fork was created with what its origin was created with."""
    history.run(A, created(A, input="first"))
    history.run(B, e.RunForked(origin=A, at=1))
    with history.log.reader() as reader:
        origin = reads.run_created(reader, B)

        assert origin is not None
        assert ("first", None) == (origin.input, reads.run_created(reader, C))


# -------------------------------------------------------------------------------------- state, tree


def test_state_is_folded_from_patches(history: History):
    """The state of a run is its initial state with all recorded changes; an attempt begins anew."""
    history.run(A, created(A, initial_state={"n": 1, "m": 1}), e.RunStarted(attempt=1))
    history.run(A, e.StateChanged(cause=2, changed={"n": 2}, removed=("m",)))
    with history.log.reader() as reader:
        changed = reads.run_state(reader, A)
    history.run(A, e.RunRetried(cause=2, attempt=1, error=BROKEN, due_us=START_US), e.RunStarted(attempt=2))
    with history.log.reader() as reader:
        again = reads.run_state(reader, A)

    assert ({"n": 2}, {"n": 1, "m": 1}) == (changed, again)
    assert history.states[A].state_value == again


def test_state_of_a_run_without_any(history: History):
    """A run without state, and one that doesn't exist, have none; a patch alone makes one."""
    history.begin(A)
    history.begin(B)
    history.run(B, e.StateChanged(cause=2, changed={"n": 1}))

    with history.log.reader() as reader:
        assert (None, {"n": 1}, None) == tuple(reads.run_state(reader, run) for run in (A, B, C))


def test_open_suspends_of_a_tree(history: History):
    """Only unanswered suspends are found, across the tree, the oldest first, with their data."""
    history.begin(A)
    history.run(B, created(A, "child", parent=A), e.RunStarted(attempt=1))
    history.run(B, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok", data={"who": "b"}))
    history.run(A, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok", data={"who": "a"}))
    history.run(A, e.WaitStarted(cause=2, name="ok#2", kind="suspend", key="ok", data={"who": "a2"}))
    history.run(A, e.WaitStarted(cause=2, name="done", kind="suspend", key="done"))
    history.run(A, e.WaitSatisfied(name="done", kind="suspend", key="done"))
    history.run(A, e.WaitStarted(cause=2, name="topic", kind="topic", key="orders"))

    with history.log.reader() as reader:
        found = reads.open_suspends(reader, A)

        assert [(B, "ok", "b"), (A, "ok", "a"), (A, "ok#2", "a2")] == [
            (suspend.row.run, suspend.event.name, suspend.event.data["who"])  # type: ignore[index,call-overload]
            for suspend in found
        ]
        assert [A, B] == reads.tree_runs(reader, A)


def test_open_suspend_of_a_very_long_key(history: History):
    """A key too long for a row's key is found all the same."""
    key = "k" * 300
    history.begin(A)
    history.run(A, e.WaitStarted(cause=2, name=key, kind="suspend", key=key))

    with history.log.reader() as reader:
        assert [key] == [suspend.event.key for suspend in reads.open_suspends(reader, A)]


# ------------------------------------------------------------------------------------------- list


@pytest.fixture
def shop(history: History) -> History:
    """Four runs: an order that waits, its child, a completed order, a failed refund."""
    history.begin(A, tags=("vip",))
    history.run(B, created(A, "ship", parent=A), e.RunStarted(attempt=1))
    history.run(A, e.ChildStarted(cause=2, name="ship", child=B, workflow="ship", wanted=True))
    history.begin(C, tags=("vip", "big"))
    history.end(C)
    history.begin(D, "refund")
    history.run(D, e.RunFailed(cause=2, error=BROKEN))
    return history


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [D, C, B, A]),
        ({"status": "waiting"}, [A]),
        ({"status": "child"}, [A]),
        ({"status": "completed"}, [C]),
        ({"status": "queued"}, []),
        ({"workflow": "order"}, [C, A]),
        ({"workflow": "order", "status": "completed"}, [C]),
        ({"parent": A}, [B]),
        ({"parent": A, "status": "completed"}, []),
        ({"tag": "vip"}, [C, A]),
        ({"tag": "vip", "workflow": "refund"}, []),
        ({"since_us": START_US + 1_000_000}, [D, C, B]),
        ({"until_us": START_US + 3_000_000}, [B, A]),
        ({"until_us": START_US + 3_000_001}, [C, B, A]),
        ({"since_us": START_US + 1_000_000, "until_us": START_US + 3_000_000}, [B]),
        ({"since_us": START_US + 9_000_000}, []),
    ],
)
def test_list_filters(shop: History, filters: dict[str, Any], found: list[str]):
    """Runs are listed newest first, by any filters together; `until` leaves its own moment out."""
    assert found == ids(shop, **filters)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_pages_hold_every_run_once(shop: History, limit: int):
    """Going from cursor to cursor gives every run once, in order, and ends."""
    seen: list[str] = []
    cursor = None
    while True:
        with shop.log.reader() as reader:
            page = reads.list_runs(reader, limit=limit, cursor=cursor)
        assert len(page.rows) <= limit
        seen += [row.run for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            break

    assert [D, C, B, A] == seen


def test_pages_split_runs_created_in_one_commit(history: History):
    """Runs with the same creation time are told apart by the cursor."""
    history.record(*((f"run/{run}", created(run)) for run in (A, B, C)))
    with history.log.reader() as reader:
        first = reads.list_runs(reader, limit=2)
        rest = reads.list_runs(reader, limit=2, cursor=first.cursor)

    assert ([C, B], [A], None) == ([row.run for row in first.rows], [row.run for row in rest.rows], rest.cursor)


@pytest.mark.parametrize(
    ("limit", "cursor"),
    [(0, None), (10_001, None), (1, "x"), (1, ""), (1, "-1:a"), (1, "²:a"), (1, "5"), (1, "5:"), (1, "5:" + "a" * 201)],
)
def test_list_refuses_what_makes_no_sense(history: History, limit: int, cursor: str | None):
    """A limit out of range and a cursor that is none of ours are the caller's mistake."""
    with history.log.reader() as reader, pytest.raises(PolosUsageError, match=r"limit|cursor"):
        reads.list_runs(reader, limit=limit, cursor=cursor)


def test_a_row_of_a_newer_polos_is_read(history: History):
    """What a newer polos adds to a row is left out, not stumbled over."""
    row = reads.RunRow(run=A, workflow="order")

    assert row == reads.row_from_json(A, {"workflow": "order", "mood": "good"})


# ---------------------------------------------------------------------------------------- pending


def test_pending_runs_show_as_queued(shop: History):
    """A run that waits in the inbox is listed as queued, at its place in time and under the same filters."""
    inbox = MemoryInbox()
    late, early = run_id(9), run_id(5)
    inbox.put("c2", wanted((early, created(early, tags=("vip",))), (late, created(late, "refund"))))
    inbox.put("c1", orjson.dumps({"command": {"kind": "cancel", "run": A}, "by": "a test"}))
    with shop.log.reader() as reader:

        def listed(**filters: Any) -> list[str]:
            page = reads.list_runs(reader, reads.RunFilter(**filters), reads.pending_runs(inbox))
            return [row.run for row in page.rows]

        assert [D, C, B, late, early, A] == listed()
        assert [late, early] == listed(status="queued")
        assert [D, late] == listed(workflow="refund")
        assert [C, early, A] == listed(tag="vip")
        assert [D, C, B] == listed(since_us=START_US + 1_000_000)

    (first, _) = reads.pending_runs(inbox)
    shown = reads.pending_execution(first)
    assert ("queued", early, "order", None) == (
        shown["status"], shown["id"], shown["workflow_id"], shown["result"],
    )  # fmt: skip


def test_pages_go_on_through_pending_runs(shop: History):
    """The cursor leads through pending runs as through recorded ones."""
    inbox = MemoryInbox()
    inbox.put("c", wanted(*((run, created(run)) for run in (run_id(5), run_id(6)))))
    seen: list[str] = []
    cursor = None
    with shop.log.reader() as reader:
        for _ in range(6):
            page = reads.list_runs(reader, None, reads.pending_runs(inbox), limit=1, cursor=cursor)
            seen += [row.run for row in page.rows]
            cursor = page.cursor

    assert [D, C, B, run_id(6), run_id(5), A] == seen
    assert cursor is None


def test_a_pending_run_that_is_recorded_counts_once(shop: History):
    """A run is listed once while its command is recorded and its file not yet removed."""
    inbox = MemoryInbox()
    inbox.put("c", wanted((D, created(D, "refund"))))

    with shop.log.reader() as reader:
        assert [D, C, B, A] == [row.run for row in reads.list_runs(reader, None, reads.pending_runs(inbox)).rows]


@pytest.mark.parametrize(
    "payload",
    [
        b"no json",
        b"[]",
        b'{"command": 1}',
        b'{"command": {"kind": "create"}}',
        b'{"command": {"kind": "create", "runs": [{"run": "x", "created": {}}]}}',
        b'{"command": {"kind": "create", "runs": [{"run": "x", "created": {"workflow": "w", "mood": "good"}}]}}',
    ],
)
def test_a_command_that_is_none_is_left_to_the_engine(payload: bytes):
    """What the engine will refuse hides nobody else's pending run."""
    inbox = MemoryInbox()
    inbox.put("c1", payload)
    inbox.put("c2", wanted((A, created(A))))

    assert [A] == [pending.row.run for pending in reads.pending_runs(inbox)]


# ------------------------------------------------------------------------------------------ times


def test_times_there_and_back():
    """An instant as text and the text as an instant are the same microsecond; a naive one is UTC."""
    odd = START_US + 123_457

    assert odd == reads.microseconds(reads.rfc3339(odd), "since")
    assert START_US == reads.microseconds("2026-01-01T00:00:00", "since")
    assert START_US == reads.microseconds(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), "since")
    assert START_US == reads.microseconds(datetime(2026, 1, 1, tzinfo=UTC), "since")
    assert (None, None) == (reads.microseconds(None, "since"), reads.rfc3339(None))


def test_text_that_is_no_time_is_refused():
    """A text that is no instant is named in the error, with its argument."""
    with pytest.raises(ValueError, match=r"until is an instant such as .* not 'tomorrow'"):
        reads.microseconds("tomorrow", "until")


def test_list_refuses_a_status_that_there_is_not(history: History):
    """A slip in a status is an error that lists them, not an empty page; each that there is gives a page."""
    with history.log.reader() as reader:
        with pytest.raises(PolosUsageError, match=r"status is one of queued, running.*not 'runing'"):
            reads.list_runs(reader, reads.RunFilter(status="runing"))
        for status in reads.STATUSES:
            reads.list_runs(reader, reads.RunFilter(status=status))


def test_list_refuses_an_end_before_there_was_time(history: History):
    """`until` before 1970 is refused by its name."""
    until = reads.microseconds(datetime.min.replace(tzinfo=UTC), "until")
    with history.log.reader() as reader, pytest.raises(PolosUsageError, match="until is an instant after 1970"):
        reads.list_runs(reader, reads.RunFilter(until_us=until))

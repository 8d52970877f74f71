"""
The suite catches parts that are nearly right.

As in `test_controls`, each check is asked twice: with one part broken, when it must fail and say why, and with all as
it is, when it must pass. The checks are those that the tests of the invariants rely on: the contract of the log, the
audit that reads over every simulated engine's shoulder, the oracle of generated programs, and the counts of runs per
queue at each position. Most scenes are such a test itself, called once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from polos import Queue, workflow
from polos.engine.admission import Limits, Rate
from polos.errors import PolosError
from polos.testing.simulation import Simulation

from tests import test_queues, test_store_blobs, test_timers
from tests.contract import logs, test_log
from tests.controls import broken_parts as broken
from tests.crash.kill_points import kill_points
from tests.crash.lives import append_groups, make_store
from tests.crash.test_commit_steps import check_promises
from tests.property import test_codec, test_core, test_places
from tests.property.playing import play
from tests.property.programs import Node, program
from tests.property.test_admission import AdmissionMachine
from tests.property.test_programs import look, meaning, outcome

# What a broken promise is told by: a check of the suite, or an error of our own. Python's errors are those of code that
# doesn't even run, in the break or in the test, and prove nothing; nor does a check that has merely met one.
PROMISES = (AssertionError, pytest.fail.Exception, PolosError)
ACCIDENT = re.compile(r"\b(Name|UnboundLocal|Attribute|Type|Key|Index|Value|Import|Recursion|ZeroDivision)Error\b")

STEP: Node = ["step", "a", 0, 0, 100, "idempotent"]


def both(*breaks: broken.PartBreak) -> Any:
    """Ask a check with each of these breaks, and with none."""
    return pytest.mark.parametrize("broke", [*breaks, broken.nothing], ids=lambda one: one.__name__)


@contextmanager
def seen(broke: broken.PartBreak, says: str, logged: pytest.LogCaptureFixture | None = None) -> Generator[None]:
    """Break a part; what happens inside must fail in these words, its log included, or pass if nothing is broken."""
    with pytest.MonkeyPatch.context() as patch:
        broke(patch)
        if broke is broken.nothing:
            yield
            return
        try:
            yield
        except (Exception, pytest.fail.Exception) as failure:  # whatever it is, it says why
            told = f"{type(failure).__name__}: {failure} {getattr(failure, '__notes__', '')}"
            if not isinstance(failure, PROMISES) or ACCIDENT.search(told):
                raise AssertionError(f"{broke.__name__} is caught by accident, not by a promise: {told}") from failure
            told += logged.text if logged else ""
            assert re.search(says, told), told
        else:
            pytest.fail(f"{broke.__name__} isn't caught")


def on_each_log(where: Path, check: Callable[..., None]) -> None:
    """Ask the contract of a log in memory and of one in LMDB."""
    for name in ("memory", "lmdb-full"):
        log = logs.LOGS[name](where)
        try:
            check(log, log.acquire())
        finally:
            log.close()


# ----------------------------------------------------------------------------------------------------- the log


@both(broken.leaves_a_gap_between_commits)
def test_leaves_a_gap_between_commits(tmp_path, broke):
    """Positions aren't contiguous: the contract's test of L1 finds the gap."""
    with seen(broke, r"assert \[\(1, 2\)"):
        on_each_log(tmp_path, test_log.test_l1_positions_are_contiguous_from_1)


@both(broken.counts_versions_of_all_streams_together)
def test_counts_versions_of_all_streams_together(tmp_path, broke):
    """Streams count together: the contract's test of L2 finds versions that no record has."""
    with seen(broke, "L2: the index of stream a goes from version 1 to 3"):
        on_each_log(tmp_path, test_log.test_l2_versions_of_a_stream_are_contiguous_from_1)


@both(broken.commits_unit_by_unit)
def test_commits_unit_by_unit(tmp_path, broke):
    """Half a group stays when the other half is refused: the contract's test of L3 finds it."""
    with seen(broke, "assert 2 == 1"):
        on_each_log(tmp_path, test_log.test_l3_a_wrong_expected_version_fails_the_whole_group)


@both(broken.writes_rows_behind_the_records)
@pytest.mark.usefixtures("ptrace")
def test_writes_rows_behind_the_records(tmp_path, broke):
    """Rows come in a commit of their own: a kill between the two leaves records without rows, found when opened."""

    def life(directory: Path) -> None:
        append_groups(directory)

    with seen(broke, r"in check_units\n(.|\n)*\nAssertionError\n.*killed before"):
        points = kill_points(life, tmp_path / "victims", prepare=make_store, begin="begin")
        for point in islice(points, 2, None, 1 if broke is not broken.nothing else 4):
            check_promises(point, group=2)


@both(broken.shows_rows_before_their_records)
def test_shows_rows_before_their_records(tmp_path, broke):
    """An open reader sees half of a later group: the contract's test of L5 finds rows from the future."""
    with seen(broke, r"b'old'"):
        on_each_log(tmp_path, test_log.test_l5_a_reader_sees_a_prefix_and_no_more)


@both(broken.lets_the_owner_before_append)
def test_lets_the_owner_before_append(tmp_path, broke):
    """The owner that was replaced last may go on: the contract's test of L7 tries that very epoch."""
    with seen(broke, "DID NOT RAISE"):
        on_each_log(tmp_path, test_log.test_l7_an_old_epoch_is_refused)


@both(broken.leaves_time_out_of_the_chain)
def test_leaves_time_out_of_the_chain(tmp_path, broke):
    """The time of a record could be changed, and all is read as before: the hash isn't the documented one."""
    with seen(broke, r"assert b.* == b"):
        on_each_log(tmp_path, test_log.test_l8_the_head_is_the_documented_hash)


@both(broken.collects_a_blob_that_is_pinned, broken.collects_what_was_put_again)
def test_collects_a_blob_that_is_about_to_be_named(tmp_path, broke):
    """An event is recorded and its blob was collected meanwhile: the test of the collection finds it gone."""
    with seen(broke, r"assert \(\) == \('"):
        test_store_blobs.test_a_blob_that_is_wanted_while_garbage_is_collected_stays(tmp_path)


# ---------------------------------------------------------------------------------------------------- the core


def play_and_look(node: Node, what: list[Node]) -> None:
    """Play a program, and look at it as the properties of generated programs do."""
    with Simulation([program], seed=1) as sim:
        call = play(sim, node, what)
        assert meaning(node) == outcome(sim, call.run)
        look(sim)


@both(broken.shares_memory_between_states)
def test_shares_memory_between_states(broke):
    """`evolve` changes a state that it wasn't given: the audit folds on copies and sees the original change."""
    with seen(broke, "evolve changed what it wasn't given"):
        play_and_look(["seq", [STEP, ["step", "b", 0, 0, 100, "idempotent"]]], [])


@both(broken.refuses_what_cleans_up, broken.refuses_what_a_second_attempt_gives)
def test_refuses_what_may_happen(broke, caplog):
    """`evolve` isn't total: it is shown all that is decided, and refuses a result that may come in this state."""
    twice: Node = ["step", "b", 1, 1, 100, "idempotent"]
    with (
        seen(broke, r"in checked\n.*E1, E2: raises[^$]*IllegalHistory.*StepCompleted", caplog),
        test_core.suspicious(),
        Simulation([program]) as sim,
    ):
        play(sim, ["seq", [twice, ["finally", ["signal", "never", None], STEP]]], [["run", 900], ["cancel", 0]])

        assert "this is a bug in polos" not in caplog.text


@both(broken.completes_a_step_twice)
def test_completes_a_step_twice(broke, caplog):
    """`decide` emits what can't happen: it is shown to `evolve` first, which refuses it, and the run never ends."""
    with (
        seen(broke, "in checked\n.*E1, E2: raises[^$]*IllegalHistory.*StepCompleted", caplog),
        test_core.suspicious(),
        Simulation([program]) as sim,
    ):
        play(sim, STEP, [])


@both(broken.owes_behind_the_end)
def test_owes_behind_the_end(broke):
    """A run was cancelled, and is owed the end of its grace: the audit looks at what is owed by who ended."""
    with seen(broke, "E4: run .* ended and owes"), Simulation([program]) as sim:
        play(sim, ["wait", 3600.0], [["run", 10], ["cancel", 0]])


@both(broken.folds_by_the_batch)
def test_folds_by_the_batch(broke):
    """Folding record by record differs from folding at once: the audit compares the two."""
    with seen(broke, "AssertionError: E5\n"):
        play_and_look(["seq", [["wait", 5.0], ["flaky", 1]]], [])


@both(broken.forgets_what_the_attempt_before_finished)
def test_forgets_what_the_attempt_before_finished(broke):
    """A step that is done is asked for again by the next attempt: the audit sees it called after it has ended."""
    with seen(broke, "E3: .* ended twice|E8: call 2 of step"):
        play_and_look(["seq", [STEP, ["flaky", 1]]], [])


@both(broken.forgets_an_upcaster)
def test_forgets_an_upcaster(broke):
    """A schema version has no way to the next one: the property of E7 that looks for the way says which."""
    with seen(broke, r"assert \[\] == \[1\]"):
        test_codec.test_e7_every_version_has_its_upcasters("TimerFired")


@both(broken.decodes_old_bytes_as_new)
def test_decodes_old_bytes_as_new(broke):
    """Bytes of a version long past skip an upcaster: the property of E7 that goes through all of them fails."""
    says = "StoreDamaged: the payload of a TimerFired isn't one: 'title'"
    with seen(broke, says), pytest.MonkeyPatch.context() as patch:
        test_codec.test_e7_old_bytes_go_through_every_upcaster(patch)


# --------------------------------------------------------------------------------------------------- the shell


@workflow(id="asks in line", queue=Queue("counter", 1, key_concurrency_limit=1))
async def asks_in_line(ctx, payload: dict[str, Any]) -> Any:
    """Ask, or hold the only slot for a minute."""
    if payload.get("holds"):
        return await ctx.step.run("nap", test_queues.nap, 60.0)
    return (await ctx.step.suspend("ask", {})).data


@both(broken.loses_a_wake_up)
def test_loses_a_wake_up(broke):
    """An answer is durable and nobody runs the code on it: the program never ends."""
    with seen(broke, "these runs don't end"), Simulation([asks_in_line]) as sim:
        run = sim.create(asks_in_line, {}).run
        sim.settle()
        sim.engine.next_position = 0  # as after a failed commit: the code sees no answer before it is durable
        sim.send("resume", run=run, key="ask", data="yes")
        sim.settle()

        assert [] == sim.audit.living(), "these runs don't end"


@both(broken.tells_a_place_too_far)
def test_tells_a_place_too_far(broke, caplog):
    """Code is told of a place that isn't its answer's: the property of places finds another one in the log."""
    with seen(broke, r"AssertionError: assert \["):
        test_places.test_what_was_told_is_where_it_is(0, caplog)


@both(broken.evicts_what_was_not_seen)
def test_evicts_what_was_not_seen(broke):
    """A run is answered while another one has its slot, and leaves memory before it sees that: it never goes on."""
    with seen(broke, "doesn't end"), Simulation([asks_in_line]) as sim:
        asking = sim.create(asks_in_line, {}, queue="counter")
        sim.run_ready()
        sim.create(asks_in_line, {"holds": True}, queue="counter")
        sim.run_for(1)
        sim.send("resume", run=asking.run, key="ask", data="yes")
        sim.run_for(1)
        sim.evict()
        sim.settle()

        assert [] == sim.audit.living(), "a run that was answered doesn't end"
        assert "yes" == sim.result(asking.run)


@both(broken.fires_twice_after_a_jump)
def test_fires_twice_after_a_jump(broke):
    """The clock jumps over several moments: the heap's own test counts how often each comes up."""
    with seen(broke, r"assert \['a', 'b', 'c'\] == \['a', 'a'"):
        test_timers.test_what_is_due_comes_up_in_order_and_once()


@both(broken.fires_what_has_fired)
def test_fires_what_has_fired(broke, caplog):
    """A timer that came up twice would fire twice: `evolve` refuses that history, the run is read again, as logged."""
    with seen(broke, "IllegalHistory.*TimerFired", caplog):
        play_and_look(["seq", [["wait", 20.0], STEP]], [["run", 10], ["jump", 3600]])

        assert "this is a bug in polos" not in caplog.text


@both(broken.gives_one_slot_too_many)
def test_gives_one_slot_too_many(broke):
    """One run more than the limit is under way: counted per queue at each position of the log."""
    with seen(broke, r"assert \(3, 6\) == \(4"):
        test_queues.test_limits_hold_for_queue_and_key(0)


@both(broken.forgets_slots_in_a_crash)
def test_forgets_slots_in_a_crash(broke):
    """After a crash a queue is taken for empty: counted per queue at each position of the log, across lives."""
    with seen(broke, r"assert \(3, 6\) == \("):
        test_queues.test_limits_hold_for_queue_and_key(3)


@both(broken.counts_a_rate_by_grants)
def test_counts_a_rate_by_grants(broke):
    """Somebody was let go long before its start is recorded: the model counts the start, and sees one too many."""
    with seen(broke, "goes and must not|nobody waits idly"):
        machine = AdmissionMachine()
        machine.configure("a", Limits(rate=Rate(1, 10)))
        machine.join("a", "", 0, begun=False)
        machine.join("a", "", 0, begun=False)
        machine.time_passes(25)
        machine.started(0)
        machine.time_passes(1)
        machine.wait_for_what_is_due()
        machine.counts()

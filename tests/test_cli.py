"""
The command line: in this process against a live engine, and against stores that nobody owns.

What it prints for people is looked at for what must be in it, not word by word; what it prints for programs is exact.
Commands that a command prints are run as they stand.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import shlex
from pathlib import Path
from typing import Any

import orjson
import pytest
from polos import Polos, WorkflowContext, workflow
from polos.cli.outcomes import Exit
from polos.engine import events as e
from polos.runtime.client import PolosClient

from tests.cli_kit import typed, until
from tests.stories import created, story_on_disk

RUN = "0190-aaaa"


def define_order() -> None:
    """Define a workflow with a step, a child, a question and a signal."""

    @workflow(id="pack")
    async def _pack(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
        return str(await ctx.step.run("wrap", lambda: f"box of {payload['n']}"))

    @workflow(id="order")
    async def _order(ctx: WorkflowContext, payload: dict[str, Any]) -> list[Any]:
        await ctx.step.invoke_and_wait("pack it", "pack", payload)
        answer = await ctx.step.suspend("ok", {"sum": payload["n"]})
        last = await ctx.step.wait_for_signal("go on")
        return [answer.data, last]


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """A data directory that nobody owns: a run that waits, one that failed, one that is queued."""
    directory = tmp_path / "data"
    with story_on_disk(directory) as story:
        story.tell(
            RUN,
            (0, created(RUN, input={"n": 1}, tags=("vip",))),
            (1, e.RunStarted(attempt=1)),
            (2, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok", data={"sum": 2})),
        )
        failure = e.Failure(type="ValueError", message="too small")
        story.tell("0191-bbbb", (3, created("0191-bbbb", "ship")), (4, e.RunStarted(attempt=1)))
        story.tell("0191-bbbb", (5, e.RunFailed(cause=2, error=failure)))
        story.tell("0192-cccc", (6, created("0192-cccc")))
    return directory


# ------------------------------------------------------------------------------ with an engine


def test_a_day_at_the_terminal(say, play):
    """Runs are listed, asked why they wait, and moved on by typing what `why` says to type."""
    define_order()

    async def day(polos: Polos) -> None:
        handle = await polos.invoke("order", {"n": 2}, tags=["vip"])
        await until(polos, handle.id, "suspend")

        alone = await typed(say)
        assert (0, True) == (alone.code, "an engine is running" in alone.out)
        assert handle.id in alone.out
        head, living = (await typed(say, "--json")).lines
        assert {"waiting": 1, "completed": 1} == {status: n for status, n in head["counts"].items() if n}
        assert (handle.id, "suspend") == (living["id"], living["waiting_reason"])

        (reason,) = (await typed(say, "why", handle.id, "--json")).lines[0]["reasons"]
        assert ("suspend", {"sum": 2}) == (reason["kind"], reason["detail"])
        answered = await typed(say, *shlex.split(reason["command"].replace("DATA", """'{"yes": 1}'"""))[1:])
        assert (0, f"{handle.id}: ok is answered\n") == (answered.code, answered.out)

        await until(polos, handle.id, "signal")
        (reason,) = (await typed(say, "why", handle.id, "--json")).lines[0]["reasons"]
        sent = await typed(say, *shlex.split(reason["command"].replace("DATA", "-5"))[1:])
        assert 0 == sent.code
        found = await polos._wait_ended(handle.id)
        assert [{"yes": 1}, -5] == found["result"]

        shown = await typed(say, "show", handle.id[-12:])
        for text in (handle.id, "pack it", "box of 2", "for an answer to ok", '"yes":1', "completed", "tree"):
            assert text in shown.out
        assert "ended" == (await typed(say, "why", handle.id, "--json")).lines[0]["reasons"][0]["kind"]
        whole = await typed(say, "verify")
        assert (0, True) == (whole.code, whole.out.startswith("whole: "))

    play(day)


def test_cancel(say, play):
    """A run is cancelled with who and why; one that is over is refused."""
    define_order()

    async def day(polos: Polos) -> None:
        handle = await polos.invoke("order", {"n": 2})
        await until(polos, handle.id, "suspend")
        asked = await typed(say, "cancel", handle.id, "--by", "ada", "--reason", "enough", "--json")
        assert ("cancel", handle.id, "accepted") == tuple(asked.lines[0][name] for name in ("kind", "run", "outcome"))
        found = await polos._wait_ended(handle.id)
        assert ("cancelled", "ada") == (found["status"], found["cancelled_by"])
        again = await typed(say, "cancel", handle.id)
        assert (Exit.REFUSED, "") == (again.code, again.out)
        assert "is over: cancelled" in again.err
        assert "enough" in (await typed(say, "show", handle.id)).out

    play(day)


def test_resolve(say, tmp_path):
    """A step of unknown outcome is resolved by typing what `why` says, and the run goes on with that result."""
    directory = tmp_path / "data"
    with story_on_disk(directory) as story:
        story.tell(
            RUN,
            (0, created(RUN, input={})),
            (1, e.RunStarted(attempt=1)),
            (2, e.StepScheduled(cause=2, name="pay", function="pay", digest="d", effect="at_most_once")),
            (2, e.StepAttemptStarted(name="pay", attempt=1)),
            (3, e.StepOutcomeUnknown(name="pay", attempt=1, reason="the process died")),
        )

    @workflow(id="order")
    async def _order(ctx: WorkflowContext, _payload: dict[str, Any]) -> Any:
        return await ctx.step.run("pay", lambda: 1, effect="at_most_once")

    async def day() -> None:
        async with Polos(data_dir=directory) as polos:
            (reason,) = (await typed(say, "why", RUN, "--json")).lines[0]["reasons"]
            command = reason["command"].replace("RESULT", "42")
            assert 0 == (await typed(say, *shlex.split(command)[1:])).code
            assert 42 == (await polos._wait_ended(RUN))["result"]
            again = await typed(say, *shlex.split(command)[1:])
            assert Exit.REFUSED == again.code

    asyncio.run(day())
    assert "resolved as completed" in say("show", RUN).out


def test_readmit(say, tmp_path):
    """A poisoned run is let in again by typing what `why` says."""
    directory = tmp_path / "data"
    with story_on_disk(directory) as story:
        story.tell(
            RUN,
            (0, created(RUN, input={})),
            (1, e.RunStarted(attempt=1)),
            (2, e.RunSetAside(reason="poisoned", message="three deaths")),
        )

    @workflow(id="order")
    async def _order(_ctx: WorkflowContext, _payload: dict[str, Any]) -> int:
        return 7

    async def day() -> None:
        async with Polos(data_dir=directory) as polos:
            (reason,) = (await typed(say, "why", RUN, "--json")).lines[0]["reasons"]
            assert "poisoned" == reason["kind"]
            assert 0 == (await typed(say, *shlex.split(reason["command"])[1:])).code
            assert 7 == (await polos._wait_ended(RUN))["result"]

    asyncio.run(day())


def test_resume_of_every_wait_in_a_tree(say, play):
    """`resume --all` answers each open wait of a key, in whichever run of the tree."""

    @workflow(id="leaf")
    async def _leaf(ctx: WorkflowContext, _payload: dict[str, Any]) -> Any:
        return (await ctx.step.suspend("ok", {})).data

    @workflow(id="root")
    async def _root(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step.invoke_and_wait(name, "leaf", payload)) for name in "ab"]
        return [task.result() for task in tasks]

    async def day(polos: Polos) -> None:
        handle = await polos.invoke("root", {})
        moves = polos._connection().moves()
        while len(await polos.list_executions(status="suspend")) < 2:
            await moves.behind(moves.head())
        assert 0 == (await typed(say, "resume", handle.id, "ok", "plain text", "--all")).code
        assert ["plain text"] * 2 == (await polos._wait_ended(handle.id))["result"]

    play(day)


def test_tail_of_a_run(say, play):
    """Following a run prints its public events and its children's, and ends when it ends."""
    define_order()

    async def day(polos: Polos) -> None:
        handle = await polos.invoke("order", {"n": 2})
        await until(polos, handle.id, "suspend")
        following = asyncio.create_task(typed(say, "tail", handle.id, "--from-start", "--json"))
        await polos.resume("order", handle.id, "ok", 1)
        await polos.signal(handle.id, "go on")
        said = await following
        kinds = [event["event_type"] for event in said.lines]
        assert (0, "workflow_start", "workflow_finish") == (said.code, kinds[0], kinds[-1])
        assert {"suspend_ok", "resume_ok", "step_finish"} < set(kinds)
        asked = next(event["data"] for event in said.lines if event["event_type"] == "suspend_ok")
        assert f"{polos.api_url}/approve/{handle.id}/ok" == asked["_approval_url"]
        middle = said.lines[2]["sequence_id"]
        rest = await typed(say, "tail", handle.id, "--after", str(middle), "--json")
        assert said.lines[3:] == rest.lines
        shown = await typed(say, "tail", handle.id, "--from-start")
        assert len(said.lines) == len(shown.out.splitlines())
        assert f"order {handle.id}  suspend_ok" in shown.out
        assert "" == shown.err

    play(day)


# ------------------------------------------------------------------------------ without an engine


def test_what_can_wait_is_kept_for_the_next_engine(say, tmp_path):
    """Without an engine commands are kept, the next engine carries them out, and `polos` says that they wait."""
    define_order()

    async def begin() -> str:
        async with Polos(data_dir=tmp_path / "data") as polos:
            handle = await polos.invoke("order", {"n": 2})
            await until(polos, handle.id, "suspend")
            return handle.id

    async def go_on(handle: str) -> Any:
        async with Polos(data_dir=tmp_path / "data") as polos:
            return (await polos._wait_ended(handle))["result"]

    handle = asyncio.run(begin())
    kept = say("resume", handle, "ok", "[1]")
    told = say("signal", handle, "go on", "--json")
    alone = say()
    result = asyncio.run(go_on(handle))

    assert (0, f"{handle}: kept for the next engine, since none is running\n") == (kept.code, kept.out)
    assert (0, "queued") == (told.code, told.lines[0]["outcome"])
    assert "2 commands kept for the next engine" in alone.out
    assert [[1], None] == result


def test_runs_that_only_the_inbox_has(say, tmp_path):
    """A run that was asked for without an engine is listed, shown, and told about."""

    async def ask() -> str:
        async with PolosClient(data_dir=tmp_path / "data") as client:
            return (await client.invoke("order", {"n": 2})).id

    handle = asyncio.run(ask())

    assert [handle] == [found["id"] for found in say("ls", "--json").lines]
    assert '"n":2' in say("show", handle).out
    assert {"n": 2} == say("show", handle, "--json").lines[0]["payload"]
    assert ["no_engine", "inbox"] == [reason["kind"] for reason in say("why", handle, "--json").lines[0]["reasons"]]
    assert 0 == say("cancel", handle).code


def test_lists(say, dead):
    """Runs are listed the newest first, by status, reason, workflow, tag and time, page by page."""

    def ids(*arguments: str) -> list[str]:
        return [found["id"] for found in say("ls", "--json", *arguments).lines]

    assert ["0192-cccc", "0191-bbbb", RUN] == ids()
    assert [RUN] == ids("--status", "suspend") == ids("--tag", "vip") == ids("--until", "2027-01-15T08:00:01Z")
    assert ["0191-bbbb"] == ids("--workflow", "ship") == ids("--status", "failed")
    assert ["0192-cccc"] == ids("--since", "2027-01-15T08:00:06Z")
    assert [] == ids("--parent", "aaaa")
    assert Exit.REFUSED == say("ls", "--parent", "zzz").code
    page = say("ls", "--limit", "2")
    more = next(line for line in page.out.splitlines() if line.startswith("more: "))
    assert RUN not in page.out
    assert RUN in say(*shlex.split(more.removeprefix("more: ").split(" (")[0])[1:]).out
    assert "no such run" in say("ls", "--status", "poisoned").out
    assert "no engine is running" in page.out


def test_lists_by_length_of_time(say, dead, monkeypatch):
    """`--since 2h` counts back from now."""
    monkeypatch.setattr("polos.clock.SystemClock.now_us", lambda _self: 1_800_000_000_000_000 + 7_205_000_000)

    assert ["0192-cccc"] == [found["id"] for found in say("ls", "--json", "--since", "2h").lines]
    assert 3 == len(say("ls", "--json", "--since", "1.5d").lines)


def test_nothing_is_written_by_looking(say, dead):
    """Reading commands change no byte of a store, and make no directory where there is none."""

    def state() -> dict[str, str]:
        files = (path for path in dead.rglob("*") if path.is_file() and path.name != "lock.mdb")  # LMDB's own
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = state()
    codes = [say(*command).code for command in ((), ("ls",), ("show", RUN), ("why", RUN), ("verify",))]
    absent = dead.parent / "absent"
    refused = [
        say(*command, "--data-dir", str(absent)).code
        for command in (("ls",), ("show", RUN), ("signal", RUN, "x"), ("verify",), ("backup", str(dead.parent / "b")))
    ]

    assert ([0] * 5, before) == (codes, state())
    assert ([Exit.REFUSED] * 5, False) == (refused, absent.exists())


def test_the_directory_that_was_named_is_in_what_to_type(say, dead, monkeypatch):
    """A command to type next means the directory that was named, wherever it is typed."""
    monkeypatch.setenv("POLOS_DATA_DIR", "/nowhere")
    (_, reason) = say("why", RUN, "--data-dir", str(dead), "--json").lines[0]["reasons"]
    kept = say(*shlex.split(reason["command"].replace("DATA", "1"))[1:])

    assert 0 == kept.code


def test_the_directory_may_be_named_before_the_command(say, dead, tmp_path, monkeypatch):
    """`polos --data-dir DIRECTORY` is what an error says to type next; whoever adds a command behind it means that."""
    monkeypatch.delenv("POLOS_DATA_DIR")
    behind = say("ls", "--json", "--data-dir", str(tmp_path / "data"))

    assert (Exit.OK, True) == (behind.code, bool(behind.out))
    assert behind == say("--data-dir", str(tmp_path / "data"), "--json", "ls")
    assert behind == say(f"--data-dir={tmp_path / 'data'}", "ls", "--json")
    assert "data: no engine is running" in say("--data-dir", str(tmp_path / "data")).out
    assert "Did you mean" in say("--data-dir", str(tmp_path / "data"), "lss").err


def test_backup(say, dead, tmp_path):
    """A copy answers as the original does; a directory that isn't empty is refused."""
    copy = tmp_path / "copy"
    made = say("backup", str(copy), "--json")

    assert (0, 7) == (made.code, made.lines[0]["position"])
    assert say("verify", "--json").lines[0]["chain"] == made.lines[0]["chain"]
    assert say("ls", "--json").lines == say("ls", "--json", "--data-dir", str(copy)).lines
    assert Exit.REFUSED == say("backup", str(copy)).code
    assert "7 records" in say("backup", str(tmp_path / "other")).out


# ------------------------------------------------------------------------------------- damage


def test_verify_finds_a_damaged_record(say, dead):
    """One flipped byte in a record is found where it is, and the exit code says so."""
    path = dead / "log" / "data.mdb"
    content = path.read_bytes()
    assert b"too small" in content  # also on pages that LMDB no longer uses
    path.write_bytes(content.replace(b"too small", b"too smalk"))
    said, told = say("verify", "--json"), say("verify")

    assert (Exit.DAMAGED, False) == (said.code, said.lines[0]["ok"])
    assert ("log", 6) == (said.lines[0]["damage"]["place"], said.lines[0]["damage"]["position"])
    assert Exit.DAMAGED == told.code
    assert "first in log at record 6" in told.out


def test_a_store_whose_pages_are_no_pages(say, dead):
    """A damaged page at the root of everything is damage for every command, and no traceback."""
    path = dead / "log" / "data.mdb"
    content = bytearray(path.read_bytes())
    for start in range(2 * mmap.PAGESIZE, len(content), mmap.PAGESIZE):
        content[start + 10 : start + 12] = bytes(2)  # what kind of page it is
    path.write_bytes(content)
    said = say("verify", "--json")

    assert (Exit.DAMAGED, "environment") == (said.code, said.lines[0]["damage"]["place"])
    assert [Exit.DAMAGED] * 4 == [say(*command).code for command in ((), ("ls",), ("show", RUN), ("signal", RUN, "x"))]


def test_verify_finds_a_row_that_does_not_follow(say, tmp_path):
    """A row that the records don't fold to is damage, however whole its bytes are."""
    from polos.store.directory import open_store
    from polos.store.log import AppendUnit

    with open_store(tmp_path / "data") as store:
        epoch = store.acquire_ownership()
        ghost = AppendUnit(records=(), rows=((("status", "running", 1, "ghost"), b""),))
        store.log.append([ghost], epoch=epoch)
    said, listed = say("verify", "--json"), say("ls", "--status", "running")

    assert (Exit.DAMAGED, True) == (listed.code, listed.err.endswith("next: polos verify\n"))
    assert (Exit.DAMAGED, "rows") == (said.code, said.lines[0]["damage"]["place"])
    assert "L6" in said.lines[0]["damage"]["message"]


def test_verify_finds_a_missing_blob(say, play, tmp_path):
    """A blob that a record needs and that is gone is damage, and a command that needs it says so, too."""
    define_order()
    runs: list[str] = []

    async def ask(polos: Polos) -> None:
        runs.append((await polos.invoke("order", {"n": "x" * 4_000_000})).id)

    play(ask)
    for path in (tmp_path / "data" / "blobs").rglob("*"):
        if path.stat().st_size > 4_000_000:
            path.unlink()
    said, shown = say("verify", "--json"), say("show", runs[0])

    assert (Exit.DAMAGED, "blobs") == (said.code, said.lines[0]["damage"]["place"])
    assert (Exit.DAMAGED, True) == (shown.code, shown.err.endswith("next: polos verify\n"))


# ------------------------------------------------------------------------- errors and exit codes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shwo", "x"], '"shwo"'),
        (["show"], "RUN"),
        (["ls", "--limit", "many"], "--limit"),
        (["ls", "--since", "yesterday"], "yesterday"),
        (["ls", "--nope"], "--nope"),
        (["cancel"], "one run, or"),
        (["retry"], "one run, or"),
        (["cancel", "x", "--tag", "vip"], "one run, or"),
        (["retry", "--tag", "vip", "--until", "soon"], "soon"),
        (["schedules", "start", "x"], "start"),
        (["queues", "pause"], "QUEUE"),
        (["--nope"], "--nope"),
        (["tail"], "one run or --all"),
        (["tail", "x", "--all"], "one run or --all"),
        (["tail", "x", "--from-start", "--after", "5"], "--from-start or --after"),
        (["resolve", "x", "step", "perhaps"], "perhaps"),
        (["signal", "x", "go", "\udcff"], "UTF-8"),
    ],
)
def test_bad_command_lines(say, arguments, message):
    """A mistake in typing is told as such, with the command that says how it is right, and nothing else happens."""
    said = say(*arguments)

    assert (Exit.USAGE, "") == (said.code, said.out)
    assert message in said.err
    assert "--help" in said.err.splitlines()[-1]


def test_refusals(say, dead):
    """What isn't there, or could be several, is refused in words that help."""
    unknown, several = say("show", "zzz"), say("why", "019")

    assert [Exit.REFUSED] * 2 == [unknown.code, several.code]
    assert unknown.err.endswith("next: polos ls\n")
    assert RUN in several.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("ls", "--limit", "0"), "limit is 1 to 10000, not 0"),
        (("ls", "--cursor", "nonsense"), "a cursor is what an earlier page gave"),
        (("ls", "--status", "nothing"), "--status is one of queued, running"),
        (("ls", "--status", "nothing", "--count"), "--status is one of queued, running"),
        (("cancel", "--status", "nothing"), "--status is one of queued, running"),
        (("ls", "--tag", ""), "for --tag. it must not be empty"),
        (("ls", "--user", "a\x1b[2Jb"), "for --user. it must have no control characters"),
        (("cancel", "--workflow", ""), "for --workflow. it must not be empty"),
        (("schedules", "list", "--workflow", ""), "for --workflow. it must not be empty"),
        (("schedules", "show", ""), "for SCHEDULE. it must not be empty"),
        (("queues", "pause", ""), "for QUEUE. it must not be empty"),
    ],
)
def test_what_makes_no_sense_is_told_as_a_slip(say, dead, typed, message):
    """What can't be the name, the number or the status of anything is a mistake in typing, not a traceback."""
    said = say(*typed)

    assert (Exit.USAGE, "", True) == (said.code, said.out, message in said.err)
    assert "\x1b" not in said.err
    assert f"next: polos {typed[0]} --help" in said.err.replace("polos ls", f"polos {typed[0]}")


# -------------------------------------------------------------------------------------- printing


def test_what_people_wrote_is_shown_and_not_obeyed(say, tmp_path):
    """Control characters in names and values can't reach the terminal."""
    evil = "\x1b[2J\x9b31m\u202e"
    with story_on_disk(tmp_path / "data") as story:
        story.tell(RUN, (0, created(RUN, evil, input={"x": evil}, tags=(evil,))), (1, e.RunStarted(attempt=1)))
        story.tell(RUN, (2, e.StepScheduled(cause=2, name=evil, function=evil, digest="d")))
    said = [say(*command) for command in ((), ("ls",), ("show", RUN), ("why", RUN), ("show", evil))]

    for one in said[:-1]:
        assert "\\x1b[2J" in one.out or "\\u001b[2J" in one.out
    assert not {"\x1b", "\x9b", "\u202e"} & set("".join(one.out for one in said))


def test_long_values_are_cut_for_people(say, tmp_path):
    """A long value is cut in its middle, `--full` and `--json` cut nothing."""
    text = "a" * 500 + "b" * 500
    with story_on_disk(tmp_path / "data") as story:
        story.tell(RUN, (0, created(RUN, input=text)))

    assert text not in say("show", RUN).out
    assert "more characters" in say("show", RUN).out
    assert text in say("show", RUN, "--full").out
    assert text == say("show", RUN, "--json").lines[0]["payload"]


def test_long_stories_and_trees_are_cut_for_people(say, tmp_path):
    """Of a long timeline the end is shown, of a large tree the beginning, and how much more there is."""
    with story_on_disk(tmp_path / "data") as story:
        story.tell(RUN, (0, created(RUN)), (1, e.RunStarted(attempt=1)))
        for number in range(300):
            story.tell(RUN, (2, e.ValueRecorded(cause=2, name=f"v{number}", kind="now", value=number)))
        for number in range(60):
            story.tell(f"c{number}", (3, created(f"c{number}", "w", root=RUN, root_workflow="order", parent=RUN)))
    short, full = say("show", RUN).out, say("show", RUN, "--full").out

    assert ("102 earlier with --full" in short, "21 more with --full" in short) == (True, True)
    assert "v0 " not in short
    assert "with --full" not in full
    assert 362 < len(full.splitlines())


def test_help_names_every_command(say):
    """`polos --help` lists the commands, and each has help of its own."""
    listed = say("--help").out
    for command in (
        "running",
        "ls",
        "show",
        "why",
        "tail",
        "signal",
        "resume",
        "cancel",
        "resolve",
        "verify",
        "backup",
    ):
        helped = say(command, "--help")
        assert command in listed
        assert (0, True, True) == (helped.code, "--data-dir" in helped.out, "--json" in helped.out)
    assert "0.1.0\n" == say("--version").out


def test_error_on_a_store_that_is_no_store(say, tmp_path):
    """A directory that holds something else is named, with the way to name another."""
    (tmp_path / "data").mkdir()
    said = say("ls", "--json")

    assert (Exit.REFUSED, "NotAPolosStore") == (said.code, orjson.loads(said.err)["error"])
    assert "polos --data-dir DIRECTORY" == orjson.loads(said.err)["next"]

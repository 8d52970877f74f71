"""What the command line does to many runs, to schedules and to queues, beside an engine and where none runs."""

from __future__ import annotations

from typing import Any

from polos import Polos, Queue, RateLimit, WorkflowContext, queues, schedules, workflow
from polos.cli.outcomes import Exit

from tests.cli_kit import typed, until

SENT: list[str] = []
DOWN: set[str] = set()


def send(name: str) -> str:
    """Send something, unless nothing works."""
    if DOWN:
        raise OSError("down")
    SENT.append(name)
    return name


def define() -> None:
    """Define a workflow that may fail, one that waits, one with a schedule and a queue with limits."""
    SENT.clear()
    DOWN.clear()

    @workflow(id="cli_send", tags=["mail"], queue=Queue("cli mail", 3, rate_limit=RateLimit(100, 60), max_queued=7))
    async def _send(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
        return await ctx.step.run("send", send, payload["to"], max_retries=0)

    @workflow(id="cli_wait")
    async def _wait(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return (await ctx.step.suspend("ok", payload)).data

    @workflow(id="cli_report", schedule={"cron": "0 7 * * 1-5", "timezone": "Europe/Vienna"})
    async def _report(ctx: WorkflowContext) -> str:
        return "reported"


def test_runs_are_counted(say, play):
    """`ls --count` tells how many runs there are of each status, by the filters of the list."""
    define()

    async def day(polos: Polos) -> None:
        handles = [await polos.invoke("cli_wait", {}, session_id="s", user_id=f"u{number}") for number in range(3)]
        for handle in handles:
            await until(polos, handle.id, "suspend")
        (counts,) = (await typed(say, "ls", "--count", "--json")).lines
        assert 3 == counts["counts"]["waiting"]
        assert "3 waiting" in (await typed(say, "ls", "--count", "--session", "s")).out
        assert "1 waiting" in (await typed(say, "ls", "--count", "--user", "u1", "--queue", "cli_wait")).out
        assert "no such run" in (await typed(say, "ls", "--count", "--queue", "other")).out
        (found,) = (await typed(say, "ls", "--user", "u2", "--json")).lines
        assert handles[2].id == found["id"]

    play(day)


def test_a_run_is_retried(say, play):
    """`polos retry RUN` has it go on; one that completed is refused."""
    define()

    async def day(polos: Polos) -> None:
        DOWN.add("all")
        handle = await polos.invoke("cli_send", {"to": "ada"})
        await polos._wait_ended(handle.id)
        DOWN.clear()
        said = await typed(say, "retry", handle.id[-8:], "--reason", "up again", "--by", "ada")
        assert (Exit.OK, True) == (said.code, "goes on from where it failed" in said.out)
        assert "ada" == (await polos._wait_ended(handle.id))["result"]
        refused = await typed(say, "retry", handle.id)
        assert (Exit.REFUSED, True) == (refused.code, "nothing to retry" in refused.err)
        shown = await typed(say, "show", handle.id)
        assert "retried by ada: up again" in shown.out

    play(day)


def test_many_are_retried_and_cancelled(say, play):
    """Without `--yes` the number is told and nothing is done; with it, it is done, and can be typed again."""
    define()

    async def day(polos: Polos) -> None:
        DOWN.add("all")
        handles = [await polos.invoke("cli_send", {"to": str(number)}, tags=["mail"]) for number in range(4)]
        waiting = [await polos.invoke("cli_wait", {}) for _ in range(3)]
        for handle in handles:
            await polos._wait_ended(handle.id)
        for handle in waiting:
            await until(polos, handle.id, "suspend")
        DOWN.clear()

        asked = await typed(say, "retry", "--tag", "mail")
        assert (Exit.REFUSED, True) == (asked.code, "4 runs to retry; nothing is done" in asked.out)
        assert [] == SENT
        (done,) = (await typed(say, "retry", "--tag", "mail", "--yes", "--json")).lines
        assert {"kind": "retry", "done": True, "accepted": 4, "kept": 0, "refused": {}, "refused_count": 0} == done
        for handle in handles:
            await polos._wait_ended(handle.id)
        assert ["0", "1", "2", "3"] == sorted(SENT)

        (number,) = (await typed(say, "cancel", "--workflow", "cli_wait", "--json")).lines
        assert {"kind": "cancel", "runs": 3, "done": False} == number
        said = await typed(say, "cancel", "--workflow", "cli_wait", "--yes", "--reason", "enough")
        assert (Exit.OK, True) == (said.code, "cancel: 3 runs" in said.out)
        again = await typed(say, "cancel", "--workflow", "cli_wait", "--yes")
        assert (Exit.OK, True) == (again.code, "cancel: 0 runs" in again.out)
        refused = await typed(say, "retry", "--status", "completed", "--yes")
        assert (Exit.REFUSED, True) == (refused.code, "4 runs refused" in refused.out)

    play(day)


def test_without_an_engine_they_are_kept(say, play):
    """What nobody can do now is kept for the next engine, and the command says so."""
    define()

    async def day(polos: Polos) -> None:
        await until(polos, (await polos.invoke("cli_wait", {})).id, "suspend")

    play(day)
    (kept,) = say("cancel", "--workflow", "cli_wait", "--yes", "--json").lines
    said = say("cancel", "--workflow", "cli_wait", "--yes")
    (paused,) = say("queues", "pause", "cli mail", "--json").lines

    assert (0, 1) == (kept["accepted"], kept["kept"])
    assert "1 command kept for the next engine" in said.out
    assert "queued" == paused["outcome"]
    assert "kept for the next engine" in say("schedules", "pause", "cli_report:global").out
    assert Exit.REFUSED == say("schedules", "pause", "nobody:global").code


def test_schedules(say, play):
    """Schedules are listed, shown, paused, resumed, triggered and deleted."""
    define()

    async def day(polos: Polos) -> None:
        await schedules.create(polos, "cli_report", "@hourly", key="extra", overlap="buffer_one", catch_up_seconds=60)
        listed = await typed(say, "schedules", "list")
        assert ["cli_report:extra", "cli_report:global"] == [line.split()[0] for line in listed.out.splitlines()[1:]]
        (one, two) = (await typed(say, "schedules", "list", "--workflow", "cli_report", "--json")).lines
        assert ("0 7 * * 1-5", "Europe/Vienna", 5) == (two["cron"], two["timezone"], len(two["upcoming"]))
        assert ("buffer_one", 60) == (one["overlap"], one["catch_up_seconds"])

        shown = await typed(say, "schedules", "show", "cli_report:global")
        assert all(word in shown.out for word in ("0 7 * * 1-5", "Europe/Vienna", "next", "set by code"))
        assert "up to 60 s" in (await typed(say, "schedules", "show", "cli_report:extra")).out

        assert "cli_report:global is paused" in (await typed(say, "schedules", "pause", "cli_report:global")).out
        assert "paused" in (await typed(say, "schedules", "list")).out
        assert "  paused" in (await typed(say, "schedules", "show", "cli_report:global")).out
        assert "goes on" in (await typed(say, "schedules", "resume", "cli_report:global")).out

        (triggered,) = (await typed(say, "schedules", "trigger", "cli_report:global", "--json")).lines
        assert "reported" == (await polos._wait_ended(triggered["run"]))["result"]
        (told,) = (await typed(say, "schedules", "show", "cli_report:global", "--json")).lines
        assert triggered["run"] in told["runs"]

        assert "is deleted" in (await typed(say, "schedules", "delete", "cli_report:extra")).out
        assert Exit.REFUSED == (await typed(say, "schedules", "show", "cli_report:extra")).code

    play(day)
    assert "no schedules" in say("schedules", "list", "--workflow", "nothing").out


def test_queues(say, play):
    """Queues are listed with their limits, paused and resumed."""
    define()

    async def day(polos: Polos) -> None:
        assert "cli mail is paused" in (await typed(say, "queues", "pause", "cli mail")).out
        handle = await polos.invoke("cli_send", {"to": "ada"})
        listed = (await typed(say, "queues", "list")).out
        assert all(word in listed for word in ("cli mail", "1", "3", "100 in 60 s", "7", "paused"))
        one = next(q for q in (await typed(say, "queues", "list", "--json")).lines if q["name"] == "cli mail")
        assert (1, True, 3) == (one["queued"], one["paused"], one["key_concurrency_limit"])
        assert {"limit": 100, "period_seconds": 60.0} == one["rate_limit"]
        (resumed,) = (await typed(say, "queues", "resume", "cli mail", "--json")).lines
        assert {"queue": "cli mail", "action": "resume", "outcome": "accepted", "run": None} == resumed
        assert "ada" == (await polos._wait_ended(handle.id))["result"]
        assert not queues.get(polos, "cli mail").paused
        misspelt = await typed(say, "queues", "pause", "cli mial")
        assert 1 == misspelt.code
        assert "is it 'cli mail'?" in misspelt.err
        assert "next: polos queues list" in misspelt.err

    play(day)


def test_nothing_there(say, play):
    """An empty directory has no queues, and says so."""

    async def day(_polos: Polos) -> None:
        return None

    play(day)
    assert "no queues" in say("queues", "list").out
    assert "no schedules" in say("schedules", "list").out

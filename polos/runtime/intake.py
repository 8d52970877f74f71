"""
What comes from outside a run: messages of other runs, commands of clients, the inbox.

A command is a JSON object, the same whether a client of this process hands it over or another process
put it into the inbox; from there it is decided once: the outcome is appended with the events that it
led to, and only then the file is removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from polos import errors
from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.decide import Decision
from polos.engine.json import Json, message_of
from polos.engine.messages import Message, body_text, message_from_json, message_to_json
from polos.engine.projections import CODE_PREFIX, INBOX_STREAM
from polos.engine.state import Debt, Phase
from polos.errors import (
    CommandRefused,
    PolosError,
    PolosInternalError,
    PolosStoreError,
    PolosUsageError,
    QueueFull,
    StoreReadOnly,
    UnknownRun,
)
from polos.points import reach
from polos.runtime.anew import Anew
from polos.runtime.asking_code import query_run, update_run
from polos.runtime.dedup import Dedup
from polos.runtime.draining import asked_to_drain
from polos.runtime.foreign import (
    check_run_id,
    created_from_json,
    name_of,
    parse_command,
    published_events,
    queue_changes,
    runs_to_create,
    text_of,
    trigger_changes,
)
from polos.runtime.performer import failure_of
from polos.runtime.retrying import retry_child, retry_run
from polos.runtime.topics import Topics
from polos.runtime.triggers import Triggers
from polos.runtime.unit import Reply, Resident, Unit, Work
from polos.store.inbox import InboxItem

if TYPE_CHECKING:
    from polos.definition import Workflow
    from polos.runtime.bodies import Described
    from polos.runtime.engine import Engine

__all__ = ["Intake"]

_log = logging.getLogger("polos")

_CANT = (PolosStoreError, StoreReadOnly)  # what an inbox says when its files don't let it
_ENDS = (e.RunCompleted, e.RunFailed, e.RunCancelled)


class Intake:
    """Decides what others ask for."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine."""
        self._engine = engine
        self.topics: Topics = Topics(engine)
        self.triggers: Triggers = Triggers(engine)
        self.dedup: Dedup = Dedup(engine)
        self._registered: dict[str, str] = {}
        self._consuming: set[str] = set()
        self._unfit: dict[str, BaseException] = {}  # commands that met a bug of ours, or that the log can't take
        self._alarm: Any = None
        self._deaf = False  # the inbox couldn't be read when it was looked at last
        self._kinds: dict[str, Callable[[Unit, str, dict[str, Json]], Reply]] = {
            "create": self._create,
            "resume": self._resume,
            "signal": self._signal,
            "cancel": self._cancel,
            "publish": self._publish,
            "update": lambda unit, command_id, command: update_run(engine, unit, command_id, command),
            "query": lambda unit, _command_id, command: query_run(engine, unit, command),
            "resolve": self._resolve,
            "readmit": self._readmit,
            "retry": lambda unit, _command_id, command: retry_run(engine, unit, command),
            "message": self._message,
            "queue": self._queue,
            "trigger": self._trigger,
            "drain": lambda unit, _command_id, command: asked_to_drain(engine, unit, command),
            "schedule": lambda unit, _command_id, command: engine.schedules.command(unit, command),
        }

    # -------------------------------------------------------------------------------- between runs

    def take(self, unit: Unit, resident: Resident, decision: Decision) -> None:
        """Take what was decided of a run into a unit: its events, and its messages behind them."""
        messages = decision.messages
        for event in decision.events:
            if messages and isinstance(event, _ENDS):
                # What a run published comes before its end: who follows the run reads no further than that.
                for message in messages:
                    if message.kind == "publish":
                        self.message(unit, resident, message)
                messages = [message for message in messages if message.kind != "publish"]
            unit.append(resident, event)
        for message in messages:
            self.message(unit, resident, message)

    def message(self, unit: Unit, sender: Resident, message: Message) -> None:
        """Deliver a message within the unit that sends it; one for another log is owed from then on."""
        if message.kind != "publish" and not self._engine.is_local(message.target):
            unit.append(sender, e.MessageOwed(message=message_to_json(message)))
            return
        if message.kind == "start":
            self._start_child(unit, message, sender.state.priority)
        elif message.kind == "publish":
            root = sender.state.root
            self.topics.publish(unit, message.target, [message.body], message.id, run=sender.run, root=root)
        else:
            self.deliver(unit, message)

    def start_run(self, unit: Unit, run: str, created: e.RunCreated) -> bool:
        """Let a run exist; tells whether it didn't before."""
        if self._engine.loader.exists(run):
            unit.rests_on(self._engine.residents.get(run))
            return False
        self._make_run(unit, run, created)
        return True

    def _make_run(self, unit: Unit, run: str, created: e.RunCreated) -> None:
        """Create a run of which is known that there is none of its id."""
        self._declare(unit, created)
        resident = self._engine.loader.create(run)
        resident.input = created.input
        self._engine.decide_on(unit, resident, c.CreateRun(created=created))
        unit.created.append(resident)

    def _start_child(self, unit: Unit, message: Message, priority: int) -> None:
        """Start a child; what it needs to begin soon its parent needs, too, so it has its priority."""
        created = created_from_json(message.body)
        if priority and not created.priority:
            created = replace(created, priority=priority)
        full: QueueFull | None = None
        try:
            self._engine.lines.room(created.queue or created.workflow, 1)
        except QueueFull as error:
            full = error
        if self.start_run(unit, message.target, created) and full is not None:
            # The parent's request is recorded; what became of it has to be an answer.
            refused = c.RefuseRun(error=failure_of(full))
            self._engine.decide_on(unit, self._engine.loader.get(message.target), refused)

    def _declare(self, unit: Unit, created: e.RunCreated) -> None:
        """Take up what is said of a run's queue: by the definition of its workflow, else by who asks for the run."""
        lines = self._engine.lines
        said = self._engine.bodies.queue(created.workflow)
        name = created.queue or created.workflow
        if said is not None and said.name == name:
            lines.declare(unit, name, said.recorded())
        elif created.queue_limit is not None and not lines.is_configured(name):
            lines.declare(unit, name, {"key_concurrency_limit": created.queue_limit})
        elif created.queue is not None:
            lines.name(unit, name)

    def declare(self, workflows: Iterable[Workflow[Any]]) -> None:
        """Take up what the code says of queues and triggers; for the start, since runs wait and events came already."""
        known = list(workflows)

        def apply(unit: Unit) -> None:
            for queue in [workflow.queue for workflow in known if workflow.queue is not None]:
                self._engine.lines.declare(unit, queue.name, queue.recorded())

        self._engine.post(Work(apply))
        self.triggers.declare(known)

    def deliver(self, unit: Unit, message: Message) -> None:
        """Have a run of this log take a message."""
        engine = self._engine
        try:
            if message.kind == "retry":
                retry_child(engine, unit, message)
                return
            target = self._addressee(unit, message) if message.kind == "resume" else message.target
            resident = engine.loader.get(target)
            grace_us = engine.grace_us(resident)
            engine.decide_on(unit, resident, c.Deliver(message=message, grace_us=grace_us))
        except (UnknownRun, CommandRefused) as error:
            # A run that sends to another that ended isn't at fault, and can't be told any more.
            _log.info("a %s for run %s was dropped: %s", message.kind, message.target, error)

    def _addressee(self, unit: Unit, message: Message) -> str:
        """Find whom a resume reaches: the run it names, or, in the tree below it, who waits longest (D30)."""
        key = body_text(message, "key")
        if self._waits(message.target, key):
            return message.target
        resident = self._engine.loader.get(message.target)
        if resident.state.root == message.target:
            waiting = self.topics.suspended(unit, message.target, key)
            if waiting:
                return waiting[0][0]
        return message.target

    def _waits(self, run: str, key: str) -> bool:
        ops = self._engine.loader.get(run).state.ops
        return any(key in {name, op.key} for name, op in ops.items() if op.wait_kind == "suspend")

    def send_away(self, resident: Resident, debt: Debt) -> None:
        """Put a message to a run of another log into that log's inbox."""
        message = message_from_json(debt.body)
        carry = self._engine.carry
        assert carry is not None, "a message is owed only when there is another log"
        run = resident.run

        def sent() -> None:
            def apply(unit: Unit) -> None:
                found = self._engine.loader.get(run)
                # A run that ended is kept while this is on its way, so that the next one builds on it.
                self._engine.residents[run] = found
                if any(held.name == message.id for held in found.state.owed.values()):
                    unit.append(found, e.MessageDelivered(message_id=message.id))

            self._engine.post(Work(apply))

        carry(message, sent)

    # ------------------------------------------------------------------------------------- clients

    async def execute(self, command_id: str, command: dict[str, Json]) -> Reply:
        """Decide a command of a client of this process; returns when it is durable."""
        return await self._answered(Anew(self._engine, command_id, command, self._apply).apply)

    async def create(self, runs: Sequence[e.RunCreated]) -> Reply:
        """Create root runs that a client of this process has described; returns when they are durable."""
        wanted = [(created.root, created) for created in runs]
        return await self._answered(lambda unit: self._create_runs(unit, wanted))

    async def _answered(self, apply: Callable[[Unit], Reply]) -> Reply:
        """Have work from outside decided, and give its answer once that is durable."""
        answer: asyncio.Future[Reply] = self._engine.loop.create_future()

        def done(reply: Reply) -> None:
            if not answer.done():
                answer.set_result(reply)

        def fail(error: BaseException) -> None:
            if not answer.done():
                answer.set_exception(error)

        self._engine.post(Work(apply, done=done, fail=fail, outside=True))
        return await answer

    def _apply(self, unit: Unit, command_id: str, command: dict[str, Json]) -> Reply:
        kind = command.get("kind")
        apply = self._kinds.get(str(kind))
        if apply is None:
            message = f"unknown command {kind!r}; was it written by a newer polos?"
            raise CommandRefused(message)
        return apply(unit, command_id, command)

    def _create(self, unit: Unit, _command_id: str, command: dict[str, Json]) -> Reply:
        return self._create_runs(unit, runs_to_create(command))

    def _create_runs(self, unit: Unit, wanted: list[tuple[str, e.RunCreated]]) -> Reply:
        plan = self.dedup.plan(unit, wanted)
        # Who begins later doesn't stand in line, now: a full queue is no reason to refuse it.
        joining = [created for created in plan.fresh.values() if (created.start_after_us or 0) <= unit.now_us]
        for queue, count in Counter(created.queue or created.workflow for created in joining).items():
            self._engine.lines.room(queue, count)
        for run, created in plan.replaced:
            self.dedup.replace_input(unit, run, created)
        for run, created in plan.fresh.items():
            self.dedup.cancel_old(unit, created)
            self._make_run(unit, run, created)
        names: list[Json] = [*plan.names]
        reply: Reply = {"outcome": "accepted" if plan.fresh or not wanted else "existing"}
        if names != [run for run, _ in wanted]:
            reply["detail"] = {"runs": names}
        return reply

    def _queue(self, unit: Unit, _command_id: str, command: dict[str, Json]) -> Reply:
        """Change what holds for a queue."""
        by = str(command.get("by") or "user")
        name, changes = name_of(command, "queue"), queue_changes(command)
        if command.get("create") is not True:
            self._engine.lines.look_known(name)
        self._engine.lines.amend(unit, name, by, changes)
        return {"outcome": "accepted"}

    def _trigger(self, unit: Unit, _command_id: str, command: dict[str, Json]) -> Reply:
        """Pause, resume or reset a trigger."""
        by = str(command.get("by") or "user")
        paused, to = trigger_changes(command)
        self.triggers.change(unit, name_of(command, "trigger"), by, paused=paused, to=to)
        return {"outcome": "accepted"}

    def _message(self, unit: Unit, _command_id: str, command: dict[str, Json]) -> Reply:
        """Take a message that a run of another log sent."""
        message = message_from_json(command.get("message"))
        if message.kind == "start":
            check_run_id(message.target)
            self._start_child(unit, message, 0)
        else:
            self.deliver(unit, message)
        return {"outcome": "accepted"}

    def _resume(self, unit: Unit, command_id: str, command: dict[str, Json]) -> Reply:
        run, key = text_of(command, "run"), text_of(command, "key")
        body: dict[str, Json] = {"key": key, "data": command.get("data")}
        targets = [run]
        if command.get("waiting") and not self._waits(run, key):
            unit.rests_on(self._engine.residents.get(run))
            raise CommandRefused(f"run {run} doesn't wait for an answer to {key!r}")
        if command.get("all"):
            targets = [waiting for waiting, _ in self.topics.suspended(unit, run, key)] or [run]
        reached: list[Json] = []
        for number, target in enumerate(targets):
            identity = command_id if number == 0 else f"{command_id}:{number}"
            message = Message(id=identity, kind="resume", target=target, body=body)
            addressee = target if command.get("all") else self._addressee(unit, message)
            self._engine.decide_on(unit, self._engine.loader.get(addressee), c.Deliver(message=message))
            reached.append(addressee)
        return {"outcome": "accepted", "detail": {"runs": reached}}

    def _signal(self, unit: Unit, command_id: str, command: dict[str, Json]) -> Reply:
        run, name = text_of(command, "run"), text_of(command, "name")
        message = Message(id=command_id, kind="signal", target=run, body={"key": name, "data": command.get("data")})
        self._engine.decide_on(unit, self._engine.loader.get(run), c.Deliver(message=message))
        return {"outcome": "accepted"}

    def _cancel(self, unit: Unit, _command_id: str, command: dict[str, Json]) -> Reply:
        engine = self._engine
        resident = engine.loader.get(text_of(command, "run"))
        if resident.ended:
            unit.rests_on(resident)
            return {"outcome": "accepted", "detail": {"cancelled": False}}
        if command.get("once") and resident.state.phase is Phase.CANCELLING:
            unit.rests_on(resident)  # asked before; a second request would force it
            return {"outcome": "accepted", "detail": {"cancelled": True}}
        by, reason = str(command.get("by") or "user"), command.get("reason")
        text = None if reason is None else str(reason)
        request = c.RequestCancel(by=by, grace_us=engine.grace_us(resident), reason=text)
        engine.decide_on(unit, resident, request)
        if resident.state.cancel_forced and resident.code is None:
            engine.decide_on(unit, resident, c.ForceCancel(by=by, close=True))
        return {"outcome": "accepted", "detail": {"cancelled": True}}

    def _publish(self, unit: Unit, command_id: str, command: dict[str, Json]) -> Reply:
        topic = name_of(command, "topic")
        bodies = published_events(command)
        run, root = command.get("run"), command.get("root")
        indexes = self.topics.publish(
            unit,
            topic,
            bodies,
            command_id,
            run=None if run is None else str(run),
            root=None if root is None else str(root),
        )
        ids: list[Json] = []
        unit.on_durable.append(lambda first: ids.extend((first + index) * 4096 for index in indexes))
        return {"outcome": "published", "detail": {"sequence_ids": ids}}

    def _resolve(self, unit: Unit, _command_id: str, command: dict[str, Json]) -> Reply:
        outcome = text_of(command, "outcome")
        if outcome not in ("completed", "failed", "not_done"):
            message = f"a step is resolved as 'completed', 'failed' or 'not_done', not as {outcome!r}"
            raise CommandRefused(message)
        error = None
        if outcome == "failed":
            error = e.Failure(type="StepResolved", message=str(command.get("message") or "resolved as failed"))
        request = c.ResolveStep(
            name=text_of(command, "step"),
            outcome=outcome,
            by=str(command.get("by") or "user"),
            value=command.get("value"),
            error=error,
        )
        self._engine.decide_on(unit, self._engine.loader.get(text_of(command, "run")), request)
        return {"outcome": "accepted"}

    def _readmit(self, unit: Unit, _command_id: str, command: dict[str, Json]) -> Reply:
        engine = self._engine
        resident = engine.loader.get(text_of(command, "run"))
        if resident.ended or resident.state.aside is None:
            unit.rests_on(resident)
            message = f"run {resident.run} isn't set aside"
            raise CommandRefused(message)
        engine.decide_on(unit, resident, c.Readmit(by=str(command.get("by") or "user")))
        unit.on_durable.append(lambda _first: engine.suspects.try_again(resident.run))
        if resident.code is None and resident.state.phase in (Phase.ACTIVE, Phase.CANCELLING):
            # Read it again once this is durable: its code is made and run on its history.
            unit.on_durable.append(lambda _first: engine.reread(resident))
        return {"outcome": "accepted"}

    # --------------------------------------------------------------------------------------- inbox

    def start(self) -> None:
        """Begin to look into the inbox."""
        self._poll()

    def _poll(self) -> None:
        engine = self._engine
        self._alarm = None
        if engine.stopping or engine.settings.inbox_poll_seconds <= 0:
            return
        engine.recovery.look()
        self.look()
        self._alarm = engine.clock.call_after(round(engine.settings.inbox_poll_seconds * 1e6), self._poll)

    def look(self) -> None:
        """Decide what is in the inbox now, unless the log refuses writes."""
        if self._engine.broken is not None:
            return
        for item in self._pending():
            if item.command_id not in self._consuming:
                self._consuming.add(item.command_id)
                self._consume(item)

    def _pending(self) -> Sequence[InboxItem]:
        """Give what is in the inbox; one that can't be read now is looked at again, and reported once."""
        try:
            found = self._engine.store.inbox.pending(limit=1_000)
        except _CANT as error:
            if not self._deaf:
                _log.error("the inbox can't be read and is tried again, commands wait in it: %s", error)
            self._deaf = True
            return ()
        self._deaf = False
        return found

    def _consume(self, item: InboxItem) -> None:
        command_id = item.command_id

        def apply(unit: Unit) -> Reply:
            reach("inbox_before_append")
            reply: Reply
            with self._engine.store.log.reader() as reader:
                if reader.row(("command", command_id)) is not None:
                    return {}  # its outcome is recorded: only the file is left
            try:
                unfit = self._unfit.get(command_id)
                if isinstance(unfit, PolosUsageError):
                    raise unfit
                if unfit is not None:
                    raise PolosInternalError("deciding this command met a bug in polos; its log says more")
                reply = self._apply(unit, command_id, parse_command(item.payload))
            except Exception as error:
                if unit.records and not isinstance(error, PolosError):
                    raise  # what it began is undone, and the next time it is refused at once
                if not isinstance(error, PolosUsageError):
                    _log.exception("the command %s couldn't be decided", command_id)
                detail: Json = {"error": type(error).__name__, "message": message_of(error)}
                reply = {"outcome": "refused", "detail": detail}
            consumed = e.InboxConsumed(command_id=command_id, outcome=str(reply["outcome"]), detail=reply.get("detail"))
            unit.append_system(INBOX_STREAM, consumed)
            return reply

        def done(_reply: Reply) -> None:
            reach("inbox_after_append_before_remove")
            try:
                self._engine.store.inbox.remove(command_id)
            except _CANT as error:
                # Its outcome is recorded; as one that is being decided it isn't taken up again by this engine.
                _log.error("the command %s is decided, but its file can't be removed: %s", command_id, error)
                return
            reach("inbox_after_remove")
            self._consuming.discard(command_id)
            self._unfit.pop(command_id, None)

        def fail(error: BaseException) -> None:
            self._unfit[command_id] = error
            self._consuming.discard(command_id)

        self._engine.post(Work(apply, done=done, fail=fail))

    async def stop(self) -> None:
        """Look no more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self.triggers.close()

    # ----------------------------------------------------------------------------------- durability

    def note(self, unit: Unit) -> None:
        """Note a unit that is on its way: what it says of waits counts at once."""
        self.topics.note(unit)
        self.dedup.overlay.note(unit)

    def durable(self, unit: Unit, first: int) -> None:
        """A unit is on disk, its first record at this position."""
        if unit.rows:
            self.topics.durable(unit)
            self.dedup.overlay.durable(unit)
        self._engine.schedules.durable(unit)
        if not unit.plain:
            for callback in unit.on_durable:
                callback(first)

    def forget_undurable(self) -> None:
        """Units on their way were lost."""
        self.topics.forget_undurable()
        self._registered.clear()
        with self._engine.store.log.reader() as reader:
            self._engine.lines.forget_undurable(reader)
            self.triggers.forget_undurable(reader)
            self.dedup.forget_undurable(reader)
        self._engine.schedules.forget_undurable()

    def register_code(self, unit: Unit, workflow: str, described: Described) -> None:
        """Record the code that a workflow has, unless it is the one recorded last."""
        if self._registered.get(workflow) == described.code:
            return
        self._registered[workflow] = described.code
        with self._engine.store.log.reader() as reader:
            known = reader.row(("code", workflow))
        if known is not None and known.decode() == described.code:
            return
        blobs: dict[str, Json] = {}
        if self._engine.settings.record_sources:
            for name, source in described.sources.items():
                blobs[name] = self._engine.store.blobs.put(source)
        unit.append_system(
            CODE_PREFIX + workflow,
            e.CodeRegistered(
                workflow=workflow,
                digest=described.code,
                modules=dict(described.modules),
                blobs=blobs,
                git_commit=described.git_commit,
                python=described.python,
                packages=dict(described.packages),
            ),
        )


# Names that a refusal from another process may have, so that its client raises the same class.
REFUSALS: dict[str, type[PolosError]] = {
    name: found
    for name in errors.__all__
    if isinstance(found := getattr(errors, name), type) and issubclass(found, PolosUsageError)
}

"""
What follows from a command, and how a run is closed: everything open is abandoned in the unit that ends it.

It stands beside `decide` because several of its answers end a run, and each has to leave nothing behind: a step that
is under way, a child, an update that somebody waits for, a parent that is to be told.
"""

from __future__ import annotations

from dataclasses import field

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.json import Json
from polos.engine.messages import Message
from polos.engine.state import Op, OpKind, RunState

__all__ = ["NOT_CODE", "Decision", "Ending", "failure_to_json"]

# The cause of what wasn't asked for by code: no fact has this version.
NOT_CODE = 0


@dataclass(slots=True)
class Decision:
    """What follows from a command: events of the run itself, messages to others."""

    events: list[e.Event] = field(default_factory=list[e.Event])
    messages: list[Message] = field(default_factory=list[Message])


class Ending:
    """Collects what belongs into the unit that ends a run: everything open is abandoned in it."""

    def __init__(self, state: RunState, decision: Decision, *, cause: int) -> None:
        """Begin with a decision that may hold something already; `cause` is that of what is abandoned."""
        self.state = state
        self.decision = decision
        self.cause = cause

    def message(self, kind: str, target: str, body: dict[str, Json]) -> None:
        """Send a message; its id follows from where in the stream it is sent."""
        version = self.state.version + len(self.decision.events)
        identity = f"{self.state.run}:{version}:{len(self.decision.messages)}"
        self.decision.messages.append(Message(id=identity, kind=kind, target=target, body=body))

    def abandon(self, name: str, op: Op) -> None:
        """Close one open request; a child that isn't detached is asked to stop."""
        add = self.decision.events.append
        match op.kind:
            case OpKind.STEP:
                add(e.StepAbandoned(cause=self.cause, name=name))
            case OpKind.TIMER:
                add(e.TimerCancelled(cause=self.cause, name=name))
            case OpKind.WAIT:
                add(e.WaitCancelled(cause=self.cause, name=name))
            case OpKind.CHILD:
                cancel = op.version == 0 or op.child in self.state.children
                cancel = cancel and op.child != ""
                add(e.ChildDetached(cause=self.cause, name=name, cancelled=cancel))
                if cancel:
                    self.message("cancel", op.child, {"by": "parent"})

    def close_everything(self, closed: set[str], heard: set[str], *, cancel_children: bool) -> None:
        """
        Abandon what is open, answer updates, drop signals, stop children of a cancelled run.

        Args:
            closed: names of requests that are none of it.
            heard: ids of updates and signals that are none of it.
            cancel_children: whether children stop that nobody awaits.
        """
        add = self.decision.events.append
        for name, op in self.state.ops.items():
            if name not in closed:
                self.abandon(name, op)
        gone = e.Failure(type="RunEnded", message=f"the run {self.state.run} ended before it answered")
        for update_id in self.state.updates:
            if update_id not in heard:
                add(e.UpdateAnswered(cause=self.cause, update_id=update_id, error=gone))
        for (kind, key), kept in self.state.signals.items():
            for signal in kept:
                if signal.id not in heard:
                    add(e.SignalDropped(kind=kind, key=key, signal_id=signal.id, reason="the run ended"))
        if cancel_children:
            awaited = {op.child for op in self.state.ops.values() if op.kind is OpKind.CHILD}
            for child in self.state.children:
                if child not in awaited:
                    self.message("cancel", child, {"by": "parent"})

    def finish(self, event: e.RunCompleted | e.RunFailed | e.RunCancelled) -> None:
        """Add the last event, and tell a parent that waits."""
        self.decision.events.append(event)
        state = self.state
        if not (state.wanted and state.parent):
            return
        body: dict[str, Json] = {"name": state.step, "child": state.chain or state.run}
        match event:
            case e.RunCompleted():
                body |= {"status": "completed", "result": event.result, "result_type": event.result_type}
            case e.RunFailed():
                body |= {"status": "failed", "error": failure_to_json(event.error)}
            case e.RunCancelled():
                body |= {"status": "cancelled", "by": event.by}
        self.message("finished", state.parent, body)


def failure_to_json(error: e.Failure) -> Json:
    """Give a failure as a JSON object."""
    return {"type": error.type, "message": error.message, "traceback": error.traceback}

"""
How a request of the code is compared with the recorded one: one function for each kind of event.

This is the seam for other kinds of steps. `COMPARERS` maps the type of an event to a function that is given a
`Compared`, both requests with all that is known about them, and gives the differences that it finds; `assert_replays`
takes more of them, tried beside these. An agent's step is a `StepScheduled` whose call has the prompt and the tools in
its arguments, and whose answer has the cost: a comparer reads both and gives differences of types of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, cast

import orjson

from polos import values
from polos.engine import events as e
from polos.engine.json import Json, printable
from polos.engine.usage import REQUEST, USAGE
from polos.errors import ValueRefused
from polos.registry import get_workflow
from polos.replay.facts import StepCall
from polos.replay.requests import name_of
from polos.testing import differences as d
from polos.value_types import resolve_path

__all__ = ["COMPARERS", "Compared", "Comparer", "same_record"]

ASKS_A_MODEL: Final = "polos.agents.models.call_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """
    A request of the code and the recorded one that it matches. An example stands at `RecordedRun`.

    Attributes:
        run: the run.
        version: of the recorded request.
        recorded: the request in the recording.
        asked: the request of the current code.
        line: file and line that ask.
        call: for a step, the function with its arguments and settings as the code gives them now.
        spec: for a child run, what it would be created with.
        answer: what answered the request, if anything did: `StepCompleted`, `ChildFinished`, ...
        answer_version: of the record of the answer, 0 without one.
        child: for a child run, what it was created with when it was recorded.
        recorded_us: the time by the code's clock when it asked in the recording.
        asked_us: the same now.
    """

    run: str
    version: int
    recorded: e.Event
    asked: e.Event
    line: str | None = None
    call: StepCall | None = None
    spec: e.RunCreated | None = None
    answer: e.Event | None = None
    answer_version: int = 0
    child: e.RunCreated | None = None
    recorded_us: int = 0
    asked_us: int = 0

    def difference(self, kind: type[d.Difference], recorded: Json, asked: Json, **more: Any) -> d.Difference:
        """Make a difference of these two; accepting it takes what the code asks for now."""
        accepted: Any = replace(cast("Any", self.asked), cause=cast("Any", self.recorded).cause)
        if isinstance(self.recorded, e.ChildStarted):
            accepted = replace(accepted, child=self.recorded.child)
        given: dict[str, Any] = {"accepted": accepted, "version": self.version, **more}
        return kind(
            run=self.run, step=name_of(self.asked), kind=type(self.asked).__name__, recorded=recorded, asked=asked,
            line=self.line, **given,
        )  # fmt: skip


Comparer = Callable[[Compared], Iterable[d.Difference]]


def _same_function(recorded: str, asked: str) -> bool:
    """
    Tell whether two names are of the same function.

    What a program defines itself is in `__main__` when it is run, and in a module of its file's name when a test
    imports it, and nothing in the log says which file that was.
    """
    if recorded == asked:
        return True
    for one, other in ((recorded, asked), (asked, recorded)):
        name = one.removeprefix("__main__.")
        if name != one and other.endswith(f".{name}"):
            return True
    return False


def _step(pair: Compared) -> Iterator[d.Difference]:
    recorded, asked = pair.recorded, pair.asked
    assert isinstance(recorded, e.StepScheduled), "it is compared by its own comparer"
    assert isinstance(asked, e.StepScheduled), "requests match by kind"
    if not _same_function(recorded.function, asked.function):
        yield pair.difference(d.FunctionChanged, recorded.function, asked.function)
    if recorded.effect != asked.effect:
        yield pair.difference(d.EffectChanged, recorded.effect, asked.effect)
    # What a model is asked is recorded for itself, and told in other words than a digest (`_value`).
    if recorded.digest != asked.digest and asked.function != ASKS_A_MODEL:
        note = "" if pair.call is None else f"arguments now: {_shown_arguments(pair.call)}"
        yield pair.difference(
            d.ArgumentsChanged, f"digest {recorded.digest[:16]}…", f"digest {asked.digest[:16]}…", note=note
        )
    if isinstance(pair.answer, e.StepCompleted) and pair.call is not None:
        hint = pair.call.hint
        yield from _schema(
            pair, pair.answer.value, pair.answer.type, hint, lambda value, kind: {"value": value, "type": kind}
        )


def _child(pair: Compared) -> Iterator[d.Difference]:
    recorded, asked = pair.recorded, pair.asked
    assert isinstance(recorded, e.ChildStarted), "it is compared by its own comparer"
    assert isinstance(asked, e.ChildStarted), "requests match by kind"
    if recorded.workflow != asked.workflow:
        yield pair.difference(d.WorkflowChanged, recorded.workflow, asked.workflow)
    if recorded.digest != asked.digest:
        before = None if pair.child is None else pair.child.input
        now = None if pair.spec is None else pair.spec.input
        yield pair.difference(d.ArgumentsChanged, before, now)
    answer, workflow = pair.answer, get_workflow(asked.workflow)
    if isinstance(answer, e.ChildFinished) and answer.status == "completed" and workflow is not None:
        hint = workflow.result_hint
        yield from _schema(
            pair, answer.result, answer.result_type, hint, lambda value, kind: {"result": value, "result_type": kind}
        )


def _schema(
    pair: Compared, record: Json, kind: str | None, hint: object, named: Callable[[Json, str | None], dict[str, Any]]
) -> Iterator[d.Difference]:
    """Read a recorded answer as the current code does, and write it again."""
    more: dict[str, Any] = {"version": pair.answer_version}
    if kind not in (None, values.PLAIN) and resolve_path(str(kind)) is None:
        yield pair.difference(d.SchemaChanged, kind, None, **more, accepted=None, note="this type isn't there any more")
        return
    try:
        if kind != values.PLAIN:
            values.decode(record, hint=hint)  # by what the code says, although the recorded type may still read it
        encoded, _ = values.encode(values.decode(record, hint=hint, type=kind), hint=hint)
    except ValueRefused as error:
        yield pair.difference(d.SchemaChanged, record, None, **more, accepted=None, note=str(error))
        return
    if not same_record(record, encoded.value):
        changed: Any = replace(cast("Any", pair.answer), **named(encoded.value, encoded.type))
        yield pair.difference(d.SchemaChanged, record, encoded.value, **more, accepted=changed)


def same_record(first: Json, second: Json) -> bool:
    """Compare two records; a list may be in another order, because a set is written as one, in the order of hashes."""
    return first == second or _unordered(first) == _unordered(second)


def _unordered(value: Json) -> bytes:
    if isinstance(value, dict):
        return b"{%s}" % b",".join(b"%s:%s" % (name.encode(), _unordered(value[name])) for name in sorted(value))
    if isinstance(value, list):
        return b"[%s]" % b",".join(sorted(map(_unordered, value)))
    return orjson.dumps(value)


def _shown_arguments(call: StepCall) -> str:
    shown = [_shown(value) for value in call.args]
    shown += [f"{name}={_shown(value)}" for name, value in call.kwargs.items()]
    return printable(", ".join(shown) or "none")


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # it is the program's own code
        return f"<{type(value).__name__}, which can't be shown: {type(error).__name__}>"
    return text if len(text) <= 2_000 else text[:2_000] + "…"


def _by_field(*names: str, kind: type[d.Difference] = d.RequestChanged) -> Comparer:
    """Make a comparer that compares fields as they are."""

    def compare(pair: Compared) -> Iterator[d.Difference]:
        old = {name: _plain(getattr(pair.recorded, name)) for name in names}
        new = {name: _plain(getattr(pair.asked, name)) for name in names}
        changed = [name for name in names if old[name] != new[name]]
        if changed:
            yield pair.difference(kind, {name: old[name] for name in changed}, {name: new[name] for name in changed})

    return compare


def _timer(pair: Compared) -> Iterator[d.Difference]:
    recorded, asked = pair.recorded, pair.asked
    assert isinstance(recorded, e.TimerStarted), "it is compared by its own comparer"
    assert isinstance(asked, e.TimerStarted), "requests match by kind"
    old_us, new_us = recorded.due_us - pair.recorded_us, asked.due_us - pair.asked_us
    # One that is asked for at another point is due as long behind it, or at the very moment if it stands on a date.
    if recorded.due_us != asked.due_us and old_us != new_us:
        yield pair.difference(d.RequestChanged, f"due after {old_us / 1e6:g} s", f"due after {new_us / 1e6:g} s")


def _wait(pair: Compared) -> Iterator[d.Difference]:
    recorded, asked = pair.recorded, pair.asked
    assert isinstance(recorded, e.WaitStarted), "it is compared by its own comparer"
    assert isinstance(asked, e.WaitStarted), "requests match by kind"
    old = _waited(recorded, pair.recorded_us)
    new = _waited(asked, pair.asked_us)
    changed = [name for name in old if old[name] != new[name]]
    if changed:
        before, now = {name: old[name] for name in changed}, {name: new[name] for name in changed}
        yield pair.difference(d.RequestChanged, before, now)


def _waited(wait: e.WaitStarted, now_us: int) -> dict[str, Json]:
    timeout = None if wait.expires_us is None else (wait.expires_us - now_us) / 1e6
    return {"kind": wait.kind, "key": wait.key, "data": wait.data, "timeout_seconds": timeout}


def _plain(value: Any) -> Json:
    if isinstance(value, e.Failure):
        # A traceback names lines, which move.
        return {spec.name: getattr(value, spec.name) for spec in fields(value) if spec.name != "traceback"}
    return cast("Json", list(cast("tuple[Json, ...]", value)) if isinstance(value, tuple) else value)


def _value(pair: Compared) -> Iterator[d.Difference]:
    recorded, asked = pair.recorded, pair.asked
    assert isinstance(recorded, e.ValueRecorded), "it is compared by its own comparer"
    assert isinstance(asked, e.ValueRecorded), "requests match by kind"
    if recorded.kind != asked.kind:
        yield pair.difference(d.RequestChanged, {"kind": recorded.kind}, {"kind": asked.kind})
    elif asked.kind in (REQUEST, USAGE) and isinstance(recorded.value, dict) and isinstance(asked.value, dict):
        yield from _model_call(pair, recorded.value, asked.value)


_PARTS: Final[Mapping[str, type[d.Difference]]] = {
    "provider": d.ModelChanged, "model": d.ModelChanged, "settings": d.ModelChanged, "output_schema": d.ModelChanged,
    "tools": d.ToolsChanged, "system": d.PromptChanged, "items": d.PromptChanged, "added": d.PromptChanged,
    "microdollars": d.CostChanged,
}  # fmt: skip


def _model_call(pair: Compared, old: dict[str, Json], new: dict[str, Json]) -> Iterator[d.Difference]:
    """Compare what a model was asked, or what that cost; long parts are told as what their digests stand for."""
    for name, kind in _PARTS.items():
        if old.get(name) != new.get(name):
            before, now = _meant(old.get(name), old, new), _meant(new.get(name), new, old)
            cause = orjson.dumps([name, old.get(name), new.get(name)]).decode()
            yield pair.difference(kind, {name: before}, {name: now}, reason=cause)


def _meant(value: Json, record: dict[str, Json], other: dict[str, Json]) -> Json:
    """Give what digests in a record stand for, as far as this call or the other is the first that says it."""
    texts: dict[str, Json] = {}
    for stored in (other.get("stored"), record.get("stored")):
        if isinstance(stored, dict):
            texts.update(stored)
    if isinstance(value, list):
        return [texts.get(one, one) if isinstance(one, str) else one for one in value]
    return texts.get(value, value) if isinstance(value, str) else value


COMPARERS: Final[Mapping[type[Any], Comparer]] = {
    e.StepScheduled: _step,
    e.ChildStarted: _child,
    e.TimerStarted: _timer,
    e.WaitStarted: _wait,
    e.MessageSent: _by_field("kind", "target", "body"),
    e.StateChanged: _by_field("changed", "removed", kind=d.StateChanged),
    e.TagsChanged: _by_field("added", "removed"),
    e.UpdateAnswered: _by_field("value", "error"),
    e.ValueRecorded: _value,
}

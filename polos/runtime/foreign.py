"""
What comes from outside as JSON, believed field by field.

A command may have been written by any program, of any version, or by hand. What it says is recorded, and from then on
every engine that opens the log reads it: a number where a name belongs would not be one refused command but a log that
nothing can go on with. So the form of a command is looked at here, once, before anything is decided, and whatever
doesn't fit is the caller's mistake, with the field and what it holds.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, cast

import orjson

from polos.checking import NAME_BYTES_MAX
from polos.engine import events as e
from polos.engine.json import Json
from polos.errors import CommandRefused
from polos.once import POLICIES

__all__ = [
    "RUN_ID_BYTES_MAX",
    "check_run_id",
    "created_from_json",
    "name_of",
    "parse_command",
    "published_events",
    "queue_changes",
    "runs_to_create",
    "text_of",
    "trigger_changes",
]

# A run's id stands in keys of the log, in names of messages and in the marker of who is on the loop.
RUN_ID_BYTES_MAX: Final = 200
# Far more than a thousand years in microseconds; the sum with any moment still fits a key of the log.
MICROSECONDS_MAX: Final = 1 << 61

_LIMITS: Final[dict[str, str]] = {
    spec.name: str(spec.type) for spec in fields(e.QueueConfigured) if spec.name not in ("queue", "by", "declared")
}
_FORMS: Final[dict[str, str]] = {spec.name: str(spec.type) for spec in fields(e.RunCreated)}
# Those fields that may be None, and those whose value needs no look but at its type.
_OPTIONAL: Final = frozenset(name for name, form in _FORMS.items() if form.endswith("| None"))
_EXACT: Final[dict[str, type]] = {
    name: {"str": str, "bool": bool}[plain]
    for name, form in _FORMS.items()
    if (plain := form.removesuffix(" | None")) in ("str", "bool")
}


def parse_command(payload: bytes) -> dict[str, Json]:
    """
    Give the command that a file of the inbox holds.

    Raises:
        CommandRefused: it holds none.
    """
    try:
        found: Any = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        message = f"the command isn't JSON: {error}"
        raise CommandRefused(message) from error
    fields_found = cast("dict[str, Json]", found) if isinstance(found, dict) else {}
    command = fields_found.get("command")
    if not isinstance(command, dict):
        message = "the command file holds no command"
        raise CommandRefused(message)
    return command


def text_of(command: dict[str, Json], name: str) -> str:
    """
    Give a field that is a text.

    Raises:
        CommandRefused: it isn't there, or is something else.
    """
    value = command.get(name)
    if not isinstance(value, str) or not value:
        message = f"the command {command.get('kind')!r} needs {name!r}, a text that isn't empty; it has {value!r}"
        raise CommandRefused(message)
    return value


def name_of(command: dict[str, Json], name: str) -> str:
    """
    Give a field that is the name of something with a stream of its own.

    Raises:
        CommandRefused: it isn't there, is something else, or is too long.
    """
    value = text_of(command, name)
    _check_length(name, value)
    return value


def _check_length(what: str, value: Json) -> None:
    # Asked for by another program, so it is told here: the log would refuse it without end.
    if isinstance(value, str) and len(value.encode()) > NAME_BYTES_MAX:
        raise CommandRefused(f"{what} must have at most {NAME_BYTES_MAX} bytes, it has {value[:80]!r}...")


def runs_to_create(command: dict[str, Json]) -> list[tuple[str, e.RunCreated]]:
    """
    Give the runs that a command creates, by id.

    Raises:
        CommandRefused: they have another form.
    """
    wanted = command.get("runs")
    if not isinstance(wanted, list):
        raise CommandRefused(f"the command 'create' needs 'runs', a list; it has {wanted!r}")
    found: list[tuple[str, e.RunCreated]] = []
    for item in wanted:
        created = item.get("created") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(created, dict):
            raise CommandRefused(f"each of 'runs' is an object with 'run' and 'created', not {item!r}")
        run = text_of({"kind": "create", **item}, "run")
        check_run_id(run)
        found.append((run, created_from_json(created)))
    return found


def check_run_id(run: str) -> None:
    """
    Refuse an id that no run can have.

    Raises:
        CommandRefused: it is empty, or too long.
    """
    if not 0 < len(run.encode()) <= RUN_ID_BYTES_MAX:
        raise CommandRefused(f"the id of a run has 1 to {RUN_ID_BYTES_MAX} bytes, not {run[:80]!r}")


def published_events(command: dict[str, Json]) -> list[dict[str, Json]]:
    """
    Give the events that a command publishes.

    Raises:
        CommandRefused: they have another form.
    """
    wanted = command.get("events")
    if not isinstance(wanted, list) or not all(isinstance(body, dict) for body in wanted):
        raise CommandRefused(f"the command 'publish' needs 'events', a list of objects; it has {wanted!r}")
    return cast("list[dict[str, Json]]", wanted)


def queue_changes(command: dict[str, Json]) -> dict[str, Json]:
    """
    Give what a command changes of a queue.

    Raises:
        CommandRefused: a field is unknown, or its value isn't one that a limit can be.
    """
    changes = command.get("changes")
    if not isinstance(changes, dict):
        raise CommandRefused(f"the command 'queue' needs 'changes', an object; it has {changes!r}")
    for name, value in changes.items():
        if name not in _LIMITS:
            raise CommandRefused(f"{name!r} of a queue can't be changed; was the command written by a newer polos?")
        least = 0 if name == "max_queued" else 1
        if not _fits(value, _LIMITS[name]) or (type(value) is int and value < least):
            raise CommandRefused(f"a queue can't have {name}={value!r}: it must be {_LIMITS[name]}, from {least}")
    return changes


def trigger_changes(command: dict[str, Json]) -> tuple[bool | None, int | str | None]:
    """
    Give what a command changes of a trigger: whether it is paused, and behind which position it goes on.

    Raises:
        CommandRefused: a field holds something else.
    """
    paused, to = command.get("paused"), command.get("to")
    if not (paused is None or isinstance(paused, bool)):
        raise CommandRefused(f"a trigger can't be paused={paused!r}: it must be true or false")
    if to is None or isinstance(to, str):
        if to in {None, "now"}:
            return paused, to
    elif isinstance(to, int) and _fits(to, "int") and to >= 0:
        return paused, to
    raise CommandRefused(f"a trigger can't go on behind {to!r}: it must be a position from 0, or 'now'")


def created_from_json(body: dict[str, Json]) -> e.RunCreated:
    """
    Give what a run is created with.

    Raises:
        CommandRefused: a field is unknown, missing or of another type.
    """
    unknown = body.keys() - _FORMS.keys()
    if unknown:
        message = f"a run can't be created with {sorted(unknown)}; was the command written by a newer polos?"
        raise CommandRefused(message)
    values: dict[str, Any] = dict(body)
    for name in ("tags", "adopts"):
        values[name] = values.get(name) or []
    for name, value in values.items():
        if (value is None and name in _OPTIONAL) or type(value) is _EXACT.get(name):
            continue  # nearly all are that
        if not _fits(value, _FORMS[name]) or (name != "priority" and isinstance(value, int) and value < 0):
            raise CommandRefused(f"a run can't be created with {name}={value!r}: it must be {_FORMS[name]}")
    for name in ("workflow", "queue"):
        _check_length(name, values.get(name))
    policy, singleton = values.get("singleton_policy"), values.get("singleton")
    if (policy is None) != (singleton is None) or policy not in (None, *POLICIES):
        raise CommandRefused(f"a run can't be created with singleton={singleton!r} and singleton_policy={policy!r}")
    debounce, waits_us = values.get("debounce"), values.get("debounce_us")
    if (debounce is None) != (waits_us is None) or (debounce is None and values.get("debounce_max_us") is not None):
        raise CommandRefused(f"a run can't be created with debounce={debounce!r} and debounce_us={waits_us!r}")
    if debounce is not None and (values.get("idempotency_key") or values.get("start_after_us") is not None):
        raise CommandRefused("a run that is debounced has no idempotency_key and no start_after_us")
    try:
        values["tags"], values["adopts"] = tuple(values["tags"]), tuple(values["adopts"])
        return e.RunCreated(**values)
    except TypeError as error:
        message = f"a run can't be created from this command: {error}"
        raise CommandRefused(message) from error


def _fits(value: Json, form: str) -> bool:
    """Tell whether a value is what a field of `RunCreated` holds, by the field's annotation."""
    match form.removesuffix(" | None"):
        case "Json":
            return True
        case "str":
            return isinstance(value, str) or (value is None and form.endswith("None"))
        case "bool":
            return isinstance(value, bool)
        case "int":
            is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < MICROSECONDS_MAX
            return is_number or (value is None and form.endswith("None"))
        case "tuple[str, ...]":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case _:
            raise AssertionError(f"no way is known to look at a field that is {form}")

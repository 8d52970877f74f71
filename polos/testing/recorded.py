"""
A run as a file: what `polos test record` writes and `assert_replays` reads.

The file is JSON that people read in a diff: one record a line, keys in order, nothing in it but what the log has. The
fields of an event are sorted; what a program gave or got back keeps the order that it has in the log, because a
workflow can see the order of a dict, and sorting it would be a change of the recording.

A recording is evidence. So the file says how many records it has and what their digest is: one that was cut off,
merged by hand or edited is refused with a word on what is wrong, and isn't taken for a difference of the code.
`--polos-accept` seals an edited file anew, for who takes a name or an address out of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast, final

import orjson

import polos
from polos.engine import events as e
from polos.engine.codec import decode, encode
from polos.engine.json import Json
from polos.engine.projections import run_stream
from polos.errors import PolosError, PolosUsageError, UnknownRun
from polos.regular import read_regular
from polos.store.log import Reader
from polos.testing.recorded_shapes import misfit

__all__ = ["FORMAT", "BadRecording", "RecordedEvent", "RecordedRun", "record_run"]

FORMAT: Final = 1
_BYTES_MAX: Final = 1 << 30
KIND: Final = "polos recorded run"


class BadRecording(PolosUsageError):
    """The file isn't a recorded run, or not all of one; an example stands at `RecordedRun`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """
    One record.

    Attributes:
        run: whose it is.
        version: place in the run's stream, from 1.
        position: place that it had in the log.
        time_us: when it was recorded.
        type: the event's type.
        schema_version: of its fields.
        fields: the event as JSON.
    """

    run: str
    version: int
    position: int
    time_us: int
    type: str
    schema_version: int
    fields: dict[str, Json]

    def event(self) -> e.Event:
        """
        Give the event.

        Raises:
            BadRecording: it can't be read.
        """
        try:
            event = decode(self.type, self.schema_version, orjson.dumps(self.fields))
        except PolosError as error:
            raise BadRecording(f"record {self.version} of run {self.run} can't be read: {error}") from error
        wrong = misfit(event)
        if wrong is not None:
            raise BadRecording(f"record {self.version} of run {self.run} can't be read: of a {self.type} {wrong}")
        return event

    def having(self, event: e.Event) -> RecordedEvent:
        """Give the same record with another event."""
        name, schema_version, payload = encode(event)
        return replace(self, type=name, schema_version=schema_version, fields=orjson.loads(payload))

    def line(self) -> bytes:
        """Give it as one line of JSON."""
        shown = {
            "event": dict(sorted(self.fields.items())),
            "position": self.position,
            "run": self.run,
            "schema": self.schema_version,
            "time_us": self.time_us,
            "type": self.type,
            "version": self.version,
        }
        return orjson.dumps(shown)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """
    A run and what of others is needed to replay it.

    ```python run
    import asyncio, tempfile
    from pathlib import Path
    from polos import Polos, WorkflowContext, workflow
    from polos.testing import assert_replays, record_run

    @workflow(id="recorded_greeting")
    async def greet(ctx: WorkflowContext, payload: dict) -> str:
        return await ctx.step.run("shout", lambda name: name.upper(), payload["name"])

    async def main(folder: Path) -> None:
        async with Polos(data_dir=folder / "data") as polos:
            await greet.run(polos, {"name": "Ada"})
            (row,) = await polos.list_executions(workflow_id="recorded_greeting")
            with polos.engine.store.log.reader() as reader:
                record_run(reader, row["id"]).save(folder / "greeting.json")

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
        assert_replays(Path(folder) / "greeting.json", greet)  # no step is called
    ```

    Attributes:
        run: the run.
        workflow: its workflow.
        records: of the run, and of its children at least the first.
        sealed: whether the records are those that were recorded or accepted.
    """

    run: str
    workflow: str
    records: tuple[RecordedEvent, ...]
    sealed: bool = True

    def of(self, run: str) -> list[RecordedEvent]:
        """Give the records of one run, in order."""
        return [record for record in self.records if record.run == run]

    def runs(self) -> list[str]:
        """Give the runs that can be replayed, the recorded one first; of others it may have the first record alone."""
        found = [run for run in self._recorded_runs() if len(self.of(run)) > 1 and not self._is_direct(run)]
        return sorted(found, key=lambda run: run != self.run)

    def direct_runs(self) -> dict[str, str]:
        """
        Give the runs whose bodies weren't deterministic, such as those of tools, with their workflows.

        They are recorded for what models said in them; nothing replays them, because such a body isn't replayed.
        """
        found = [run for run in self._recorded_runs() if self._is_direct(run)]
        return {run: str(self.of(run)[0].fields["workflow"]) for run in found}

    def goes_on_as(self) -> list[str]:
        """Give the runs that recorded ones go on as (`continue_as_new`) and that aren't recorded themselves."""
        return [run for run in _successors(self.records) if not self.of(run)]

    def _recorded_runs(self) -> list[str]:
        return list(dict.fromkeys(record.run for record in self.records))

    def _is_direct(self, run: str) -> bool:
        return any(record.type == "RunStarted" and record.fields.get("direct") for record in self.of(run))

    def to_bytes(self) -> bytes:
        """Give the file."""
        lines = [record.line() for record in self.records]
        head = {
            "digest": _digest(lines),
            "format": FORMAT,
            "kind": KIND,
            "polos": polos.__version__,
            "records": len(lines),
            "run": self.run,
            "workflow": self.workflow,
        }
        shown = b",\n".join(b'"%s": %s' % (name.encode(), orjson.dumps(value)) for name, value in head.items())
        return b"{\n" + shown + b',\n"history": [\n' + b",\n".join(lines) + b"\n]}\n"

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> RecordedRun:
        """
        Read a file.

        Args:
            data: its bytes.
            where: how an error calls it.

        Raises:
            BadRecording: it is something else, cut off, or of a newer polos.
        """
        head = _head(data, where)
        lines: list[Any] = head["history"]  # anything else is no list, and refused
        if type(lines) is not list or head.get("records") != len(lines):
            raise BadRecording(f"{where} doesn't hold the {head.get('records')} records that it names; record it again")
        records = tuple(_record(line, where) for line in lines)
        found = cls(
            run=str(head.get("run")),
            workflow=str(head.get("workflow")),
            records=records,
            sealed=head.get("digest") == _digest([record.line() for record in records]),
        )
        _check_versions(found, where)
        return found

    def save(self, path: str | os.PathLike[str], *, shared: bool | None = None) -> None:
        """
        Write the file, whole or not at all.

        Args:
            path: where; a file that is there is replaced.
            shared: whether others than its owner may read it; None leaves that as it is, and keeps a new one private.
        """
        target = Path(path)
        mode = 0o600 if not shared else 0o644
        if shared is None and target.exists():
            mode = target.stat().st_mode & 0o777
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        beside.unlink(missing_ok=True)  # who died in the middle of this left one
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.to_bytes())
            beside.chmod(mode)  # past the umask
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RecordedRun:
        """
        Read a file.

        Raises:
            BadRecording: there is no such file, or as for `from_bytes`.
        """
        try:
            data = read_regular(path, bytes_max=_BYTES_MAX)
        except FileNotFoundError:
            raise BadRecording(
                f"there is no file {os.fspath(path)}: `polos test record RUN --out {os.fspath(path)}` writes one"
            ) from None
        except OSError as error:
            raise BadRecording(f"{os.fspath(path)} can't be read: {error.strerror}") from error
        return cls.from_bytes(data, where=os.fspath(path))


def record_run(reader: Reader, run: str, *, tree: bool = False) -> RecordedRun:
    """
    Take a run from a log. An example stands at `RecordedRun`.

    Args:
        reader: a view of the log.
        run: the run's id.
        tree: whether all runs below it, and those that it goes on as, are taken as a whole; otherwise there is the
            first record of those below it, which has their input.

    Raises:
        UnknownRun: the log has no such run.
        PolosUsageError: its body isn't deterministic, so that no test could replay it.
    """
    records = list(_records(reader, run))
    if not records:
        raise UnknownRun(f"there is no run {run!r} in this store")
    first = records[0].event()
    assert isinstance(first, e.RunCreated), "a run's stream begins with its creation"
    waiting = _children(records) + (_successors(records) if tree else [])
    while waiting:
        child = waiting.pop(0)
        found = list(_records(reader, child, limit=None if tree else 1))
        records += found
        waiting += _children(found)
        waiting += _successors(found) if tree else []
    recorded = RecordedRun(run=run, workflow=first.workflow, records=tuple(records))
    if run in recorded.direct_runs():
        raise _not_deterministic(run, first.workflow, _children(recorded.of(run)))
    return recorded


def _not_deterministic(run: str, workflow: str, below: list[str]) -> PolosUsageError:
    instead = "test the functions that it calls, or sweep it with `crash_sweep`"
    if below:
        instead = f"record a run below it, such as {below[0]}, or {instead}"
    return PolosUsageError(
        f"run {run} isn't recorded, because no test could replay it: the body of {workflow!r} isn't deterministic, and "
        f"such a body begins anew after a crash instead of being replayed; {instead}"
    )


def _records(reader: Reader, run: str, limit: int | None = None) -> Iterator[RecordedEvent]:
    for record in reader.stream(run_stream(run), limit=limit):
        yield RecordedEvent(
            run=run, version=record.version, position=record.position, time_us=record.time_us, type=record.type,
            schema_version=record.schema_version, fields=orjson.loads(record.payload),
        )  # fmt: skip


def _children(records: Sequence[RecordedEvent]) -> list[str]:
    return [str(record.fields["child"]) for record in records if record.type == "ChildStarted"]


def _successors(records: Sequence[RecordedEvent]) -> list[str]:
    return [str(record.fields["successor"]) for record in records if record.type == "RunContinued"]


def _digest(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _head(data: bytes, where: str) -> dict[str, Any]:
    try:
        found: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRecording(f"{where} isn't a whole recorded run, it was cut off or edited: {error}") from error
    if not isinstance(found, dict) or cast("dict[str, Any]", found).get("kind") != KIND:
        raise BadRecording(f"{where} isn't a recorded run; `polos test record RUN --out FILE` makes one")
    head = cast("dict[str, Any]", found)
    if head.get("format") != FORMAT:
        raise BadRecording(
            f"{where} has format {head.get('format')!r}, and this polos {polos.__version__} reads {FORMAT}"
        )
    if "history" not in head:
        raise BadRecording(f"{where} has no history; record it again")
    return head


_TYPES: Final = {"event": dict, "position": int, "run": str, "schema": int, "time_us": int, "type": str, "version": int}


def _record(line: Any, where: str) -> RecordedEvent:
    if not isinstance(line, dict) or {name: type(value) for name, value in cast("Any", line).items()} != _TYPES:
        raise BadRecording(f"{where} has a record that isn't one: {str(cast('Any', line))[:200]}")
    found = cast("dict[str, Any]", line)
    if not all(0 <= found[name] < 2**63 for name in ("position", "schema", "time_us", "version")):
        raise BadRecording(f"{where} has a record with a number that no log has: {str(found)[:200]}")
    return RecordedEvent(
        run=found["run"], version=found["version"], position=found["position"], time_us=found["time_us"],
        type=found["type"], schema_version=found["schema"], fields=found["event"],
    )  # fmt: skip


def _check_versions(found: RecordedRun, where: str) -> None:
    for run in dict.fromkeys([found.run, *(record.run for record in found.records)]):
        versions = [record.version for record in found.of(run)]
        if not versions or versions != list(range(1, len(versions) + 1)) or found.of(run)[0].type != "RunCreated":
            raise BadRecording(f"{where} doesn't have the history of run {run} without gaps; record it again")

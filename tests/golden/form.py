"""
What a golden history is on disk: yesterday's code, yesterday's bytes, and what both meant.

A case is a folder `format-<n>/<feature>/` that is written once and never changed:

* `workflow.py`, the program as it was. It uses the public names of polos alone, so it also shows that those stay.
* `history.jsonl`, every record of the log, one a line. The line begins with what the header holds and ends with the
  payload as it was stored, byte for byte, because the bytes are what later versions have to read; `head` is the chain
  behind the record, so a line that was touched is noticed.
* `expected.json`, what the history meant: the rows, how each run stood, what readers of its stream were shown.

Beside the cases lies `store.tar.xz`, a data directory as LMDB left it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from polos import registry
from polos.definition import Workflow
from polos.engine.codec import decode
from polos.engine.projections import RUN_PREFIX
from polos.runtime.loading import Stored
from polos.store.blobs import MemoryBlobs
from polos.store.chain import EMPTY_CHAIN, decode_entry, encode_entry, entry_head
from polos.store.log import AppendUnit, NewRecord, PayloadEncoding, Position, Record, Version

__all__ = ["FOLDER", "Case", "Line", "cases", "load_program", "write_history"]

FOLDER = Path(__file__).resolve().parent
_PAYLOAD = b',"payload":'


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """
    One record, as a golden file keeps it.

    Attributes:
        record: as it is to be appended; `payload` is what is stored.
        position: in the log.
        version: in its stream.
        head: the chain behind it, as hex.
        blob: what the blob holds, if the stored payload names one.
    """

    record: NewRecord
    position: Position
    version: Version
    head: str
    blob: bytes | None = None

    def write(self) -> bytes:
        """Give the line, without its end."""
        kept = self.record
        fields: dict[str, Any] = {
            "position": self.position,
            "stream": kept.stream,
            "version": self.version,
            "type": kept.type,
            "schema_version": kept.schema_version,
            "time_us": kept.time_us,
            "head": self.head,
        }
        if kept.blobs:
            fields["blobs"] = kept.blobs
        payload = kept.payload
        if kept.encoding is PayloadEncoding.BLOB:
            fields |= {"encoding": int(kept.encoding), "stored": payload.hex()}
            payload = self.blob or b""
        assert json.loads(payload) is not None, "an event is a JSON object"
        assert b"\n" not in payload, "orjson writes no line ends"
        return json.dumps(fields, separators=(",", ":")).encode()[:-1] + _PAYLOAD + payload + b"}"

    @classmethod
    def read(cls, raw: bytes) -> Line:
        """Give back what `write` wrote."""
        header, _, rest = raw.partition(_PAYLOAD)  # a quote inside a text is escaped, so the first one is the key
        fields = json.loads(header + b"}")
        payload = rest[:-1]
        encoding = PayloadEncoding(fields.get("encoding", 0))
        return cls(
            record=NewRecord(
                stream=fields["stream"],
                type=fields["type"],
                schema_version=fields["schema_version"],
                time_us=fields["time_us"],
                payload=bytes.fromhex(fields["stored"]) if encoding else payload,
                blobs=tuple(fields.get("blobs", ())),
                encoding=encoding,
            ),
            position=Position(fields["position"]),
            version=Version(fields["version"]),
            head=fields["head"],
            blob=payload if encoding else None,
        )


def write_history(records: Iterable[tuple[NewRecord, bytes | None]]) -> bytes:
    """Give the lines of a log, from records and what their blobs hold; positions, versions and chain follow."""
    chain, versions, lines = EMPTY_CHAIN, dict[str, int](), []
    for number, (record, blob) in enumerate(records, 1):
        position = Position(number)
        version = Version(versions.get(record.stream, 0) + 1)
        versions[record.stream] = version
        chain, _ = encode_entry(record, position, version, chain)
        lines.append(Line(record=record, position=position, version=version, head=chain.hex(), blob=blob).write())
    return b"".join(line + b"\n" for line in lines)


@dataclass(frozen=True)
class Case:
    """A golden history: `format-1/steps`."""

    folder: Path

    @property
    def name(self) -> str:
        """Its feature."""
        return self.folder.name

    @cached_property
    def lines(self) -> list[Line]:
        """Its records."""
        return [Line.read(raw) for raw in (self.folder / "history.jsonl").read_bytes().splitlines()]

    @cached_property
    def expected(self) -> dict[str, Any]:
        """What it meant."""
        found: dict[str, Any] = json.loads((self.folder / "expected.json").read_bytes())
        return found

    @cached_property
    def program(self) -> ModuleType:
        """Its code."""
        return load_program(self.folder)

    @property
    def workflows(self) -> list[Workflow[Any]]:
        """The workflows that its code defines; ids stand for them from now on."""
        found = [value for value in vars(self.program).values() if isinstance(value, Workflow)]
        for definition in found:
            registry.register(definition)
        return found

    def records(self) -> list[Record]:
        """Give its records, each proved to be what its place in the chain says."""
        found: list[Record] = []
        chain = EMPTY_CHAIN
        for line in self.lines:
            _, entry = encode_entry(line.record, line.position, line.version, chain)
            assert line.head == entry_head(entry, line.position).hex(), f"line {line.position} isn't what was written"
            record = decode_entry(entry, line.position, chain)
            found.append(record if line.blob is None else _resolved(record, line.blob))
            chain = bytes.fromhex(line.head)
        return found

    def histories(self) -> dict[str, list[Stored]]:
        """Give the stream of each run, decoded by today's codec."""
        found: dict[str, list[Stored]] = {}
        for record in self.records():
            if record.stream.startswith(RUN_PREFIX):
                event = decode(record.type, record.schema_version, record.payload)
                run = record.stream.removeprefix(RUN_PREFIX)
                found.setdefault(run, []).append((event, record.time_us, record.position))
        return found

    def unit(self, blobs: MemoryBlobs, rows: Iterable[Any], *, length: int | None = None) -> AppendUnit:
        """Give what puts the history, or so many records of it, into an empty log."""
        for line in self.lines:
            if line.blob is not None:
                blobs.put(line.blob)
        return AppendUnit(records=tuple(line.record for line in self.lines[:length]), rows=tuple(rows))


def _resolved(record: Record, blob: bytes) -> Record:
    return Record(
        position=record.position,
        stream=record.stream,
        version=record.version,
        type=record.type,
        schema_version=record.schema_version,
        time_us=record.time_us,
        payload=blob,
        blobs=record.blobs,
        encoding=record.encoding,
    )


def cases() -> list[Case]:
    """Give every golden history there is, of every format."""
    return [Case(path.parent) for path in sorted(FOLDER.glob("format-*/*/history.jsonl"))]


def load_program(folder: Path) -> ModuleType:
    """Import the program of a case; the same module for the same case, under a name that stays the same."""
    name = "golden_" + folder.name
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, folder / "workflow.py")
    assert spec is not None, "a Python file has a loader"
    assert spec.loader is not None, "a Python file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # types are found by the name of their module
    spec.loader.exec_module(module)
    return module

"""
Writes a golden history: `python -m tests.golden.make NAME...`.

Write `format-<n>/NAME/workflow.py` and a scene in `scenes.py` first. What is there already is kept for ever, so this
refuses to touch it. Nothing of the machine on which a history was made stays in it: paths are cut to the project's,
the host is named `golden`; the chain is laid through what remains.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path

import polos
from polos.runtime.settings import Settings
from polos.store.blobs import MemoryBlobs
from polos.store.chain import blob_reference
from polos.store.format import FORMAT_VERSION
from polos.store.log import NewRecord, PayloadEncoding, Record
from polos.testing.simulation import Simulation

from tests.golden.form import FOLDER, Case, load_program, write_history
from tests.golden.meaning import replayed, told
from tests.golden.scenes import SCENES

__all__ = ["AlreadyKept", "make"]

ROOT = FOLDER.parent.parent
INLINE_BYTES_MAX = 65_536  # as the writer has it


class AlreadyKept(Exception):
    """There is a history of that name, and it is kept for ever."""


def make(name: str, *, folder: Path = FOLDER / f"format-{FORMAT_VERSION}") -> Case:
    """
    Write a case.

    Args:
        name: of its folder, which holds its program, and of its scene.
        folder: of the format.

    Raises:
        AlreadyKept: it is written already.
    """
    place = folder / name
    if (place / "history.jsonl").exists() or (place / "expected.json").exists():
        raise AlreadyKept(f"{place} is kept for ever; give what is new another name")
    program = load_program(place)
    workflows = Case(place).workflows
    cuts: list[int] = []
    settings = Settings(inbox_poll_seconds=0, record_sources=False, deployment_id="golden")
    with Simulation(workflows, seed=len(name), settings=settings) as sim:
        sim.store.log.subscribe(cuts.append)
        queries = SCENES[name](sim, program)
        with sim.store.log.reader() as reader:
            records = [_scrubbed(record) for record in reader.records()]
    (place / "history.jsonl").write_bytes(write_history(records))
    case = Case(place)
    meaning = told(case)
    expected = {
        "made_by": {"polos": polos.__version__, "python": platform.python_version()},
        "runs": meaning["runs"],
        "replayed": replayed(case),
        "queries": queries or [],
        "commits": cuts,
        "stream": meaning["stream"],
        "rows": meaning["rows"],
    }
    (place / "expected.json").write_text(_written(expected), encoding="utf-8")
    return case


def _written(expected: dict[str, object]) -> str:
    """Give JSON whose lists and objects of the second level have a line each: to be read, and to be compared."""
    parts: list[str] = []
    for name, value in expected.items():
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        lines = [
            f"  {json.dumps(key) + ': ' if isinstance(value, dict) else ''}{json.dumps(item, ensure_ascii=False)}"
            for key, item in items
        ]
        opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
        parts.append(f"{json.dumps(name)}: {opening}\n" + ",\n".join(lines) + f"\n{closing}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _scrubbed(record: Record) -> tuple[NewRecord, bytes | None]:
    """Give a record without the machine, and what its blob holds if it is as large as that."""
    payload = record.payload
    for path, name in ((str(ROOT) + "/", ""), (sys.base_prefix + "/", "python/")):
        payload = payload.replace(path.encode(), name.encode())
    if record.type == "EngineStarted":
        payload = re.sub(rb'"pid":\d+,"host":"[^"]*"', b'"pid":1,"host":"golden"', payload)
    payload = re.sub(rb'"git_commit":"[0-9a-f]+"', b'"git_commit":"' + b"0" * 40 + b'"', payload)
    blob = None
    encoding = record.encoding
    if len(payload) > INLINE_BYTES_MAX:  # as the writer does
        blob, payload = payload, blob_reference(MemoryBlobs().put(payload), len(payload))
        encoding = PayloadEncoding.BLOB
    return (
        NewRecord(
            stream=record.stream,
            type=record.type,
            schema_version=record.schema_version,
            time_us=record.time_us,
            payload=payload,
            blobs=record.blobs,
            encoding=encoding,
        ),
        blob,
    )


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        made = make(wanted)
        print(f"{wanted}: {len(made.lines)} records")

"""
The transition tables as a page: docs/state-machine.md is what `render` gives, and a test compares them.

Run ``python -m polos.engine.diagram > docs/state-machine.md`` after changing a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polos.engine.state import ENDED, OP_TRANSITIONS, RUN_TRANSITIONS, OpStatus, Phase

__all__ = ["render"]

_HEAD = """\
# State machine

This page is generated from `RUN_TRANSITIONS` and `OP_TRANSITIONS` in `polos/engine/state.py`
(`python -m polos.engine.diagram`). An event that a table doesn't hold for a phase can't happen there:
`evolve` raises `IllegalHistory`, and nothing changes.

Two things the tables don't show. The *status* that callers see follows from the phase and from what is open
(`polos.engine.state.status`): an active run with nothing but long waits shows `waiting`. And a run that was set aside
(diverged, poisoned, without code, or by a bug of ours) stays in its phase.

"""


def _edges(table: Mapping[Any, Mapping[type[Any], Any]]) -> list[tuple[str, str, list[str]]]:
    """Give source, target and events of each edge that leaves its state."""
    edges: list[tuple[str, str, list[str]]] = []
    for source, row in table.items():
        targets: dict[str, list[str]] = {}
        for event, target in row.items():
            if target != source:
                targets.setdefault(str(target), []).append(event.__name__)
        edges.extend((str(source), target, names) for target, names in targets.items())
    return edges


def _mermaid(table: Mapping[Any, Mapping[type[Any], Any]], *, first: str, last: list[str]) -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for source, target, names in _edges(table):
        lines.append(f"    {source} --> {target}: {', '.join(names)}")
    lines += [f"    {state} --> [*]" for state in last]
    return [*lines, "```", ""]


def _inside(table: Mapping[Any, Mapping[type[Any], Any]]) -> list[str]:
    lines = ["| in | events that leave it there |", "|---|---|"]
    for source, row in table.items():
        names = sorted(event.__name__ for event, target in row.items() if target == source)
        if names:
            lines.append(f"| `{source}` | {', '.join(f'`{name}`' for name in names)} |")
    return [*lines, ""]


def render() -> str:
    """Give the page."""
    lines = ["## A run", ""]
    lines += _mermaid(RUN_TRANSITIONS, first=Phase.ABSENT.value, last=sorted(phase.value for phase in ENDED))
    lines += _inside(RUN_TRANSITIONS)
    for kind, table in OP_TRANSITIONS.items():
        lines += [f"## A {kind}", ""]
        lines += _mermaid(table, first=OpStatus.NEW.value, last=[OpStatus.CLOSED.value])
        if kind.value == "step":
            lines += [
                "`StepResolved` with the outcome `not_done` leads to `backoff` instead: another attempt follows.",
                "",
            ]
    return _HEAD + "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201  # that is what it is run for

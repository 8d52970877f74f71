"""
Where the runs of a scenario stand in their tree.

Ids say nothing to whoever compares two scenarios, nor does the order in which runs were made. So a run has a path: of
the steps that started it, or published the event that did.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from typing import Final

from polos.engine.events import MessageSent
from polos.engine.projections import TRIGGER_PREFIX
from polos.engine.state import RunState
from polos.testing.audit import Audit

__all__ = ["called", "is_triggered", "paths_of", "published_by", "started_by_batches"]

PATH_MAX: Final = 200  # characters
_BY_EVENT: Final = "→"
_GOES_ON: Final = "»"  # a successor, of `continue_as_new`


def paths_of(audit: Audit, root: str) -> dict[str, str]:
    """Give the path of each run; "" is the root. May be asked on another thread than that on which runs begin."""
    paths: dict[str, str] = {}
    triggered: Counter[str] = Counter()
    for number, (run, state) in enumerate(audit.states.copy().items()):
        if run == root:
            paths[run] = ""
        elif state.continues in paths:
            paths[run] = _short(f"{paths[state.continues]}{_GOES_ON}")
        elif state.parent is not None and state.parent in paths:
            paths[run] = _short(f"{paths[state.parent]}/{state.step}".lstrip("/"))
        elif is_triggered(state):
            run_before, step = published_by(audit, state) or (root, "")
            path = _short(f"{paths.get(run_before, '')}/{step}".strip("/") + _BY_EVENT + state.workflow)
            triggered[path] += 1  # of events that no step of a run published, and those come in the order of its calls
            paths[run] = path if triggered[path] == 1 else f"{path}#{triggered[path]}"
        else:
            paths[run] = f"({state.workflow} {number})"
    return paths


def _short(path: str) -> str:
    """Cut off the beginning of a path that gets too long, as of runs that start each other for ever."""
    if len(path) <= PATH_MAX:
        return path
    digest = hashlib.blake2b(path.encode(), digest_size=4).hexdigest()  # so that it is nobody else's
    return f"…{digest}…{path[-PATH_MAX // 2 :]}"


def is_triggered(state: RunState) -> bool:
    """Tell whether an event started it."""
    return (state.origin or "").startswith(TRIGGER_PREFIX)


def started_by_batches(audit: Audit, batched: Collection[str]) -> set[str]:
    """
    Give the runs that there may be more or fewer of after a crash: events come in other batches then.

    Args:
        audit: what the log says.
        batched: workflows whose runs get a batch.
    """
    found: set[str] = set()
    for run, state in audit.states.items():
        before = {state.parent, state.continues}
        if is_triggered(state):
            before = {(published_by(audit, state) or (None,))[0]}
        if (is_triggered(state) and state.workflow in batched) or not found.isdisjoint(before - {None}):
            found.add(run)
    return found


def published_by(audit: Audit, state: RunState) -> tuple[str, str] | None:
    """Give the run and its step that published the event that a run is of, the first of a batch; None for a client."""
    published = audit.published.get(int((state.origin or "").rpartition(":")[2]))
    if published is None or published.run is None:
        return None
    version = int(published.event_id.removeprefix(f"{published.run}:").partition(":")[0])  # see `Ending.message`
    sent = audit.histories[published.run][version - 1][0]
    assert isinstance(sent, MessageSent), f"{published.event_id} names the message that published it"
    return published.run, sent.name


def called(path: str) -> str:
    """Say which run stands there."""
    if not path:
        return "the run"
    before = path.rstrip(_GOES_ON)
    if before != path:
        return f"successor {len(path) - len(before)} of {called(before)}"
    return f"{'triggered run' if path.rfind(_BY_EVENT) > path.rfind('/') else 'child'} {path!r}"

"""
Named points of the way from a decision to its effect, at which a test can stop the process.

"Killed anywhere" can only be shown if a test can say where. A debugger can't: it knows lines, which move. So the code
says itself when it comes past a place where a promise could break, and tests arm a hook there that kills, waits or
raises. Unarmed, a point is one call and one comparison; there are about ten of them a step, none of them in a loop
over records.

The points, in the order in which a step meets them:

====================================  =====================================================================
``code_on_loop``                      a run's code is about to be run on a fact
``decided_before_submit``             a unit is decided, and not yet with the writer
``blob_before_append``                a large payload is a durable blob that no record names yet
``before_append``                     on the writer's thread: a group is about to be appended
``after_append_before_handback``      the group is durable, and only the writer knows
``committed_before_answer``           the engine knows, and nothing has left the process yet
``committed_before_effect``           callers have their answers, and no effect is begun
``inside_effect``                     a step's function is about to be called
``after_effect_before_outcome``       the function came back, and its outcome isn't decided
``inbox_before_append``               a command was read from the inbox and is being decided
``inbox_after_append_before_remove``  its outcome is durable, the file is still there
``inbox_after_remove``                the file is gone
``owned_before_recovery``             an engine has taken the store and looked at nothing
``recovered``                         it has found what was under way
``drained_before_close``              a stopping engine has recorded what ended, and still owns the store
====================================  =====================================================================

An engine that archives runs comes past three more, which have nothing to do with a step (`ARCHIVE_POINTS`):

====================================  =====================================================================
``archive_packed_before_seal``        records of ended runs are a durable segment that no record names yet
``archive_sealed_before_taken_out``   they are archived, and still in the log
``archive_taken_out``                 a portion of them has left the log
====================================  =====================================================================

A point is reached on the thread that does the work: ``blob_before_append`` on one of the blob pool,
``inside_effect`` on one of the step threads if the function isn't async.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["ARCHIVE_POINTS", "POINTS", "arm", "disarm", "reach"]

POINTS: Final = (
    "code_on_loop",
    "decided_before_submit",
    "blob_before_append",
    "before_append",
    "after_append_before_handback",
    "committed_before_answer",
    "committed_before_effect",
    "inside_effect",
    "after_effect_before_outcome",
    "inbox_before_append",
    "inbox_after_append_before_remove",
    "inbox_after_remove",
    "owned_before_recovery",
    "recovered",
    "drained_before_close",
)

ARCHIVE_POINTS: Final = ("archive_packed_before_seal", "archive_sealed_before_taken_out", "archive_taken_out")

_hook: Callable[[str], None] | None = None


def arm(hook: Callable[[str], None] | None) -> None:
    """
    Have a function called at every point that is reached, in this process; None disarms.

    Args:
        hook: gets the point's name, on the thread that reached it. What it raises is raised there.
    """
    global _hook  # noqa: PLW0603  # a hook that had to be handed down to where it is called would cost more than it does
    _hook = hook


def disarm(hook: Callable[[str], None]) -> None:
    """Have a function called no more; does nothing if another one has been armed since."""
    if _hook is hook:
        arm(None)


def reach(point: str) -> None:
    """Come past a point."""
    if _hook is not None:
        _hook(point)

"""
Programs and disturbances, drawn by Hypothesis.

*Steady* programs don't race with themselves: whatever the order in which their steps end, the result is the same, so
it can be compared with what the tree means. *Racing* programs do anything; of them only the promises hold that don't
depend on who is first.

A *disturbance* is something that happens to the engine or to a run from outside, one JSON list each, so that a
failing example can be read.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.property.programs import FOREVER, Node

__all__ = ["disturbances", "racing", "steady"]

_KEYS = st.sampled_from("abc")
_TAKES_US = st.sampled_from([0, 0, 100, 2_000, 70_000, 3_000_000])
_SECONDS = st.sampled_from([0.0, 0.001, 1.0, 20.0, 3600.0])
_NAMES = st.sampled_from(["x", "y"])
_TIMEOUTS = st.sampled_from([None, FOREVER])


def _kind(name: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Node]:
    return st.tuples(st.just(name), *parts).map(list)


_ok_steps = _kind("step", _KEYS, st.just(0), st.just(0), _TAKES_US, st.sampled_from(["idempotent", "pure"]))
_once_steps = _kind("step", _KEYS, st.just(0), st.just(0), _TAKES_US, st.just("at_most_once"))
_retried_steps = st.builds(
    lambda key, fails, us: ["step", key, fails, fails, us, "idempotent"], _KEYS, st.integers(1, 2), _TAKES_US
)
_failing_steps = st.builds(
    lambda key, retries, us: ["step", key, 99, retries, us, "idempotent"], _KEYS, st.integers(0, 1), _TAKES_US
)

_in_threads = st.builds(lambda step: ["thread", *step[1:]], st.one_of(_ok_steps, _once_steps, _retried_steps))

_calm = st.one_of(
    _in_threads,
    _ok_steps,
    _ok_steps,
    _ok_steps,
    _once_steps,
    _retried_steps,
    _kind("sleep", _SECONDS),
    _kind("wait", _SECONDS.filter(bool)),
    _kind("state", _KEYS),
    _kind("value", st.sampled_from(["uuid", "now", "random"])),
    _kind("publish", _NAMES),
    _kind("patched", _NAMES),
)
_answered = st.one_of(
    _kind("signal", _NAMES, _TIMEOUTS), _kind("suspend", _NAMES, _TIMEOUTS), _kind("event", _NAMES, _TIMEOUTS)
)
_never = st.one_of(
    _kind("signal", st.just("never"), st.just(5.0)),
    _kind("suspend", st.just("never"), st.just(5.0)),
    _kind("event", st.just("never"), st.just(5.0)),
    _kind("timeout", _kind("signal", st.just("never"), st.none()), st.just(2.0)),
    _kind("wait_for", _kind("suspend", st.just("never"), st.none()), st.just(2.0)),
)
_failing = st.one_of(_kind("late", _KEYS), _failing_steps, _never, _kind("raise", st.just("no")))


def _together(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    """Nodes made of others that give the same whichever of them is first."""
    several = st.lists(nodes, min_size=1, max_size=3)
    return st.one_of(
        _kind("seq", several),
        _kind("seq", several),
        _kind("gather", several),
        _kind("gather", several),
        _kind("group", several),
        _kind("failing_group", several, _failing, _calm),
        _kind("try", nodes),
        _kind("finally", nodes, _calm),
        _kind("child", nodes, st.none() | nodes),
        _kind("orphan", nodes),
        _kind("batch", several),
        _kind("generator", several, st.integers(1, 2), _calm),
        _kind("closed_generator", several, st.integers(1, 2), _calm),
        _kind("shield", nodes),
        _kind("wait_for", nodes, st.just(FOREVER)),
        _kind("timeout", nodes, st.just(FOREVER)),
        _kind("as_completed", several),
        _kind("one_by_one", several),
        _kind("cancelled", nodes, _calm),
        _kind("left_behind", nodes, _calm),
        _kind("semaphore", st.integers(1, 2), several),
        _kind("queue", several),
    )


def _racing_together(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(nodes, min_size=1, max_size=3)
    return st.one_of(
        _together(nodes),
        _kind("first", several),
        _kind("timeout", nodes, _SECONDS),
        _kind("wait_for", nodes, _SECONDS),
        _kind("cancelled", nodes, nodes),
        _kind("left_behind", nodes, nodes),
        _kind("finally", nodes, nodes),
    )


@st.composite
def _with_flaw(draw: st.DrawFn, nodes: st.SearchStrategy[Node]) -> Node:
    """Let an attempt of the run fail somewhere in the middle, now and then."""
    several = draw(st.lists(nodes, min_size=1, max_size=4))
    if draw(st.integers(0, 4)) == 0:
        several.insert(draw(st.integers(0, len(several))), ["flaky", draw(st.integers(1, 3))])
    return ["seq", several]


_steady_nodes = st.recursive(st.one_of(_calm, _calm, _answered, _failing), _together, max_leaves=8)
_racing_nodes = st.recursive(st.one_of(_calm, _calm, _answered, _failing), _racing_together, max_leaves=8)

steady: st.SearchStrategy[Node] = _with_flaw(_steady_nodes)
racing: st.SearchStrategy[Node] = _with_flaw(_racing_nodes)

_moments = st.one_of(
    _kind("run", st.sampled_from([0, 1, 50, 900, 4_000, 30_000])),  # milliseconds
    _kind("ready"),
    _kind("evict"),
    _kind("crash"),
    _kind("stop"),
    _kind("die", st.integers(1, 12)),  # at so many ticks from now
    _kind("jump", st.sampled_from([-3600, -1, 1, 60, 3600])),
    _kind("fail", st.sampled_from(["FULL", "REFUSED", "UNKNOWN_LOST", "UNKNOWN_KEPT"])),
    _kind("signal", _NAMES),
    _kind("resume", _NAMES),
    _kind("update"),
)

disturbances: st.SearchStrategy[list[Node]] = st.lists(_moments, max_size=12)
ungentle: st.SearchStrategy[list[Node]] = st.lists(st.one_of(_moments, _kind("cancel", st.integers(0, 3))), max_size=12)

racing_with_held: st.SearchStrategy[Node] = st.recursive(
    st.one_of(_calm, _kind("held", _KEYS), _kind("held", _KEYS), _answered, _failing), _racing_together, max_leaves=5
)

"""
Spans around parts of a workflow, when the program has OpenTelemetry. The one door to that library.

A span is telling somebody outside what happened, so it follows the rule for everything that leaves the process: it
is exported when what it tells of is durable, and never while the run is being replayed. It is not durable itself: a
span whose beginning was before a crash is lost.

Without OpenTelemetry there is a span that takes everything and does nothing, so that bodies need not ask.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, final

from polos.context import WorkflowContext, current_step

__all__ = ["NoSpan", "trace"]


@final
class NoSpan:
    """A span that nobody sees: takes every call that an OpenTelemetry span takes."""

    def is_recording(self) -> bool:
        """Say that nothing is kept."""
        return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _ignore


def _ignore(*_: object, **__: object) -> None:
    return None


@contextmanager
def trace(context: WorkflowContext, name: str, attributes: Mapping[str, Any] | None) -> Generator[Any]:
    """Make a span around a part of a body; `polos.step.Step.trace` documents it."""
    port = context.port
    in_step = current_step.get() is not None
    if port is None or (port.replaying and not in_step) or find_spec("opentelemetry") is None:
        yield NoSpan()
        return
    api: Any = import_module("opentelemetry.trace")
    given = {"polos.execution_id": context.execution_id, "polos.workflow_id": context.workflow_id, **(attributes or {})}
    started_ns = port.values.now_us() * 1_000
    span: Any = api.get_tracer("polos").start_span(name, attributes=given, start_time=started_ns)

    def end(at_ns: int) -> None:
        if in_step:
            span.end(at_ns)
        else:
            context.emit(lambda: span.end(at_ns))

    try:
        with api.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield span
    except Exception as error:
        span.record_exception(error)
        span.set_status(api.Status(api.StatusCode.ERROR, str(error)))
        raise
    finally:
        end(max(port.values.now_us() * 1_000, started_ns))

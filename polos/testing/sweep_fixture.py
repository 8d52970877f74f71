"""
The crash sweep as pytest sees it.

A sweep of every point is for `pytest --polos-crash`, in CI; whoever runs the tests while writing the workflow wants an
answer at once. So without the option a test's sweeps try every point if there are few, else a sample, the same each
time, and the line that each sweep leaves in pytest's summary says how much was tried. What a test says itself
(``points=``, ``pairs=``) counts in both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, final

import pytest

if TYPE_CHECKING:
    from polos.definition import Workflow
    from polos.testing.sweep_report import CrashReport

__all__ = ["NAMES", "PROPERTY", "QUICK", "CrashSweeps", "finish", "polos_crash"]

__tracebackhide__ = True  # pytest shows the test's own lines, and the page

QUICK: Final = {"points": 40, "pairs": 4}  # all of 12 to 37 steps, in less than half a second
PROPERTY: Final = (
    "polos crash sweep"  # of a test's report, so that it comes back from the processes of pytest-xdist, too
)
NAMES: Final = "polos crash sweeps"  # of what a process of pytest-xdist says at its end


@final
class CrashSweeps:
    """
    Sweeps for one test.

    ``polos_crash(workflow, input, check=...)``, or in an async test ``await polos_crash.sweep(workflow, input, ...)``.

    Attributes:
        full: whether `--polos-crash` was given.
        reports: what was done.
    """

    def __init__(self, node: pytest.Item, *, full: bool) -> None:
        """Sweep for a test."""
        self.full = full
        self.reports: list[CrashReport] = []
        self._node = node

    def __call__(self, workflow: Workflow[Any], input: object = None, **options: Any) -> CrashReport:
        """
        Sweep, and block meanwhile; takes what `crash_sweep` takes.

        Raises:
            CrashSweepFailed: a crash can be told from outside.
        """
        from polos.testing.sweep import sweep

        with self._as_typed():
            return self._told(sweep(workflow, input, **self._options(options)))

    async def sweep(self, workflow: Workflow[Any], input: object = None, **options: Any) -> CrashReport:
        """
        Sweep beside the test's own loop; takes what `crash_sweep` takes.

        Raises:
            CrashSweepFailed: a crash can be told from outside.
        """
        from polos.testing.sweep import crash_sweep

        with self._as_typed():
            return self._told(await crash_sweep(workflow, input, **self._options(options)))

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        return given if self.full else {**QUICK, **given}

    @contextmanager
    def _as_typed(self) -> Generator[None]:
        """Have the command of a failure work where pytest was started, and with the plugin if it was named there."""
        from polos.testing.sweep_report import CrashSweepFailed, command_for

        try:
            yield
        except CrashSweepFailed as failed:
            if failed.target:
                failed.command = command_for(failed.target, pytest_arguments=self._arguments())
            raise

    def _arguments(self) -> list[str]:
        node, config = self._node, self._node.config
        _, colons, inside = node.nodeid.partition("::")  # the part before is from pytest's root directory
        test = f"{os.path.relpath(node.path, config.invocation_params.dir)}{colons}{inside}"
        named: list[str] = config.getoption("plugins", None) or []
        return [*(("-p", "polos.testing") if "polos.testing" in named else ()), test]

    def _told(self, report: CrashReport) -> CrashReport:
        self.reports.append(report)
        self._node.user_properties.append((PROPERTY, str(report)))
        return report


@pytest.fixture
def polos_crash(request: pytest.FixtureRequest) -> CrashSweeps:
    """Crashes a workflow at its points, a sample if they are many, with `--polos-crash` at all of them."""
    node: pytest.Item = request.node
    return CrashSweeps(node, full=bool(request.config.getoption("--polos-crash", default=False)))


def finish(session: pytest.Session, wanted: str, elsewhere: list[tuple[bool, list[str]]]) -> None:
    """
    Have a session fail in which a crash was wanted and none of the sweeps was the one that it is of.

    Args:
        session: that is over.
        wanted: the crash, as `POINT_VARIABLE` says it.
        elsewhere: of each process of pytest-xdist, whether it had the sweep, and the names of the others it had.
    """
    from polos.testing.sweep_report import POINT_VARIABLE

    targets = sys.modules.get("polos.testing.sweep_target")  # nobody has swept if nobody has imported it
    sought = None if targets is None else targets.SOUGHT.get(wanted)
    found = False
    names: list[str] = []
    if sought is not None:
        found, names, sought.told = sought.found, sought.names, True
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[NAMES] = (found, names)
        return
    if found or any(had for had, _ in elsewhere) or session.exitstatus not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        return
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    from polos.testing.sweep_target import none_is_it

    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        what = f"the sweep that {POINT_VARIABLE} names"
        said = none_is_it(wanted, [*names, *(name for _, others in elsewhere for name in others)])
        failed = pytest.TestReport(POINT_VARIABLE, (POINT_VARIABLE, None, what), {}, "failed", said, "setup")
        terminal.stats.setdefault("error", []).append(failed)

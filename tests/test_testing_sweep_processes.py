"""The crash sweep in child processes: what one process hides, and how lives end that no crash explains."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from polos import workflow
from polos.errors import PolosUsageError
from polos.testing import CrashOutcome, CrashSweepFailed, plugin, sweep_processes, sweep_target
from polos.testing.sweep import sweep
from polos.testing.sweep_report import CrashReport
from polos.testing.sweep_wanted import Wanted

from tests import sweep_workflows as w
from tests.sweep_workflows import bank

pytestmark = pytest.mark.sweep

ROOT = Path(__file__).resolve().parent.parent


def swept(workflow: Any, **options: Any) -> CrashReport:
    """Sweep every point in child processes."""
    return sweep(workflow, {}, **{"processes": 1.0, "pairs": 0, **options})


def failure(workflow: Any, **options: Any) -> CrashSweepFailed:
    """Give the failure of a sweep that must fail."""
    with pytest.raises(CrashSweepFailed) as failed:
        swept(workflow, **options)
    return failed.value


def test_a_sound_workflow_survives_being_killed():
    """A workflow of all kinds of steps and waits is killed for good at a sample of its points, and at pairs."""

    def check(outcome: CrashOutcome) -> None:
        assert outcome.in_process == (not outcome.directory.parent.joinpath("data").exists())
        assert outcome.result["answer"] == {"approved": 3}
        assert bank.count("flaky") == outcome.calls["flaky"] or "inside_effect" in " ".join(outcome.crashes)

    report = sweep(w.mixed, {"number": 1}, answers=w.ANSWERS, check=check, real=True, points=14, pairs=6)

    assert (14, 6, 22) == (report.singles, report.pairs, report.processes)


@pytest.mark.parametrize("flow", [w.iterates_a_set, w.asks_a_cache, w.counts_in_a_module], ids=lambda flow: flow.id)
def test_what_one_process_hides_is_found(flow: Any):
    """The order of a set, a cache and a counter of a module: what one process hides, another one doesn't know."""
    hidden = swept(flow, processes=0)
    failed = failure(flow, real=True)

    assert hidden.singles == len(hidden.points)
    assert failed.real
    assert "diverge" in failed.differences[0]
    assert "does no harm in this process" in str(failed)


def test_the_share_of_points_in_child_processes():
    """However small, one between each two commits is tried so besides, and the last one; with processes=0 none is."""
    tried: list[tuple[str, ...]] = []

    def check(outcome: CrashOutcome) -> None:
        if not outcome.in_process:
            tried.append(outcome.crashes)

    report = swept(w.small, processes=0.01, check=check)

    commits = sum(point.name == "after_append_before_handback" for point in report.points)
    at = [[str(point) for point in report.points].index(crash) for crashes in tried for crash in crashes]
    assert 2 + commits + 1 == report.processes  # the undisturbed run is lived twice
    assert [(), (str(report.points[-1]),)] == [tried[0], tried[-1]]
    assert all(second - first <= 2 * len(report.points) / commits for first, second in pairwise(at))
    assert 0 == swept(w.small, processes=0).processes


def test_a_fake_in_memory_is_told():
    """A check that fails in child processes alone says that the fake may be gone with its process."""

    def check(outcome: CrashOutcome) -> None:
        assert len(w.memory) == outcome.calls["remember"]

    assert swept(w.acts_upon_memory, processes=0, check=check, setup=w.forget).singles
    failed = failure(w.acts_upon_memory, check=check, setup=w.forget)

    assert failed.real
    assert "sweep with processes=0" in str(failed)


def test_a_finally_that_acts_is_told():
    """A `finally` runs when a coroutine is closed, and not in a killed process: the failure says where to look."""

    def check(outcome: CrashOutcome) -> None:
        held = (outcome.directory / "held").read_text("utf-8").split()
        assert len(held) == outcome.calls["hold"] - (outcome.crashes == ("inside_effect/await:1",))

    failed = failure(w.acts_when_closed, check=check, setup=w.begin_file)

    assert not failed.real
    assert "does no harm in child processes" in str(failed)


@pytest.mark.parametrize(
    ("flow", "options", "says"),
    [
        (w.ends_the_process, {}, "life 1 ended with exit code 3"),
        (w.stands_still, {"patience_seconds": 0.5}, r"(?s)life 1 took longer than 0.5 s.*in stand_still"),
        (w.is_ended_by_a_signal, {}, r"life 1 was ended by signal 15 \(Terminated\)"),
        (w.small, {"setup": w.raise_in_child}, "OSError: no such bank"),
    ],
)
def test_a_life_that_ends_by_itself_is_told(flow: Any, options: dict[str, Any], says: str):
    """A process that exits, that doesn't end, or that can't be set up is a failure, and says how it ended."""
    failed = failure(flow, **options)

    assert re.search(says, failed.differences[0])
    assert "in a child process" in str(failed)


@pytest.mark.parametrize("what", ["workflow", "setup", "answer"])
def test_what_another_process_cannot_import_is_named(what: str):
    """Whatever is defined in a function isn't found by another process; the error names it, and the way out."""

    @workflow(id="swept-inner")
    async def inner(ctx) -> None:
        await ctx.step.run("plus", w.plain, 1)

    wanted: dict[str, Any] = {
        "workflow": {"workflow": inner},
        "setup": {"workflow": w.small, "setup": lambda directory: None},
        "answer": {"workflow": w.small, "answers": {"approve": lambda waiting: None}},
    }
    names = {"workflow": "workflow 'swept-inner'", "setup": "setup", "answer": "the answer for 'approve'"}

    with pytest.raises(PolosUsageError, match=f"^{names[what]} is no name of .*processes=0"):
        swept(**wanted[what])


FAULTY = """
import os
from polos import workflow

if "POLOS_CRASH_LIVES" in os.environ:
    raise ImportError("not here")

@workflow(id="swept-elsewhere")
async def elsewhere(ctx) -> None:
    pass
"""


def test_a_module_that_cannot_be_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a module raises in the other process is shown."""
    (tmp_path / "swept_faulty.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import swept_faulty  # type: ignore[import-not-found]  # it was just written

    with pytest.raises(PolosUsageError, match="ImportError: not here"):
        swept(swept_faulty.elsewhere)


TEST = """
import asyncio
from polos import workflow
from polos.testing import Outside

bank = Outside("bank")

async def charge():
    bank.note("charged")

async def look():
    for number in range(40):  # each leaves something else
        bank.note("looked", number=number)
        await asyncio.sleep(0)

@workflow
async def pays(ctx):
    await ctx.step.run("charge", charge)

@workflow
async def shops(ctx):
    await ctx.step.run("look", look)
    await ctx.step.run("charge", charge)

def test_pays(polos_crash):
    def check(outcome):
        assert outcome.in_process or bank.count("charged") == 1
    polos_crash(pays, check=check, real=True, points=None)

def test_awaited(polos_crash):
    report = asyncio.run(polos_crash.sweep(shops))
    assert polos_crash.reports == [report]
"""


def says(directory: Path, *command: str) -> str:
    """Run a command in a directory; gives what it prints."""
    # On a build server pytest says everything twice, once in its summary.
    foreign = ("POLOS_", "PYTEST", "CI", "BUILD_NUMBER")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        command, cwd=directory, env={**inherited, "PYTHONPATH": str(ROOT), "PATH": path}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
    )  # fmt: skip
    return done.stdout


def pytest_says(directory: Path, *arguments: str) -> str:
    """Run pytest on the test above; gives what it prints."""
    (directory / "test_pays.py").write_text(TEST)
    return says(directory, sys.executable, "-m", "pytest", "-p", "polos.testing", "-p", "no:cacheprovider", *arguments)


def test_the_fixture_tries_a_sample_or_everything(tmp_path: Path):
    """Of many points a sample is tried, with --polos-crash every one; each sweep has its line in the summary."""
    quick = pytest_says(tmp_path, "test_pays.py::test_awaited")
    full = pytest_says(tmp_path, "test_pays.py::test_awaited", "--polos-crash", "-n", "1")

    assert re.search(r"shops: 40 of (\d+) crash points and 4 pairs survived", quick)
    assert re.search(r"shops: (\d+) of \1 crash points \(\d+ different\) and 100 pairs survived", full)


def test_the_command_of_a_failure_plays_it_again(tmp_path: Path):
    """Typed where pytest was started, it fails at the same point, and tries nothing else, wherever pytest's root is."""
    inner = tmp_path / "in ner"
    inner.mkdir()
    (inner / "pytest.ini").write_text("[pytest]\n")
    (inner / "test_pays.py").write_text(TEST)
    test = "in ner/test_pays.py::test_pays"
    first = says(tmp_path, sys.executable, "-m", "pytest", "-p", "polos.testing", "-p", "no:cacheprovider", test)
    (command,) = re.findall(r"reproduce: (.*)", first)
    again = says(tmp_path, "sh", "-c", command)

    assert ["-m", "pytest", "-p", "polos.testing", test] == shlex.split(command)[2:]
    dies = re.findall(r"the process dies at (\S+)", first)
    assert dies
    assert dies == re.findall(r"the process dies at (\S+)", again)
    assert "real/" in command
    assert not re.search(r"(sweep_\w+|patience)\.py:\d", first), "the page isn't buried under polos's own frames"


def test_a_session_without_the_sweep_that_is_wanted_fails(tmp_path: Path):
    """A command that is older than the code, or a variable that was forgotten in a shell, makes nothing green."""
    (tmp_path / "test_pays.py").write_text(TEST)
    test = shlex.join([sys.executable, "-m", "pytest", "-p", "polos.testing", "-p", "no:cacheprovider", "test_pays.py"])
    said = says(tmp_path, "sh", "-c", f"POLOS_CRASH_POINT=pays@000000/before_append:1 {test}; echo $?")

    assert re.search(r"of no sweep of this session \(they were pays@\w{6}, shops@\w{6}\), so no crash was tried", said)
    assert re.search(r"2 passed, 1 error in [^\n]*\n1\n$", said), said


def test_a_program_without_the_sweep_that_is_wanted_fails(tmp_path: Path):
    """It says so at its end, when all its sweeps were others; with the one that is wanted it ends as ever."""
    (tmp_path / "sweep_it.py").write_text(PROGRAM)
    program = shlex.join([sys.executable, "sweep_it.py"])
    said = says(tmp_path, "sh", "-c", f"POLOS_CRASH_POINT=kept@000000/before_append:1 {program}; echo $?")
    (name,) = re.findall(r"they were (kept@\w{6})\)", said)
    again = says(tmp_path, "sh", "-c", f"POLOS_CRASH_POINT={name}/before_append:1 {program}; echo $?")

    assert said.endswith("take the command that it prints now.\n1\n")
    assert again.endswith("only POLOS_CRASH_POINT=before_append:1 was tried\n0\n")


class _Session:
    """What a session of pytest is to the plugin, in a process of pytest-xdist or in the one above them."""

    def __init__(self, **config: Any) -> None:
        self.exitstatus = 0
        self.stash = pytest.Stash()
        self.terminal = SimpleNamespace(stats={})
        manager = SimpleNamespace(get_plugin=lambda _name: self.terminal)
        options = SimpleNamespace(getoption=lambda *_args, **_options: False)
        self.config = SimpleNamespace(stash=self.stash, pluginmanager=manager, getoption=options.getoption, **config)


@pytest.mark.parametrize(("wanted", "fails"), [("swept-small", False), ("swept-other", True)])
def test_what_processes_of_a_session_have_swept_counts_together(
    monkeypatch: pytest.MonkeyPatch, wanted: str, fails: bool
):
    """With pytest-xdist one process may have the sweep that is wanted, and the others none."""
    monkeypatch.setattr(sweep_target, "SOUGHT", {})
    name = sweep_target.Targets("swept-small", Wanted(workflow=w.small, input={}).task()).of(()).rstrip("/")
    monkeypatch.setenv("POLOS_CRASH_POINT", f"{name.replace('swept-small', wanted)}/before_append:1")
    idle: Any = _Session(workeroutput={})
    busy: Any = _Session(workeroutput={})
    above: Any = _Session()
    plugin.pytest_sessionfinish(idle)
    swept(w.small, processes=0)
    plugin.pytest_sessionfinish(busy)
    monkeypatch.setattr(sweep_target, "SOUGHT", {})
    for worker in (idle, busy):
        plugin.pytest_testnodedown(SimpleNamespace(workeroutput=worker.config.workeroutput, config=above.config))
    plugin.pytest_sessionfinish(above)

    assert [0, 0, int(fails)] == [idle.exitstatus, busy.exitstatus, above.exitstatus]
    told = [report.longrepr for report in above.terminal.stats.get("error", [])]
    assert [name in text for text in told] == ([True] if fails else [])


def test_a_plugin_that_a_module_names_serves_it(tmp_path: Path):
    """It comes too late for options; its fixtures work, with a sample."""
    (tmp_path / "test_named.py").write_text(f"pytest_plugins = ['polos.testing']\n{TEST}")

    said = says(tmp_path, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_named.py::test_awaited")

    assert re.search(r"shops: 40 of (\d+) crash points and 4 pairs survived", said)


def test_a_program_without_an_ending_is_found_by_other_processes(tmp_path: Path):
    """A script that is called by its name alone is no module that Python knows by the ending of its file."""
    program = tmp_path / "sweep-it"
    program.write_text(PROGRAM)

    said = says(tmp_path, sys.executable, str(program))
    piped = says(tmp_path, "sh", "-c", f"{shlex.quote(sys.executable)} - < sweep-it")

    assert re.search(r"kept: 2 of \d+ crash points and 0 pairs survived, 4 scenarios in child processes", said), said
    assert "PolosUsageError: workflow 'kept' is no name of module '__main__'" in piped


PROGRAM = """
import asyncio
from polos import workflow
from polos.testing import crash_sweep

async def one():
    return 1

@workflow(id="kept")
async def kept(ctx):
    await ctx.step.run("one", one)

if __name__ == "__main__":
    print(asyncio.run(crash_sweep(kept, points=2, pairs=0)))
"""


ENDS = """
import asyncio, os, signal, sys, threading, time
from polos import workflow
from polos.testing import crash_sweep
from polos.testing.sweep import sweep

begun = threading.Event()

def lasts(directory):
    (directory / "file").touch()
    begun.set()
    if len(sys.argv) > 2:
        threading.Event().wait()  # not to be interrupted
    while True:
        time.sleep(0.01)

@workflow(id="swept-ended")
async def ended(ctx):
    pass

async def cancelled():
    swept = asyncio.create_task(crash_sweep(ended, setup=lasts, processes=0))
    await asyncio.to_thread(begun.wait)
    swept.cancel()
    await asyncio.wait([swept])

def end(number):
    begun.wait()
    os.kill(os.getpid(), number)

if sys.argv[1] == "cancelled":
    asyncio.run(cancelled())
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    threading.Thread(target=end, args=[int(sys.argv[1])]).start()
    sweep(ended, setup=lasts, processes=0)
"""


@pytest.mark.parametrize(
    ("arguments", "says_last"),
    [(["2", "blocks"], "KeyboardInterrupt"), (["15"], "terminated"), (["cancelled"], "")],
    ids=str,
)
def test_a_program_that_ends_amid_a_sweep_leaves_no_directory(tmp_path: Path, arguments: list[str], says_last: str):
    """Ctrl-C, a signal with a handler, a cancelled task at its end: the room of the sweep goes with the program."""
    program, room = tmp_path / "ends.py", tmp_path / "room"
    program.write_text(ENDS)
    room.mkdir()
    command = shlex.join([sys.executable, str(program), *arguments])

    said = says(tmp_path, "sh", "-c", f"TMPDIR={shlex.quote(str(room))} {command}")

    assert (says_last, []) == ("".join(said.splitlines()[-1:]), sorted(room.iterdir()))


def test_children_of_other_modules_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A workflow that is started by its id alone is imported by the other processes, too, wherever it is defined."""
    (tmp_path / "swept_far.py").write_text(
        "from polos import workflow\n\n@workflow(id='swept-far')\nasync def far(ctx) -> str:\n    return 'far'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import swept_far  # type: ignore[import-not-found]  # it was just written

    assert swept_far.far.id == "swept-far"
    assert 5 == swept(w.starts_by_id, real=True, points=3).processes


def test_a_script_that_sweeps_when_it_is_imported_is_refused(tmp_path: Path):
    """Its child processes import it and don't sweep themselves, which would never end; they say what to do."""
    program = tmp_path / "sweeps.py"
    program.write_text(PROGRAM.replace('if __name__ == "__main__":\n   ', "if True:\n   "))

    said = says(tmp_path, sys.executable, str(program))

    assert "this module sweeps while it is imported" in said
    assert "under if __name__ == '__main__'" in said


def test_a_set_is_the_same_in_the_order_of_other_hashes():
    """A set in a run's state is written down in another order by each process, and that is no difference."""
    report = swept(w.keeps_a_set, real=True, points=6)

    assert 6 == report.singles


def test_an_interpreter_of_lives_that_died_is_replaced():
    """Who kills it fails that sweep; the next one has a new one."""
    report = swept(w.small, points=1)
    for template in sweep_processes._interpreters.both:
        template._process.kill()
        template._process.wait()

    assert report.processes == swept(w.small, points=1).processes


def test_what_each_process_says_otherwise_is_not_compared():
    """The number of a process, its directory and its time zone differ without a crash, and are told as left out."""
    report = swept(w.says_itself, real=True, points=3)

    assert 3 == report.singles
    assert "not compared in child processes, because each says otherwise: /result/" in str(report)


def test_time_goes_on_from_where_a_process_was_killed():
    """What passed between the last commit and the kill has passed for the next life as well, as in one process."""
    here = failure(w.has_a_deadline, processes=0)
    there = failure(w.has_a_deadline, real=True)

    assert here.points == there.points
    assert here.differences == there.differences


def test_what_depends_on_the_process_is_noted():
    """A result that is another one in any child process is compared with that one, and the report says so."""
    report = swept(w.says_where, real=True, points=2)

    assert "in a child process it is otherwise without a crash, too: the result of the run is 'child'" in str(report)

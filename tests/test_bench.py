"""
The benchmarks run, and what they count is right: the commits of a step are a promise, not only a number in a table.

Nothing here looks at a time; how fast things are is for `python -m bench` to say, on a quiet machine.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
from bench import agents, children, floor, many_runs, measures, memory, replay, restart, sequential, wakeups
from bench.__main__ import main


@pytest.fixture
def fresh(tmp_path):
    """Give a way to make empty directories."""
    numbers = iter(range(100))

    def make():
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return folder

    return make


@pytest.mark.parametrize(
    "work",
    [
        partial(floor.sequential, kind=floor.Floor),
        partial(floor.sequential, kind=floor.ThreadedFloor),
        sequential.engine,
    ],
    ids=["floor", "floor with a thread", "engine"],
)
def test_commits_of_a_sequential_step(fresh, work):
    """Forty more steps in a row cost forty more commits, for the floor and for the engine."""
    few, many = (work(fresh(), steps=steps).commits for steps in (20, 60))

    assert 40 == many - few


def test_commits_of_many_runs(fresh):
    """Runs at once share commits: ten times the runs cost less than ten times the commits."""
    alone, together = (many_runs.engine(fresh(), runs=runs, steps=10).commits for runs in (1, 10))

    assert together < 5 * alone


def test_floor_of_many_runs_on_the_loop(fresh):
    """On the loop's thread all runs go in step: as many commits as one run needs."""
    assert 11 == floor.many_runs(fresh(), runs=20, steps=10, kind=floor.Floor).commits


def test_replay_writes_little(fresh):
    """Coming back to a long run appends no more than coming back to a short one."""
    short, long = (replay.engine(fresh(), steps=steps).commits for steps in (5, 100))

    assert abs(long - short) <= 2


def test_children_of_a_batch_share_commits(fresh):
    """Twenty more children of one parent cost fewer commits than one each, for the floor and for the engine."""
    for work in (partial(floor.children, kind=floor.Floor), children.engine):
        few, many = (work(fresh(), count).commits for count in (2, 22))

        assert many - few < 20


def test_wakeups_are_all_timed(fresh):
    """Each answer wakes its run once, and time goes forward."""
    kinds = [partial(wakeups.engine, by=by) for by in ("signal", "resume", "event")]
    for work in (partial(floor.wakeups, kind=floor.Floor), *kinds):
        found = work(fresh(), 3)

        assert 3 == len(found)
        assert found[0] > 0


def test_runs_that_wait_take_memory(tmp_path):
    """A process tells what it has at rest, and what it has with runs in it."""
    rest, full = memory.measure("kept", root=tmp_path, runs=300)

    assert 0 < rest < full
    assert [] == list(tmp_path.iterdir())


def test_runs_go_on_after_a_kill(tmp_path):
    """A second process goes on with what the first one was killed in the middle of."""
    assert 0 < restart.measure("engine", root=tmp_path, runs=3)
    assert [] == list(tmp_path.iterdir())


def test_table(tmp_path, capsys):
    """The command measures what is named, and prints a line for each way and for each budget."""
    main(["sequential", "--scale", "0.01", "--rounds", "1", "--directory", str(tmp_path)])
    printed = capsys.readouterr().out.splitlines()

    assert ["floor, loop's thread", "floor, writer thread", "engine", "  its budget"] == [
        line[:26].rstrip() for line in printed[-4:]
    ]
    assert [] == list(tmp_path.iterdir())


def test_an_agent_has_few_commits_for_a_call(fresh):
    """A call of a model costs two commits: one before it, with the request, and one behind it, with the reply."""
    few, many = (agents.engine(fresh(), runs=runs, streams=False).commits for runs in (1, 3))

    assert many - few <= 2 * agents.TURNS * 2 + 4
    assert 0 == agents.model_alone(fresh(), runs=1).commits


def test_deltas_are_all_timed(fresh):
    """Each delta reaches its reader, and time goes forward."""
    found = agents.delays(fresh(), count=5)

    assert 5 == len(found)
    assert found[0] > 0


def test_import_loads_no_sdk():
    """`import polos`, and a scripted agent that runs, load no SDK of a provider."""
    program = """
import asyncio, sys, tempfile
import polos
from polos import Agent, Polos
from polos.llm import script

def loaded():
    return sorted({name.split(".")[0] for name in sys.modules} & {"openai", "anthropic", "httpx2", "httpx", "mcp"})

print(loaded())
script("nobody", ["Done."])
asked = Agent(id="asked", provider="scripted", model="nobody")
Agent(id="elsewhere", provider="openai", model="gpt-5")

async def main():
    with tempfile.TemporaryDirectory() as folder:
        async with Polos(folder) as polos:
            print((await asked.run(polos, "Go on.")).result, loaded())

asyncio.run(main())
"""
    assert ["[]", "Done. []"] == subprocess.check_output([sys.executable, "-c", program], text=True).splitlines()


def test_names_that_are_no_benchmarks(capsys):
    """A name that isn't known is refused, and those that are known are named."""
    with pytest.raises(SystemExit):
        main(["faster"])

    assert "sequential" in capsys.readouterr().err


def test_units_are_counted_from_meta_pages(tmp_path):
    """Commits are read from the file itself; where there is no file yet there are none."""
    with measures.measured(1, tmp_path) as sample:
        pass
    assert 0 == sample.commits

    (tmp_path / "data.mdb").write_bytes(bytes(8192))
    with pytest.raises(AssertionError, match="isn't laid out as expected"), measures.measured(1, tmp_path):
        pass

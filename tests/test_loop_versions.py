"""
The same program does the same everywhere: on each Python of this machine, under any hash seed, in any process.

The programs are those of tests/loop_programs.py; each interpreter plays them in processes of its own, and what they
print is compared to the letter. Interpreters are looked for on PATH and among pyenv's, and what `make pythons` fetched
stands in for one; those that aren't there show up as skipped tests.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from typing import Any

import pytest

from tests import loop_programs
from tests.loop_host import Play
from tests.pythons import THIS, VERSIONS, player

SCRIPT = "tests/loop_programs.py"


def play(command: list[str] | None, *arguments: str, seed: str) -> dict[str, Any]:
    """Play the programs in a process of their own."""
    assert command is not None
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@functools.cache
def reference() -> dict[str, Any]:
    """Play the programs in this process."""
    return {name: make().go_on().transcript for name, make in loop_programs.scenarios().items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_python_does_the_same(version, capsys, record_property):
    """On each Python the transcripts are the same, and replays and evictions at every fact change nothing."""
    command = player(version, SCRIPT)
    if command is None:
        pytest.skip(f"no Python {version} on this machine")
    printed = play(command, seed="random")
    record_property("python", printed["version"])
    with capsys.disabled():
        print(f" [workflow loop on Python {printed['version']}: {printed['evictions']} evictions]", end="")

    assert printed["version"].startswith(version)
    assert printed["evictions"] > 1_000
    assert reference() == printed["transcripts"]


@pytest.mark.parametrize("seed", ["0", "1", "2", "31337"])
def test_hash_seed_makes_no_difference(seed):
    """Fresh processes with other hash seeds, and so other memory addresses, print the same transcripts."""
    assert reference() == play(player(THIS, SCRIPT), "quick", seed=seed)["transcripts"]


def test_repetition_makes_no_difference():
    """Within a process, with memory in another state each time, the transcripts stay the same."""
    litter = []
    for repetition in range(5):
        litter.append([object() for _ in range(repetition * 37)])

        assert reference() == {name: make().go_on().transcript for name, make in loop_programs.scenarios().items()}


def test_order_of_facts_makes_a_difference():
    """The transcripts aren't equal because nothing is in them: another order of facts gives another one."""
    transcripts = {tuple(Play(loop_programs.gather, seed).go_on().transcript) for seed in range(20)}

    assert len(transcripts) > 10

"""
Generated workflows, killed at every moment: as many scenarios as patience allows.

A *scenario* is one program, disturbed in one way, with one crash at one tick of its world, recovered and looked at from
all sides: its result is what its tree means, its log folds to its rows, its history replays. All scenarios of a program
follow from the seed and the program's number alone, so a torture that was stopped goes on at the next number, two
processes share one by taking numbers in turn, and ``--first N --programs 1`` repeats what failed.

    python -m tests.torture --scenarios 100000 --seed 7
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from polos.testing.replays import check_replay
from polos.testing.simulation import Simulation

from tests.property.playing import play
from tests.property.programs import FOREVER, Node, program
from tests.property.test_programs import look, meaning, outcome

__all__ = ["Tortured", "disturbances_of", "main", "program_of", "torture"]

LOOK_CLOSER_EVERY = 32  # every so many scenarios also go on from prefixes of each history, which takes most of the time
TAKES_US = (0, 0, 100, 2_000, 70_000, 3_000_000)


def program_of(seed: int, number: int) -> Node:
    """Give a program that doesn't race with itself, so that its outcome is known."""
    chance = Random(f"{seed}/{number}/program")
    nodes = [_node(chance, depth=3) for _ in range(chance.randint(1, 3))]
    if chance.random() < 0.2:
        nodes.insert(chance.randint(0, len(nodes)), ["flaky", chance.randint(1, 2)])
    return ["seq", nodes]


def _node(chance: Random, *, depth: int) -> Node:
    if depth == 0 or chance.random() < 0.45:
        return _leaf(chance)

    def some() -> list[Node]:
        return [_node(chance, depth=depth - 1) for _ in range(chance.randint(1, 3))]

    def one() -> Node:
        return _node(chance, depth=depth - 1)

    made: dict[str, Any] = {
        "seq": lambda: [some()],
        "gather": lambda: [some()],
        "group": lambda: [some()],
        "try": lambda: [one()],
        "finally": lambda: [one(), _leaf(chance, calm=True)],
        "child": lambda: [one(), None],
        "orphan": lambda: [one()],
        "batch": lambda: [some()],
        "generator": lambda: [some(), chance.randint(1, 2), _leaf(chance, calm=True)],
        "shield": lambda: [one()],
        "timeout": lambda: [one(), FOREVER],
        "as_completed": lambda: [some()],
        "one_by_one": lambda: [some()],
        "cancelled": lambda: [one(), _leaf(chance, calm=True)],
        "left_behind": lambda: [one(), _leaf(chance, calm=True)],
        "semaphore": lambda: [chance.randint(1, 2), some()],
        "queue": lambda: [some()],
    }
    kind = chance.choice(list(made))
    return [kind, *made[kind]()]


def _leaf(chance: Random, *, calm: bool = False) -> Node:
    key, takes_us = chance.choice("abc"), chance.choice(TAKES_US)
    fails = chance.randint(1, 2)
    leaves: list[Node] = [
        ["step", key, 0, 0, takes_us, "idempotent"],
        ["step", key, 0, 0, takes_us, "at_most_once"],
        ["step", key, 0, 0, takes_us, "pure"],
        ["step", key, fails, fails, takes_us, "idempotent"],
        ["sleep", chance.choice([0.0, 1.0, 3600.0])],
        ["state", key],
        ["value", chance.choice(["uuid", "now", "random"])],
        ["publish", "x"],
    ]
    if not calm:
        leaves += [
            [chance.choice(["signal", "suspend", "event"]), chance.choice("xy"), chance.choice([None, FOREVER])],
            ["step", key, 99, 1, takes_us, "idempotent"],
            ["signal", "never", 5.0],
            ["raise", "no"],
        ]
    return chance.choice(leaves)


def disturbances_of(seed: int, number: int) -> list[list[Node]]:
    """Give the ways in which a program is disturbed beside the crash: not at all, and twice at random."""
    chance = Random(f"{seed}/{number}/disturbances")
    kinds: list[Node] = [
        ["run", 1],
        ["run", 900],
        ["ready"],
        ["evict"],
        ["stop"],
        ["jump", -60],
        ["jump", 60],
        ["update"],
    ]
    kinds += [["fail", fault] for fault in ("FULL", "REFUSED", "UNKNOWN_LOST", "UNKNOWN_KEPT")]
    return [[], *([chance.choice(kinds) for _ in range(chance.randint(1, 5))] for _ in range(2))]


@dataclass
class Tortured:
    """What came of it. `failures` are told with what repeats them."""

    programs: int = 0
    scenarios: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tortured) -> None:
        """Add what another process did."""
        self.programs += other.programs
        self.scenarios += other.scenarios
        self.failures += other.failures


def torture(seed: int, number: int) -> Tortured:
    """Kill one program at every tick, in each of its disturbances."""
    done = Tortured(programs=1)
    node = program_of(seed, number)
    for what in disturbances_of(seed, number):
        for tick in _ticks(seed, node, what):
            done.scenarios += 1
            try:
                _scenario(seed, node, what, tick)
            except Exception:
                repeat = f"python -m tests.torture --seed {seed} --first {number} --programs 1"
                lines = f"tick {tick} of {node}, disturbed by {what}\n{traceback.format_exc(limit=-3)}"
                done.failures.append(f"{repeat}\n{lines}")
                break
    return done


def _ticks(seed: int, node: Node, what: list[Node]) -> Iterator[int]:
    """Give the moments at which a crash can make a difference: as many as there are if nothing crashes."""
    with _world(seed) as sim:
        play(sim, node, what)
        ticks = sim.world.ticks
    yield from range(1, ticks + 1)


def _world(seed: int) -> Simulation:
    """Make the world of a seed's scenarios; what is counted in another one isn't what happens here."""
    return Simulation([program], seed=seed, latency_us_max=seed % 3 * 400)


def _scenario(seed: int, node: Node, what: list[Node], tick: int) -> None:
    with _world(seed) as sim:
        sim.world.crash_at.add(tick)
        call = play(sim, node, what)
        assert not sim.world.crash_at, f"nothing crashed: there were {sim.world.ticks} ticks"
        assert meaning(node) == outcome(sim, call.run)
        if tick % LOOK_CLOSER_EVERY == 0:
            look(sim)
            return
        assert [] == [event.message for event in sim.audit.diverged]
        sim.audit.check_rows()
        if not sim.alive:
            sim.start()
        for run in sim.audit.states:
            check_replay(sim, run)


def quietly(seed: int, number: int) -> Tortured:
    """Torture in a process of its own, whose engines complain to nobody."""
    logging.getLogger("polos").setLevel(logging.CRITICAL + 1)
    return torture(seed, number)


def main(arguments: list[str]) -> int:
    """Torture as the command line says; gives what the process exits with."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Kill generated workflows.")
    parser.add_argument("--scenarios", type=int, default=100_000, help="stop when so many were tried")
    parser.add_argument("--programs", type=int, default=1_000_000, help="or so many programs")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--first", type=int, default=0, help="the first program's number, to go on with")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args(arguments)
    print(f"torture: seed {asked.seed}, from program {asked.first}", flush=True)
    began, total = time.monotonic(), Tortured()
    number, last = asked.first, asked.first + asked.programs
    with ProcessPoolExecutor(asked.processes) as pool:
        while total.scenarios < asked.scenarios and number < last and not total.failures:
            numbers = range(number, min(number + 8 * asked.processes, last))
            for found in pool.map(partial(quietly, asked.seed), numbers):
                total.add(found)
            number = numbers.stop
            seconds = time.monotonic() - began
            done = f"{total.scenarios} scenarios of {total.programs} programs in {seconds:.0f} s"
            again = f"goes on with --seed {asked.seed} --first {number}"
            print(f"{done}, {total.scenarios / seconds:.0f}/s; {again}", flush=True)
    for failure in total.failures:
        print(f"\nFAILED: {failure}")
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

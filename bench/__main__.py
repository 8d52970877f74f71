"""
Runs the benchmarks: `python -m bench [name ...]`, all of them if none is named.

`--scale 0.1` does a tenth of the work, `--rounds` says how often everything takes its turn, `--directory` puts the
stores on the disk that matters to you.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from bench import (
    agents,
    children,
    many_runs,
    memory,
    queues,
    replay,
    restart,
    schedules,
    sequential,
    sweep,
    triggers,
    wakeups,
)

BENCHMARKS = {
    "agents": agents.main,
    "sequential": sequential.main,
    "many_runs": many_runs.main,
    "children": children.main,
    "memory": memory.main,
    "queues": queues.main,
    "replay": replay.main,
    "restart": restart.main,
    "schedules": schedules.main,
    "sweep": sweep.main,
    "triggers": triggers.main,
    "wakeups": wakeups.main,
}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run what it names."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the engine beside its floor.")
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=5, help="how often each takes its turn (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="how much work is done (%(default)s)")
    parser.add_argument("--directory", type=Path, help="where the stores are made")
    options = parser.parse_args(arguments)

    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, load {load}, {options.rounds} rounds;")
    print("a second and CPU: the best round; of floor: median of the rounds' own ratios; flushes: two a commit")
    for name in options.names or BENCHMARKS:
        BENCHMARKS[name](root=options.directory, rounds=options.rounds, scale=options.scale)


if __name__ == "__main__":
    main()

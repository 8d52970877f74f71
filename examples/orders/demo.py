"""
Orders of a shop, processed while the worker is killed again and again; ends with the proof from two sources.

    python -m examples.orders.demo [--orders N] [--kills N] [--pause SECONDS] [--seed N] [--data FOLDER] [--sabotage X]

The customers, the clerk and the plug are in this process, the engine in another (see scene.py). What is printed at
the end comes from polos's log and from the books of the provider, which know nothing of each other (see audit.py).
The status is 0 only if all of it holds. `--sabotage` makes the provider cheat, to show that the proof can fail.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from examples.orders.audit import Audit
from examples.orders.display import Display
from examples.orders.order import read_orders
from examples.orders.provider import SABOTAGES
from examples.orders.report import print_report
from examples.orders.scene import DemoFailed, Scene

WIDTH = 132  # columns, where there is no terminal to ask


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.orders.demo", description=(__doc__ or "").split("\n")[1])
    parser.add_argument("--orders", type=int, default=None, help="how many orders of orders.csv; all by default")
    parser.add_argument("--kills", type=int, default=6, help="how often the worker is killed")
    parser.add_argument("--pause", type=float, default=2, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000), help="of the moments")
    parser.add_argument("--data", type=Path, default=None, help="a folder that gets, and keeps, a new folder of data")
    parser.add_argument("--timeout", type=float, default=240, help="seconds after which the demo gives up")
    parser.add_argument("--sabotage", choices=SABOTAGES, default=None, help="have the provider cheat")
    options = parser.parse_args(arguments)
    if options.orders is not None and options.orders < 4 * (options.kills + 1):
        parser.error(
            f"{options.kills} kills need {4 * (options.kills + 1)} orders, so that each comes in the middle of work"
        )
    return options


async def play(scene: Scene, display: Display, timeout: float) -> int:
    try:
        async with asyncio.timeout(timeout):
            return await scene.play(display.show)
    except TimeoutError:
        raise DemoFailed(f"not done after {timeout:.0f} s: {scene.board}") from None


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    orders = read_orders(options.orders)
    if options.data is not None:
        options.data.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="polos orders ", dir=options.data))
    console.print(
        f"{len(orders)} orders, {options.kills} kills, seed {options.seed}, data in {folder}",
        soft_wrap=True,
        markup=False,
    )

    kept = f"Data, books and the worker's log are in {folder}"
    good = False
    try:
        with Display(console, orders=len(orders), kills=options.kills) as display:
            scene = Scene(
                folder, orders, kills=options.kills, pause=options.pause, seed=options.seed,
                sabotage=options.sabotage, note=display.note,
            )  # fmt: skip
            status = asyncio.run(play(scene, display, options.timeout))
            display.note(f"every order has ended; the worker stopped with status {status}")
        audit = Audit(folder, orders, scene.board.kills, kills_wanted=options.kills)
        good = print_report(console, audit) and status == 0
    except DemoFailed as failure:
        console.print(str(failure), style="bold red", markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(f"Interrupted. {kept}", soft_wrap=True, markup=False)
        return 130
    console.print(
        "Everything holds." if good else "Something does not hold.", style="bold green" if good else "bold red"
    )
    if good and options.data is None:
        shutil.rmtree(folder)
    else:
        console.print(kept, soft_wrap=True, markup=False)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

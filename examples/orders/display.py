"""Progress while the demo runs: bars on a terminal, a line a second anywhere else."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.orders.scene import Board


class Display:
    """Shows how things stand; used in a `with`."""

    def __init__(self, console: Console, *, orders: int, kills: int) -> None:
        self._console = console
        self._started = self._said = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._bars = {
            name: self._progress.add_task(name, total=total)
            for name, total in (("placed", orders), ("finished", orders), ("kills", kills))
        }

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        self._console.print(f"{time.monotonic() - self._started:6.1f} s  {text}", highlight=False)

    def show(self, board: Board) -> None:
        """Show how things stand."""
        for name, value in (("placed", board.placed), ("finished", board.ended), ("kills", len(board.kills))):
            self._progress.update(self._bars[name], completed=value)
        if not self._console.is_terminal and time.monotonic() - self._said >= 1:
            self._said = time.monotonic()
            self.note(
                f"{board.placed} of {board.orders} placed, {board.under_way} under way, "
                f"{board.approvals} approvals answered, {board.ended} finished"
            )

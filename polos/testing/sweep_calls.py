"""
Counting the calls of effects, across the deaths of processes.

How often the function of a step may be called follows from its effect class and from what the log held at the moment
of the call, so each call is looked at when it is made. `Audit` knows the log; the ledger knows the calls, those of
earlier lives included. For lives in processes of their own it is a file, one line a call, written before the call is
made: a killed process can't take a line back, and can't have made a call without it.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import final

from polos.testing.audit import Audit
from polos.testing.outside import whole_lines

__all__ = ["CallLedger"]


@final
class CallLedger:
    """
    Every call of every step's function in a scenario.

    Attributes:
        counts: calls by run and step.
        attempts: calls by run, step, attempt and life.
        steps: their names, in the order of the calls.
        life: which life is living, from 1.
    """

    def __init__(self, file: Path | None = None) -> None:
        """
        Begin, or go on with what earlier lives wrote.

        Args:
            file: where calls are written; None to keep them in memory.
        """
        self.counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.attempts: defaultdict[tuple[str, str, int, int], int] = defaultdict(int)
        self.steps: list[str] = []
        self.life = 0
        self._file = file
        if file is not None and file.exists():
            for line in whole_lines(file.read_bytes()):
                run, name, attempt, life = json.loads(line)
                self._count(run, name, attempt, life)

    def copy(self) -> CallLedger:
        """Give another one with the same calls, for lives that go on from here in memory."""
        other = CallLedger()
        other.counts, other.attempts = self.counts.copy(), self.attempts.copy()
        other.steps, other.life = self.steps.copy(), self.life
        return other

    def _count(self, run: str, name: str, attempt: int, life: int) -> int:
        self.attempts[run, name, attempt, life] += 1
        self.counts[run, name] += 1
        self.steps.append(name)
        return self.counts[run, name]

    def call(self, audit: Audit, run: str, name: str, attempt: int, effect: str) -> None:
        """
        Note a call that is about to be made; what is wrong with it is kept in `audit.violations`.

        Args:
            audit: what the log holds now.
            run: the run.
            name: the step.
            attempt: which attempt of it.
            effect: its effect class.
        """
        if self._file is not None:
            line = f"\n{json.dumps([run, name, attempt, self.life])}\n"
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        number = self._count(run, name, attempt, self.life)
        audit.may_call(run, name, number, pure=effect == "pure")
        if self.attempts[run, name, attempt, self.life] > 1:
            audit.violations.append(f"attempt {attempt} of step {name} of run {run} is called twice in one life")

    def by_step(self) -> Counter[str]:
        """Give the number of calls of each step, all runs together."""
        return Counter(self.steps)

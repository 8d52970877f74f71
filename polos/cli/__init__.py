"""
The command line: what `polos` does in a terminal.

Reading commands open the data directory read-only and look at it in read transactions: they need no engine, take
nothing from one, and can't hold one up. Commands that change something go the way of every client, through the
inbox, and say whether an engine decided them or the next one will.

What is printed comes from `polos.views` and `polos.reasons`, so it is what pages and notebooks print; here it only gets
columns and colours. With `--json` it is one JSON object a line, uncut. Nothing here is imported by the library, and a
command imports what it needs when it is called, because people wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main", "run"]


def run(arguments: Sequence[str]) -> int:
    """
    Carry out a command line and give its exit code; see docs/cli.md for what each code means.

    Args:
        arguments: what stands behind `polos`.
    """
    from polos.cli.outcomes import outcome

    def command() -> int:
        from polos.cli.app import execute

        return execute(list(arguments))

    return outcome(command, as_json="--json" in arguments)


def main() -> None:
    """Carry out the command line of this process, and end it."""
    sys.exit(run(sys.argv[1:]))

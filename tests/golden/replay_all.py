"""Replays every golden history in this process and prints what its code asked for, as JSON."""

from __future__ import annotations

import json
import sys

from tests.golden.form import cases
from tests.golden.meaning import replayed

if __name__ == "__main__":
    found = {f"{case.folder.parent.name}/{case.name}": replayed(case) for case in cases()}
    json.dump({"version": sys.version.split()[0], "cases": found}, sys.stdout)

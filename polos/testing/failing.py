"""
What of all that a test's code may raise says that the test fails.

An `Exception` does. So does what `pytest.fail` raises, and `pytest.raises` if nothing came, although it is none:
pytest lets its outcomes pass every ``except Exception``. A skipped test, an interrupted one and one that is expected to
fail say nothing about the code under test, and are nobody's to catch here. pytest is asked only if it is there, since
what uses this module is used by programs, too.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["says_no"]


def says_no(error: BaseException) -> bool:
    """Tell whether a test that raises this fails by it."""
    if isinstance(error, Exception):
        return True
    pytest: Any = sys.modules.get("pytest")
    if pytest is None:
        return False
    return isinstance(error, pytest.fail.Exception) and not isinstance(error, pytest.xfail.Exception)

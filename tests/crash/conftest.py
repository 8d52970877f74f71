"""
What the crash tests ask of the machine.

A test that needs ptrace and can't have it fails and says why: skipping by itself would turn the
most important tests off wherever a container is strict, and nobody would notice. Who knows that
and wants the rest says so with POLOS_NO_PTRACE=1.
"""

from __future__ import annotations

import os

import pytest

from tests.crash.stepper import PtraceRefused, Stepper


def require_ptrace() -> None:
    """Fail the test with the kernel's reason if a child can't be traced, or skip it if POLOS_NO_PTRACE=1."""
    try:
        with Stepper.fork(lambda: None) as stepper:
            stepper.wait()
    except PtraceRefused as refusal:
        if os.environ.get("POLOS_NO_PTRACE") == "1":
            pytest.skip(str(refusal))
        pytest.fail(f"{refusal}; POLOS_NO_PTRACE=1 skips what needs it", pytrace=False)


@pytest.fixture(scope="session")
def ptrace() -> None:
    """The test needs ptrace."""
    require_ptrace()

"""What the controls ask of the machine: the same as the crash tests whose checks they check."""

from tests.crash.conftest import ptrace

__all__ = ["ptrace"]

"""A control is caught by the words of a promise, and by nothing else; see tests/controls."""

from __future__ import annotations

import pytest

from tests.controls import broken_parts as broken
from tests.controls.test_part_controls import seen


@pytest.mark.parametrize(
    "error", [NameError("promise"), KeyError("promise"), ValueError("promise"), AssertionError("a bug: KeyError")]
)
def test_an_accident_catches_nothing(error):
    """A break, or a check, that only falls over isn't a promise found broken, whatever the words are."""
    with pytest.raises(AssertionError, match="is caught by accident"), seen(broken.owes_behind_the_end, "promise|bug"):
        raise error


def test_other_words_catch_nothing():
    """A check that fails for another reason than the break's doesn't count, and neither does one that passes."""
    with pytest.raises(AssertionError, match="E2: another"), seen(broken.owes_behind_the_end, "E4: run .* ended"):
        raise AssertionError("E2: another promise")
    with pytest.raises(pytest.fail.Exception, match="isn't caught"), seen(broken.owes_behind_the_end, "E4"):
        pass

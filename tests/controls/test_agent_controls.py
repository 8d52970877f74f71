"""
The suite catches tools and guardrails that are nearly right.

As in `test_part_controls`: each check must fail with one part broken, and say why, and pass with none.
"""

from __future__ import annotations

from typing import Any

from polos.testing.sweep import sweep

from tests.agents import swept, test_approvals, test_guardrails, test_tools
from tests.controls import broken_agents as broken
from tests.controls.test_part_controls import both, seen


@both(broken.forgets_the_arguments)
def test_forgets_the_arguments(broke: Any) -> None:
    """A decision about one call is taken for another: seen where nobody is asked about the new arguments."""
    with seen(broke, "nothing is paid that nobody approved"):
        test_approvals.test_arguments_that_changed_need_another_decision()


@both(broken.calls_twice)
def test_calls_twice(broke: Any) -> None:
    """What may be called once is called again after a crash: seen where somebody should have been asked."""
    with seen(broke, "somebody is asked (again )?whether it was made"):
        test_tools.test_a_second_kill_is_asked_about_as_well()
    with seen(broke, "call 2 of tool swept_post .* nobody has said that it wasn't done"):
        sweep(swept.poster, {"input": "Go."}, processes=0, pairs=0)


@both(broken.schedules_without_a_record)
def test_schedules_without_a_record(broke: Any) -> None:
    """A call that no record schedules has no approval: seen in the log."""
    with seen(broke, "one record schedules the call"):
        test_approvals.test_the_record_of_the_call_names_its_approval()


@both(broken.passes_what_was_refused)
def test_passes_what_was_refused(broke: Any) -> None:
    """A refused answer counts: seen in the tools that it calls, and in the run that doesn't fail."""
    with seen(broke, "At index 1 diff: 2 != 3"):
        test_guardrails.test_a_refusal_is_told_and_asked_again()
    with seen(broke, "At index 0 diff: 'Guardrail failed after 2 retries"):
        test_guardrails.test_refusals_have_an_end(2)

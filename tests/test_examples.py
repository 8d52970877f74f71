"""
The programs in examples/, run as they stand, and what they print.

Each runs in a process of its own, in an empty directory, with warnings as errors and its answers on standard input,
as a reader of the documentation would run it. A program that is added without saying here what it prints fails.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.examples import environment

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MENU = "1 approval   2 form   3 document review   q quit"


@dataclass(frozen=True)
class Said:
    """What a program prints, line by line, and what is typed while it runs."""

    lines: str
    typed: str = ""


SAID = {
    "retention.py": Said("""
2 runs are in the log
completed ['tea from shelf 3', 'salt from shelf 4', 'honey from shelf 5'] ['large'] True
4 runs, 25 events, from RunCreated
workflow_start to workflow_finish
archived: [] monday
archived: ['large'] monday
"""),
    "deployment.py": Said("""
under way when it left: ()
Ada signed under the old terms
hello, Ada!
hello, Grace!
Alan signed under the new terms
"""),
    "schedules.py": Said("""
morning_report:global, nightly_cleanup:global, reminder:alice, reminder:bob, reminder:carol
bob is reminded
3 nights made up
morning_report:global, nightly_cleanup:global, reminder:alice, reminder:bob, reminder:carol
bob is reminded
0 nights made up
"""),
    "workflow_basics.py": Said("""
Hello, Alice! (a 36-character id)
HELLO
WORLD
WORKFLOW
count: 3, sampled: True
parent: 3/3 valid, prepared
_enriched: True
orchestrator: completed, processing ['normalize', 'dedupe'], 2 records
"""),
    "suspend_resume.py": Said(
        f"""
{MENU}
> [R-17] Approve it? (y/n) --- Completed: approval ---
status: completed
status: approved
by: you
---
{MENU}
> Your name? Your city? Your plan? --- Completed: form ---
status: completed
status: complete
form: {{'name': 'Ada', 'city': 'Paris', 'plan': 'basic'}}
---
{MENU}
> ada, do you approve of the charter? grace, do you approve of the charter? --- Completed: review ---
status: completed
status: returned
verdicts: {{'ada': 'yes', 'grace': 'no'}}
---
{MENU}
> [R-17] Approve it? (y/n) --- Completed: approval ---
status: completed
status: rejected
by: you
---
{MENU}
>
""",
        typed="1\ny\n2\nAda\nParis\nbasic\n3\nyes\nno\n1\nn\nq\n",
    ),
    "state_persistence.py": Said("""
each run has a state of its own:
increment: 1 ['increment']
add: 5 ['add']
subtract: -2 ['subtract']
reset: 0 ['reset']
each run begins with what it is given:
0 -> 5, kept: 5
100 -> 105, kept: 105
50 -> 75, kept: 75
"""),
    "error_handling.py": Said("""
batch: 3 processed, 2 failed
  2: ValueError: Step execution failed after 1 retries: item 2 is broken
  4: ValueError: Step execution failed after 1 retries: item 4 is broken
primary: fresh data, degraded: False
fallback: data of yesterday, degraded: True
circuit open: True, total_failures: 3
skipped: [6, 7]
saga: completed
saga: rolled_back ['charge_payment', 'reserve_inventory'], because: Step execution failed after 1 retries: ship_order is impossible
"""),  # noqa: E501  # a program's own line
    "parallel_review.py": Said("""
4/4 approved, average 8.0
25 items in 3 chunks, total 4900
5 runs started
in parallel faster than one by one: True
"""),
    "queues.py": Said("""
5 wait
refused: the queue 'mail' is full
sent to a-4
sent to b-1
sent to a-1
sent to a-2
sent to a-3
1 at once
"""),
    "dedup.py": Said("""
1 run for 3 calls
charged 4990 cents
skipped: True
indexed 3
indexed 4
the first one is cancelled
"""),
    "bulk.py": Said("""
3 waiting, 3 failed
retried: 3
letter to ada is posted and each was written once: True
answered: 2
cancelled: 1
5 completed, 1 cancelled
"""),
    "triggers.py": Said("""
eu: order A-1
look at order A-2
us: order A-2
3 clicks
2 clicks
the filter failed on an event of orders/eu/shipped: KeyError: 'amount'
['clicks', 'orders/**', 'orders/*/created']
"""),
    "agents/support_desk.py": Said(
        """
Where is order 7?
Let me look.
[look_up_order]
[look_up_promises]
[pay_back]
pay_back {'order': 7, 'cents': 4990}, may it? (y/n)\x20
It was lost, I am sorry. Your 49.90 are on their way.
3 turns, 3 calls, completed
Where is order 7, I ask again?
Let me look.
[look_up_order]
[look_up_promises]
[pay_back]
pay_back {'order': 7, 'cents': 4990}, may it? (y/n)\x20
I may not pay that back. A colleague will write to you.
3 turns, 3 calls, completed
""",
        typed="y\nn\n",
    ),
    "patterns/run_a_step.py": Said("21.5 °C in Porto\n2 calls"),
    "patterns/recorded_values.py": Said("""
a 36-character ticket, drawn after 2020: True
a number from 0 up to 1: True
"""),
    "patterns/wait_for.py": Said("{'text': 'tea is ready', 'waited': True}"),
    "patterns/wait_until.py": Said("it begins\nmissed it"),
    "patterns/wait_for_event.py": Said("A-1: payment of 4990 cents\nA-2 wasn't paid"),
    "patterns/publish_event.py": Said("""
of the run: workflow_start
of the run: edition
of the run: workflow_finish
news: headline: Rain
news: headline: More rain
"""),
    "patterns/suspend_and_resume.py": Said("""
asked about 1250 cents
approved by a person
refused by the accountant
nobody looked
"""),
    "patterns/children.py": Said("""
cover: Thumbnail of cover.png, 64 wide
pages: ['a.png', 'failed', 'c.png']
not waited for: 3
sleeve: Step execution failed after 0 retries: sleeve.txt is no picture
"""),
    "patterns/signals.py": Said("['bread', 'butter', 'jam']"),
    "patterns/queries_and_updates.py": Said("""
2 seats for Ada
table for Ada now has 5 seats
refused: no table has 12 seats
{'name': 'for Ada', 'seats': 5}
5 came
"""),
    "patterns/continue_as_new.py": Said("ended in round 3\n3 runs, each with a short history"),
    "patterns/cancel.py": Said("""
brought back the red one
stopping: True, cancelled by client
cancelled
"""),
    "patterns/plain_asyncio.py": Said("""
{'north': 120, 'south': 95, 'west': 140}
['post done', 'bank done']
enough waited
"""),
    "patterns/effects.py": Said("""
died before spring was sent, with status 9
spring: it did not go out
spring@example.com: sent
died after autumn was sent, with status 9
autumn: it went out
autumn@example.com: sent, as the outbox shows
key: True spring key: True autumn
"""),
    "testing/step_key.py": Said("""
broken: the code diverged from its history
mended: survives 16 of 16 crashes, and 16 pairs
"""),
    "testing/double_charge.py": Said("""
broken: a crash at after_effect_before_outcome:1: check: AssertionError: charged 2 times, by 2 calls
mended: survives 16 of 16 crashes, and 15 pairs
"""),
    "testing/state_in_step.py": Said("""
broken: the code diverged from its history: after event 4 the log has StateChanged of ctx.state.reserved, the code \
asks for nothing; a completed step isn't called again, so what its function has changed of ctx.state is gone: let the \
step return it, and change the state in the body
mended: survives 24 of 24 crashes, and 15 pairs
"""),
}


def run(program: Path, place: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program in a directory; gives how it ended, with its output and errors as one text."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=place, env=environment(), input=typed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_program_says(tmp_path: Path, name: str):
    """A program ends well and prints what stands here."""
    first = run(EXAMPLES / name, tmp_path, SAID[name].typed)

    assert 0 == first.returncode, first.stdout
    assert SAID[name].lines.strip() == first.stdout.strip()


def test_every_program_is_run():
    """Each program in examples/ stands in the table above; the demo and the local model have tests of their own."""
    programs = {
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.rglob("*.py")
        if path.name != "__init__.py" and path.parent.name not in ("orders", "local_model")
    }

    assert programs == set(SAID)


@pytest.mark.parametrize("name", ["workflow_basics.py", "error_handling.py"])
def test_program_runs_again(tmp_path: Path, name: str):
    """A program may be run again in the directory in which it ran before."""
    ran = [run(EXAMPLES / name, tmp_path) for _ in range(2)]

    assert [SAID[name].lines.strip()] * 2 == [done.stdout.strip() for done in ran]

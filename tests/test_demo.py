"""
The demo, small: it proves what it says, and it can tell when something is wrong.

`make demo` is what people look at first, so a quick form of it runs with the tests, as the program that it is. What
its proof is worth is shown by a provider that cheats: one that charges some cards twice, and one that says yes and
charges nothing. Both must end in failure, and in the line that says which promise is broken.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from examples.orders.provider import SABOTAGES

KILLS = 2
SOUND = "the log is as it was written, rows are its fold"


def play(folder, orders: int, kills: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with few orders in a folder whose path has spaces."""
    return subprocess.run(
        [sys.executable, "-m", "examples.orders.demo", "--orders", str(orders), "--kills", str(kills), "--pause", "0.5",
         "--seed", "5", "--data", str(folder / "a folder"), "--timeout", "120", *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180, check=False,
    )  # fmt: skip


def verdicts(output: str) -> dict[str, str]:
    """Give the promises of the last table with their verdicts; a long promise stands on several lines."""
    found: list[list[str]] = []
    for line in output.rsplit("What was promised", maxsplit=1)[-1].splitlines():
        if line.startswith("│"):
            promise, *_, verdict = (cell.strip() for cell in line.strip("│").split("│"))
            if verdict:
                found.append([promise, verdict])
            else:
                found[-1][0] += f" {promise}"
    return {promise.strip(): verdict for promise, verdict in found}


def test_demo_holds(tmp_path):
    """Killed twice, every order comes out as it should, each promise holds, and a run shows its crash."""
    done = play(tmp_path, 24, KILLS)

    assert 0 == done.returncode, done.stdout
    assert SOUND in verdicts(done.stdout)
    assert {"holds"} == set(verdicts(done.stdout).values())
    assert 9 == len(verdicts(done.stdout))
    assert "24 orders, 2 kills, seed 5" in done.stdout
    assert "24 of 24 ended, 24 with one run" in done.stdout
    assert KILLS == len(re.findall(r"kill \d of 2: SIGKILL", done.stdout))
    assert KILLS == len(re.findall(r"^│ \d +│.* \d+\.\d\d s +│ +\d+\.\d\d s", done.stdout, flags=re.MULTILINE))
    assert "SIGKILL, the worker is gone" in done.stdout


@pytest.mark.parametrize(
    ("sabotage", "broken"),
    [
        ("double-charge", {"each effect happened exactly once", "no charge doubled, none lost"}),
        ("lose-charge", {"each effect happened exactly once", "no charge doubled, none lost"}),
    ],
)
def test_a_cheating_provider_is_found_out(tmp_path, sabotage, broken):
    """A provider that charges twice, or not at all, makes the demo fail and name the promise that is broken."""
    done = play(tmp_path, 10, 1, "--sabotage", sabotage)
    found = {promise for promise, verdict in verdicts(done.stdout).items() if verdict == "BROKEN"}

    assert 1 == done.returncode, done.stdout
    assert broken <= found
    assert SOUND not in found
    assert "Something does not hold." in done.stdout


def test_every_sabotage_is_tried():
    """Each way in which the provider can cheat stands in the test above."""
    tried = test_a_cheating_provider_is_found_out.pytestmark[0].args[1]

    assert set(SABOTAGES) == {sabotage for sabotage, _ in tried}

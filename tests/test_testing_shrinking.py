"""What is told to matter in a schedule that fails does: nothing of it can be taken back by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.testing import ExploredWorld, exploration, explore
from polos.testing.schedules import Chooser, Guided, Near, Option, Scripted, Strategy, Taken
from polos.testing.shrinking import shrink

paid: list[str] = []


async def reserve() -> None:
    """Do nothing."""


async def pay() -> None:
    """Pay, without a look whether that was done."""
    paid.append("paid")


@workflow(id="shrunk-order")
async def order(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Wait for an answer, and pay."""
    await ctx.step.run("reserve", reserve)
    await ctx.step.suspend("approve", {}, timeout=60)
    await ctx.step.run("pay", pay)
    return "paid"


def pays_once(world: ExploredWorld) -> None:
    """Fail if it was paid twice."""
    paid.clear()
    run = world.start(order, {})
    world.resume(run, "approve", {"ok": True})
    world.finish()
    assert len(paid) <= 1


def told(seed: int, folder: Path) -> str:
    """Give what an exploration with a seed tells of its failure."""
    with pytest.raises(AssertionError) as failed:
        explore(runs=300, seed=seed, folder=folder, workflows=[order])(pays_once)()
    return "\n".join(failed.value.__notes__)


@pytest.mark.parametrize("seed", range(6))
def test_only_what_matters_is_left(seed: int, tmp_path: Path):
    """The second call is enough, so crashes, repeated commands, hurries and the like are told of by no mark."""
    text = told(seed, tmp_path)
    marked = [line for line in text.splitlines() if line.startswith(">")]

    assert ["pay of shrunk-order#1 fails after its effect: InjectedFailure"] == [line[16:] for line in marked]
    assert re.search(r"of \d+ things out of the natural order this one matters \(>\):", text)


def test_what_was_saved_is_played_again(tmp_path: Path):
    """It is made of choices by number, as ever, and is the same each time."""
    text = told(3, tmp_path)
    (path,) = tmp_path.iterdir()
    written = path.read_text()

    with pytest.raises(AssertionError) as again:
        explore(runs=0, folder=tmp_path, workflows=[order])(pays_once)()
    assert f"was saved in {path}" in again.value.__notes__[0]

    path.unlink()
    assert text == told(3, tmp_path)
    assert written == path.read_text()


def test_a_limit_that_ended_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is left then is no more than that."""
    monkeypatch.setattr(exploration, "SHRINK_TRIES_MAX", 2)
    text = told(0, tmp_path)

    assert "are left (>) after 2 tries to do with fewer, which was the limit, so not all of them may matter:" in text
    assert "matter (>)" not in text


class Line:
    """A row of choices: at each, the natural course and what is offered besides; one thing makes the row longer."""

    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted
        self.played = 0

    def play(self, strategy: Strategy) -> list[Taken]:
        """Play it."""
        chooser = Chooser(strategy)
        done: set[str] = set()
        row = ["a", "b", "c", "d", "e", "f"]
        while row:
            natural = row.pop(0)
            offered = [f"{natural}!"] + [more for more in ("crash", "early") if more not in done]
            labels = [natural, *offered]
            label = labels[chooser.choose([Option(one, one, lambda: None, one.strip("abcdef!")) for one in labels])]
            done.add(label)
            if label == "crash":
                row = ["a", *row, natural]
            elif label == "early":
                row = row[1:]
        self.done = done
        return chooser.taken

    def fails(self, strategy: Strategy) -> Sequence[Taken] | None:
        """Tell what it came to if all that is wanted was done."""
        self.played += 1
        taken = self.play(strategy)
        return taken if self.wanted <= self.done else None


@pytest.mark.parametrize("wanted", [{"e!"}, {"d!", "f!"}, {"crash", "e!"}, {"early", "f!"}, set[str]()])
def test_nothing_that_is_left_can_be_taken_back(wanted: set[str]):
    """Though what comes first moves the places of all that follows; and it is done before the limit."""
    line = Line(wanted)
    all_of_it = ["crash", "a!", "early", "d!", "e!", "f!"]
    first = line.play(Guided([Taken(1, 2, label) for label in all_of_it], Near.ANYWHERE))
    assert len([choice for choice in first if choice.index]) == len(all_of_it)

    found = shrink(first, line.fails, tries_max=400)

    line.play(Scripted(found.decisions))
    assert wanted == line.done - {"a", "b", "c", "d", "e", "f"}
    assert found.done
    assert found.tries == line.played < 400


def test_a_budget_is_kept():
    """What can't be tried isn't said to be done."""
    line = Line({"e!"})
    first = line.play(Guided([Taken(1, 2, label) for label in ("crash", "a!", "early", "e!")], Near.ANYWHERE))

    found = shrink(first, line.fails, tries_max=1)

    assert not found.done
    assert 1 == found.tries == line.played

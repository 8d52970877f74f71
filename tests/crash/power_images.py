"""
Which images of a history are looked at, each one once.

They are taken in order of how a disk fails: everything up to a moment; one effect lost; one write torn, from its
front or from its end, at each sector; any subset of the effects, all of them where they aren't too many and else drawn
from a seed; and mixtures, drawn from a seed, in which effects are torn as well. Many of these leave the same bytes (to
lose a name that a later rename replaces changes nothing), so images are compared by content and each is looked at once,
with the strongest of the promises that were made at any of its moments.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from .power_disk import WHOLE, Cut, History, Put

__all__ = ["Picture", "Pictures", "pictures"]


@dataclass(slots=True)
class Picture:
    """
    One image, and when a cut could leave it: first at the moment of `cut`, last at `last`.

    `kind` is how it was come upon first.
    """

    cut: Cut
    last: int
    kind: str


@dataclass(slots=True)
class Pictures:
    """All images of a history, and how many cuts led to them, by kind."""

    found: list[Picture] = field(default_factory=list)
    cuts: Counter[str] = field(default_factory=Counter)

    def some(self, number: int, seed: str) -> list[Picture]:
        """Give so many of them, drawn from a seed, in order of their moments."""
        drawn = random.Random(seed).sample(self.found, min(number, len(self.found)))
        return sorted(drawn, key=lambda each: each.cut.moment)

    def __str__(self) -> str:
        """Say how many there are."""
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.cuts.items())
        return f"{len(self.found):,} images from {self.cuts.total():,} cuts ({kinds})"


def pictures(
    history: History,
    *,
    subsets: int,
    seed: str,
    mixtures: int | None = None,
    tear_step: int = 1,
    moments: Collection[int] | None = None,
) -> Pictures:
    """
    Give the images of a history.

    Args:
        history: what was done.
        subsets: how many subsets, at the most, are taken for each interval between two syncs.
        seed: from which they are drawn.
        mixtures: how many mixtures are drawn for each interval; as many as subsets if that isn't said.
        tear_step: writes are torn at every so manieth sector, and at the last.
        moments: when power may be cut; at any time if that isn't said.
    """
    chance = random.Random(seed)
    seen: dict[bytes, Picture] = {}
    made = Pictures()
    syncs = set(history.syncs)
    for moment in sorted({*history.moments, *syncs}):
        if moments is not None and moment not in moments:
            continue
        cuts = list(_single(history, moment, tear_step))
        if moment in syncs:
            cuts += _subsets(history, moment, subsets, chance)
            cuts += _mixed(history, moment, subsets if mixtures is None else mixtures, chance)
        for kind, cut in cuts:
            made.cuts[kind] += 1
            key = history.image(cut).key()
            known = seen.get(key)
            if known is None:
                seen[key] = known = Picture(cut, moment, kind)
                made.found.append(known)
            known.last = moment
    return made


def _single(history: History, moment: int, tear_step: int) -> Iterator[tuple[str, Cut]]:
    """Give the cuts in which nothing is lost, or one effect, or a part of one."""
    whole = history.everything(moment)
    yield "whole", whole
    for number in history.possible(moment):
        others = tuple(pair for pair in whole.kept if pair[0] != number)
        if history.effects[number].ended <= moment:
            yield "lost", Cut(moment, others)
        else:
            yield "early", Cut(moment, (*others, (number, WHOLE)))
        for mask in _tears(history, number, tear_step):
            yield "torn", Cut(moment, (*others, (number, mask)))


def _tears(history: History, number: int, step: int) -> Iterator[int]:
    """Give the masks of the parts of a write that may be all that reached the disk."""
    what = history.effects[number].what
    if not isinstance(what, Put):
        return
    if history.length_before(number) < what.offset + len(what.data):
        yield 0
    sectors = what.sectors
    for front in sorted({*range(1, sectors, step), sectors - 1} - {0}):
        yield (1 << front) - 1
        yield ((1 << sectors) - 1) & ~((1 << front) - 1)


def _subsets(history: History, moment: int, number: int, chance: random.Random) -> Iterator[tuple[str, Cut]]:
    """Give cuts in which each effect is lost or kept: all there are, or so many different ones as chance has it."""
    possible = history.possible(moment)
    there = 1 << len(possible)
    for drawn in range(there) if there <= number else chance.sample(range(there), number):
        kept = tuple((effect, WHOLE) for at, effect in enumerate(possible) if drawn >> at & 1)
        yield "subset", Cut(moment, kept)


def _mixed(history: History, moment: int, number: int, chance: random.Random) -> Iterator[tuple[str, Cut]]:
    """Give cuts in which each effect is lost, kept or torn as chance has it."""
    possible = history.possible(moment)
    if not possible:
        return
    for _ in range(number):
        kept: list[tuple[int, int]] = []
        for effect in possible:
            what = history.effects[effect].what
            draw = chance.random()
            if isinstance(what, Put) and draw < 1 / 3:
                kept.append((effect, chance.getrandbits(what.sectors)))
            elif draw < 2 / 3:
                kept.append((effect, WHOLE))
        yield "mixed", Cut(moment, tuple(kept))

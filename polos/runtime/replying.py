"""
Answers to those who had work decided: not before what the answer rests on is durable.

Work that changed something is answered when its unit is in the log. Work that changed nothing, or was refused, rests
on what it saw of runs, and some of that may still be on its way to the disk: it waits for those units, one after
another. If one of them fails, the work is decided anew on what is really there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from polos.runtime.unit import Reply, Unit, Work

__all__ = ["refuse", "refuse_all", "reply", "reply_when_durable"]

_log = logging.getLogger("polos")


def reply(unit: Unit) -> None:
    """Answer all who wait for a unit that is durable."""
    if not unit.plain:
        for action in unit.actions:
            action()
    for work, told in unit.work:
        if work.done is not None:
            work.done(told)
    if not unit.plain:
        for work, error in unit.refused:
            if work.fail is not None:
                work.fail(error)


def refuse(unit: Unit, work: Work, error: Exception) -> None:
    """Refuse work that a unit was to hold, once what the refusal rests on is durable."""
    resting = _still_on_its_way(unit)
    if resting is not None:
        resting.refused.append((_looking_on(unit, work, error), error))
    elif work.fail is not None:
        work.fail(error)
    else:
        _log.info("something was refused that nobody waits for: %s", error)


def refuse_all(works: Iterable[Work], error: Exception) -> None:
    """Refuse work that nobody will decide any more. Who comes to grief over that keeps nobody else waiting."""
    for work in list(works):  # who is refused may have something else to be decided
        if work.fail is None:
            continue
        try:
            work.fail(error)
        except Exception as raised:  # noqa: BLE001  # whatever it is, the others wait
            _log.error("what the refusal of some work of the engine led to failed: %s", raised, exc_info=raised)


def reply_when_durable(unit: Unit) -> None:
    """Answer work that changed nothing, once what it was decided on is durable."""
    resting = _still_on_its_way(unit)
    if resting is None:
        reply(unit)
    else:
        resting.work.extend((_looking_on(unit, work), told) for work, told in unit.work)


def _still_on_its_way(unit: Unit) -> Unit | None:
    """Give a unit that another one rests on and that isn't durable yet, each once; None if there is none any more."""
    for run, resident in list(unit.residents.items()):
        if resident.in_flight and resident.last_unit is not None:
            del unit.residents[run]
            return resident.last_unit
    return None


def _looking_on(unit: Unit, work: Work, refusal: Exception | None = None) -> Work:
    """Make work that goes on to the other runs a unit rests on; if what it waits for fails, it is decided anew."""
    # While a log refuses everything it is decided anew again and again: it goes on with the work, not with itself.
    work = work.inner or work
    anew = False

    def apply(following: Unit) -> Reply | None:
        nonlocal anew
        anew = True
        return work.apply(following)

    def done(told: Reply) -> None:
        if not anew:
            reply_when_durable(unit)
        elif work.done is not None:
            work.done(told)

    def fail(error: BaseException) -> None:
        if not anew and refusal is not None and error is refusal:
            refuse(unit, work, refusal)
        elif work.fail is not None:
            work.fail(error)

    return replace(work, apply=apply, done=done, fail=None if work.fail is None else fail, inner=work)

"""From a life to its history, and from a history's images to what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .children import in_child
from .fileops import Recording, record
from .power_disk import History, Snapshot
from .power_images import Picture
from .power_server import CheckServer

__all__ = ["check_all", "recorded"]

FAILURES_MAX = 5  # after so many more are of no use


def recorded(
    top: Path,
    life: Callable[[Path], object],
    prepare: Callable[[Path], object] | None = None,
    changed: Callable[[Recording], Recording] = lambda recording: recording,
) -> History:
    """
    Give the history of a life.

    Args:
        top: a new directory.
        life: what happens there.
        prepare: may have filled it before; that much is certain.
        changed: makes of the recording what it is taken for.
    """
    top.mkdir()
    if prepare is not None:
        in_child(lambda: prepare(top) and None)
    before = Snapshot.take(top)
    history = History(before)
    history.follow(changed(record(lambda: life(top), under=top)), top, before)
    return history


def check_all(where: Path, check: str, found: Sequence[tuple[History, Picture]]) -> list[str]:
    """Check images, and tell of the first few that aren't as promised: what is wrong, and what the cut had lost."""
    failures: list[str] = []
    images = (
        (history.image(each.cut), history.reached(each.last), history.reached(each.cut.moment))
        for history, each in found
    )
    with CheckServer(check, where) as server:
        for (history, each), failure in zip(found, server.failures(images), strict=False):
            if failure is not None:
                failures.append(f"{failure}\n{story(history, each)}")
            if len(failures) == FAILURES_MAX:
                break
    return failures


def story(history: History, picture: Picture) -> str:
    """Say what an image was made of."""
    cut = picture.cut
    kept = dict(cut.kept)
    lines = [f"cut at moment {cut.moment} ({picture.kind}), promised: {history.reached(picture.last)}"]
    for number in history.possible(cut.moment):
        mask = kept.get(number)
        fate = "lost" if mask is None else "kept" if mask == -1 else f"sectors {mask:b} kept"
        lines.append(f"  {fate}: {history.effects[number].told}")
    return "\n".join(lines)

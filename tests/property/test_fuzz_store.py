"""
The file of LMDB, damaged in every way: told as damage by a process that may die of it, never by the engine's end.

Here the promise is twofold. The child of `verify` may die, but it never hangs and never fails for another reason than
the damage. And opening a store that wasn't closed cleanly, or that was cut short, never ends the process that opens it,
which then takes ownership, its first commit; it is refused with what is wrong, or works.

The store that is damaged is the golden one, so that what was found stays found.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from polos.store.ownership import LOCK_FILE

from tests.campaign import SEED, scaled
from tests.golden.store import ARCHIVES, extract
from tests.property.fuzz_child import Nursery, Outcome

PAGE = 4096


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Give the process that forks a child for each try."""
    with Nursery() as made:
        yield made


class Victim:
    """A data directory whose log is damaged anew each time."""

    def __init__(self, place: Path) -> None:
        self.directory = extract(ARCHIVES[-1], place)
        self._file = self.directory / "log" / "data.mdb"
        self._lock = (self.directory / LOCK_FILE).read_bytes()
        self.whole = self._file.read_bytes()
        self.pages = len(self.whole) // PAGE

    def become(self, content: bytes) -> Path:
        """Hold such a log, as a process left it that was killed."""
        self._file.write_bytes(content)
        (self.directory / LOCK_FILE).write_bytes(self._lock)
        (self.directory / "log" / "lock.mdb").unlink(missing_ok=True)
        return self.directory

    def closed_cleanly(self) -> None:
        """Let the last owner have said that all is well."""
        (self.directory / LOCK_FILE).write_bytes(self._lock.replace(b'"clean": false', b'"clean": true '))

    def changed(self, draw: random.Random) -> bytes:
        """Damage it."""
        data = bytearray(self.whole)
        page = draw.randrange(self.pages) * PAGE
        how = draw.choice(["flip", "flip", "cut", "splice", "page", "noise", "zero", "word", "twice"])
        if how == "flip":
            for _ in range(draw.randint(1, 3)):
                data[page + draw.randrange(64 if draw.random() < 0.7 else PAGE)] ^= 1 << draw.randrange(8)
        elif how == "cut":
            del data[draw.randrange(len(data)) if draw.random() < 0.5 else page :]
        elif how == "splice":
            at, other, length = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(1, 300)
            data[at : at + length] = data[other : other + length]
        elif how == "page":  # one that is right, elsewhere
            other = draw.randrange(self.pages) * PAGE
            data[page : page + PAGE] = self.whole[other : other + PAGE]
        elif how == "noise":
            at = page + draw.randrange(0, 64, 2)
            data[at : at + 8] = draw.randbytes(8)
        elif how == "zero":
            data[page : page + PAGE] = bytes(PAGE)
        elif how == "word":  # lengths and offsets are words of two bytes
            at = page + draw.randrange(0, 200, 2)
            data[at : at + 2] = draw.choice([b"\0\0", b"\xff\xff", b"\1\0", draw.randbytes(2)])
        else:
            data[page:page] = data[page : page + PAGE]
        return bytes(data)


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    """Give a data directory to damage."""
    return Victim(tmp_path)


def check(outcome: Outcome, damage: object, *, may_die: bool = False) -> None:
    """Check that a try ended in one of the ways that are promised."""
    ways = ("returned", "refused", "died") if may_die else ("returned", "refused")
    assert outcome.how in ways, f"{damage}: {outcome}"
    if outcome.how == "refused":
        # StoreFailed says that the check itself failed: what was met is damage.
        assert outcome.what == "StoreDamaged", f"{damage}: {outcome}"
        assert "Traceback" not in outcome.text, f"{damage}: {outcome}"
    if outcome.how == "died":
        assert outcome.what in ("SIGBUS", "SIGSEGV", "SIGABRT"), f"{damage}: {outcome}"


def test_walking_damage_ends_and_says_what_it_met(nursery: Nursery, victim: Victim) -> None:
    """What reads damage for `verify` never hangs and never raises; what it takes for whole is what was written."""
    draw = random.Random(SEED)
    well = nursery.attempt("walk", victim.become(victim.whole))
    assert well.what["ok"]
    told = 0
    for number in range(scaled(120, 60_000)):
        outcome = nursery.attempt("walk", victim.become(victim.changed(draw)))
        check(outcome, f"seed {SEED}, {number}", may_die=True)
        told += outcome.how == "died" or not outcome.what["ok"]
        # LMDB falls back to the other of its two meta pages, which is the log without its last commit.
        if outcome.how == "returned" and outcome.what["ok"] and outcome.what["records"] == well.what["records"]:
            assert well.what["chain"] == outcome.what["chain"]
    assert told > 0


def test_verifying_damage_gives_a_report(nursery: Nursery, victim: Victim) -> None:
    """`verify` gives a report of any damage, whatever its child dies of."""
    draw = random.Random(SEED + 1)
    for number in range(scaled(6, 3_000)):
        outcome = nursery.attempt("verified", victim.become(victim.changed(draw)))
        assert outcome.how == "returned", f"seed {SEED}, {number}: {outcome}"
        assert outcome.what["ok"] or len(outcome.what["message"]) > 10


def test_opening_damage_never_ends_the_process(nursery: Nursery, victim: Victim) -> None:
    """A store that wasn't closed cleanly is refused or opened and owned, whatever became of its file."""
    draw = random.Random(SEED + 2)
    for number in range(scaled(8, 3_000)):
        check(nursery.attempt("opened", victim.become(victim.changed(draw))), f"seed {SEED}, {number}")


@pytest.mark.parametrize("pages", [0, 1, 2, 19, 21, 24, 33])
@pytest.mark.parametrize("clean", [False, True])
def test_opening_a_file_that_was_cut_short(nursery: Nursery, victim: Victim, pages: int, clean: bool) -> None:
    """Cut at any page, a store is refused or works; 19 to 21 ended the new owner, 22 to 32 whoever read on."""
    directory = victim.become(victim.whole[: pages * PAGE])
    if clean:
        victim.closed_cleanly()
    check(nursery.attempt("opened", directory), f"{pages} pages")
    if pages > 32:
        check(nursery.attempt("read", victim.become(victim.whole[: pages * PAGE])), f"{pages} pages")


def test_a_log_without_its_tables_is_damage(nursery: Nursery, victim: Victim) -> None:
    """A page that lost the name of a table is damage, not a failure of the check, and no table is made anew."""
    data = victim.whole.replace(b"streams", b"strXams")
    assert data != victim.whole
    outcome = nursery.attempt("opened", victim.become(data))

    check(outcome, "a table's name")
    assert "StoreDamaged" == outcome.what
    assert data == (victim.directory / "log" / "data.mdb").read_bytes()

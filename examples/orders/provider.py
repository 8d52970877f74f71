"""
The world outside: a warehouse, a bank, a carrier and a mail service in one SQLite file.

It behaves as such services do. A request takes a moment, the effect lies somewhere in the middle of it, and whoever
asks may die before the answer or after the effect. A request that comes again with the same idempotency key gets the
same receipt and has no second effect. Some requests are refused for good, some fail once for no reason.

It keeps its own books, of which polos knows nothing: each call, with the key and the process that made it, and each
effect. That makes it the second, independent source of what really happened.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from examples.orders.order import DECLINED_CARDS, UNSERVED_COUNTRIES, Order

SABOTAGES = ("double-charge", "lose-charge")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY, at_us INTEGER, key TEXT, kind TEXT, order_id TEXT, process INTEGER
);
CREATE INDEX IF NOT EXISTS calls_by_key ON calls (key);
CREATE TABLE IF NOT EXISTS effects (
    receipt TEXT PRIMARY KEY, key TEXT, kind TEXT, order_id TEXT, cents INTEGER
);
CREATE INDEX IF NOT EXISTS effects_by_key ON effects (key);
"""


class CardDeclined(Exception):
    """The bank doesn't pay, today or tomorrow."""


class AddressNotServed(Exception):
    """The carrier doesn't go there."""


class ServiceBusy(Exception):
    """Ask again."""


@dataclass(frozen=True)
class Call:
    at_us: int
    key: str
    kind: str
    order_id: str
    process: int


@dataclass(frozen=True)
class Effect:
    receipt: str
    key: str
    kind: str
    order_id: str
    cents: int


class Provider:
    """Everything outside the shop. May be used from any thread and any number of processes."""

    def __init__(self, path: Path | str, *, sabotage: str | None = None) -> None:
        self.path = Path(path)
        self.sabotage = sabotage
        self._here = threading.local()
        self._books.executescript(_SCHEMA)

    @property
    def _books(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._here, "connection", None)
        if found is None:
            found = self._here.connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = NORMAL")
        return found

    def request(self, kind: str, key: str, order: Order, *, cents: int = 0) -> str:
        """Have something done, once for each key, and give the receipt."""
        self._books.execute(
            "INSERT INTO calls (at_us, key, kind, order_id, process) VALUES (?, ?, ?, ?, ?)",
            (time.time_ns() // 1_000, key, kind, order.order_id, os.getpid()),
        )
        time.sleep(random.uniform(0.01, 0.06))
        self._refuse(kind, key, order)
        receipt = self._book(kind, key, order, cents)
        time.sleep(random.uniform(0.01, 0.06))
        return receipt

    def _refuse(self, kind: str, key: str, order: Order) -> None:
        if kind == "charge" and order.card.endswith(DECLINED_CARDS):
            raise CardDeclined(f"the card ending in {order.card[-4:]} was declined")
        if kind == "label" and order.country in UNSERVED_COUNTRIES:
            raise AddressNotServed(f"no carrier goes to {order.city}, {order.country}")
        if zlib.crc32(f"{kind} {order.order_id}".encode()) % 16 == 0:
            (calls,) = self._books.execute("SELECT count(*) FROM calls WHERE key = ?", (key,)).fetchone()
            if calls == 1:
                raise ServiceBusy(f"the service for {kind} is busy")

    def _book(self, kind: str, key: str, order: Order, cents: int) -> str:
        books = self._books
        receipt = f"{kind}-{zlib.crc32(key.encode()):08x}"
        rows = [(receipt, key, kind, order.order_id, cents)]
        chosen = kind == "charge" and zlib.crc32(order.order_id.encode()) % 8 == 0
        if chosen and self.sabotage == "double-charge":
            rows.append((f"{receipt}-again", key, kind, order.order_id, cents))
        if chosen and self.sabotage == "lose-charge":
            rows.clear()
        books.executemany("INSERT OR IGNORE INTO effects VALUES (?, ?, ?, ?, ?)", rows)
        return receipt

    # ----------------------------------------------------------------------------------- the books

    def calls(self) -> list[Call]:
        """Give every call, in order."""
        rows = self._books.execute("SELECT at_us, key, kind, order_id, process FROM calls ORDER BY number")
        return [Call(*row) for row in rows]

    def effects(self) -> list[Effect]:
        """Give every effect, in order."""
        return [Effect(*row) for row in self._books.execute("SELECT * FROM effects ORDER BY rowid")]

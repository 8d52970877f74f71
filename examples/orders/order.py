"""
An order, and what has to become of it.

What should happen to an order can be told from its row of the CSV file alone. `expected` says so without knowing
workflows, log or provider; the demo ends by comparing both of them with it.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

APPROVAL_FROM_CENTS = 50_000
DECLINED_CARDS = ("0002",)  # how the numbers of cards end that no bank honours
UNSERVED_COUNTRIES = frozenset({"AQ", "BV"})

Outcome = Literal["shipped", "declined", "rejected", "refunded", "invalid"]


class Order(BaseModel):
    """A row of orders.csv."""

    order_id: str
    placed_at: str
    customer: str
    email: str
    city: str
    country: str
    sku: str
    item: str
    quantity: int
    unit_price_cents: int
    card: str

    @property
    def total_cents(self) -> int:
        return self.quantity * self.unit_price_cents


def read_orders(limit: int | None = None) -> list[Order]:
    """Read the orders that come with the example."""
    with Path(__file__).with_name("orders.csv").open(newline="", encoding="utf-8") as file:
        return [Order.model_validate(row) for row in csv.DictReader(file)][:limit]


def needs_approval(order: Order) -> bool:
    return order.total_cents >= APPROVAL_FROM_CENTS


def clerk_approves(order: Order) -> bool:
    """Decide as the clerk does who looks at large orders."""
    return not order.email.endswith("@throwaway.example")


def expected(order: Order) -> Outcome:
    """Tell what has to become of an order."""
    if order.quantity < 1:
        return "invalid"
    if needs_approval(order) and not clerk_approves(order):
        return "rejected"
    if order.card.endswith(DECLINED_CARDS):
        return "declined"
    return "refunded" if order.country in UNSERVED_COUNTRIES else "shipped"


def expected_effects(order: Order) -> dict[str, int]:
    """Tell which effects an order has to have in the world outside, and how often."""
    always = {"reserve": 1, "mail": 1}
    match expected(order):
        case "invalid":
            return {"mail": 1}
        case "rejected" | "declined":
            return {**always, "release": 1}
        case "refunded":
            return {**always, "charge": 1, "refund": 1, "release": 1}
        case "shipped":
            return {**always, "charge": 1, "label": 1, "parcel": 1}

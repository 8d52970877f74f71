"""
The pure core: what happened, what may happen next, and what is owed.

Nothing here reads a clock, draws a random number, opens a file or knows asyncio. Bottom-up:
`json` (the alias), `events` (what is recorded), `codec` (events as bytes), `state` (the transition
table and a run in memory), `evolve` (events into state), `commands` (what is asked), `decide`
(commands into events), `messages` (what one run wants of another), `projections` (rows that follow
from events), `retry` (policies).
"""

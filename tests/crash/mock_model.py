"""
A mock server of models in a process of its own, which outlives those that are killed, with a journal of its own.

The server is `llmock`: its wire formats, its faults, its journal. Ours is only what it says, as a function of what it
is told, since a script in the order of the requests would tell somebody who asks again what comes next. Each reply
names the number that its request has in the journal, and no two replies have an id in common. So whoever has a reply
on record can tell which request it came from, and whether anybody asked after that, without a look at a clock.

Run as `python -m tests.crash.mock_model`: prints its address, and ends when its input does.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from llmock.chaos import StreamChaos
from llmock.scenarios import Fail, Plan, Reply, RequestInfo, ScenarioQueue, StreamFault, ToolCall
from llmock.testing import BASE_PATHS, LLMockServer
from polos.llm.digests import digest_of

__all__ = ["CALLS", "CUT_TURN", "TURNS", "Asked", "MockModel", "by_turn", "neutral", "serial", "serving"]

TURNS: Final = 3
CALLS: Final = 3
CUT_TURN: Final = 1  # the first request for it fails: its stream is cut, or it is refused for the moment

_IDS: Final = re.compile(r"\b(?:call|toolu|fc|msg|resp|chatcmpl)_\w+")
_SERIAL: Final = re.compile(r"reply (\d+)\b")
_told: ContextVar[Any] = ContextVar("_told")


def neutral(value: Any) -> Any:
    """Give JSON without what differs between replies to the same request: ids are numbered as they come."""
    numbers: dict[str, int] = {}
    text = _IDS.sub(lambda found: f"id_{numbers.setdefault(found[0], len(numbers))}", json.dumps(value))
    return json.loads(_SERIAL.sub("reply", text))


def serial(text: str) -> int:
    """Give the number of the request that a reply came from."""
    found = _SERIAL.search(text)
    assert found is not None, f"a reply names its request: {text!r}"
    return int(found[1])


def conversation(body: dict[str, Any]) -> list[Any]:
    """Give the messages of a request, whatever the interface."""
    return list(body.get("messages") or body["input"])


def turn_of(body: dict[str, Any]) -> int:
    """Give which turn a request asks for."""
    return sum(1 for item in conversation(body) if item.get("role") == "assistant")


# ------------------------------------------------------------------------------------------ the server


class Model(ScenarioQueue):
    """What the server says: tools in each turn but the last, and in the end a digest of what it was told."""

    def __init__(self) -> None:
        """Begin with no request."""
        super().__init__()
        self.count = 0  # as the journal counts
        self.cut = False

    def clear(self) -> None:
        """Begin anew, with the journal."""
        super().clear()
        self.count, self.cut = 0, False

    def plan_for(self, info: RequestInfo) -> Plan:
        """Plan the answer to the request that is being handled."""
        self.count += 1
        body = _told.get()
        turn = turn_of(body)
        if turn == TURNS - 1:
            return Plan(reply=Reply(text=f"I was told {digest_of(neutral(conversation(body)))}, reply {self.count}."))
        fail, fault = None, None
        if turn == CUT_TURN and not self.cut:
            self.cut = True
            if info.stream:
                fault = StreamFault("truncate", after_chunks=6)
            else:
                fail = Fail(503, retry_after=0.001)
        calls = tuple(ToolCall("crash_agent_tool", {"number": f"{turn}.{number}"}) for number in range(CALLS))
        reply = Reply(text=f"turn {turn} of the model, reply {self.count}", tool_calls=calls)
        return Plan(reply=reply, fail=fail, stream_fault=fault)


class _Reading:
    """Reads what a request says before the server does, and gives it the bytes again."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        parts: list[bytes] = []
        message: dict[str, Any] = {"more_body": scope["type"] == "http"}
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
        left = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]
        if message.get("type") == "http.disconnect":
            left = [message]
        elif parts and parts != [b""]:
            _told.set(json.loads(b"".join(parts)))

        async def again() -> Any:
            return left.pop() if left else await receive()

        await self.app(scope, again, send)


def main() -> None:
    """Serve until the input ends."""
    server = LLMockServer()
    state = server.app.state.llmock
    state.scenarios = Model()
    state.stream_chaos = StreamChaos(chunk_delay_ms=1)
    server.app = _Reading(server.app)  # type: ignore[assignment]
    with server:
        print(server.url, flush=True)
        sys.stdin.read()


# --------------------------------------------------------------------------------- whoever looks at it


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A request, as the journal has it.

    Attributes:
        number: in the order in which they came.
        turn: what it asked for.
        answered: whether the answer was sent to its end, and was none of a failure.
        told: the messages it had, without what differs between replies.
    """

    number: int
    turn: int
    answered: bool
    told: Any


@dataclass(frozen=True, slots=True)
class MockModel:
    """The server, seen from outside."""

    url: str

    def environment(self) -> dict[str, str]:
        """Give what lets both SDKs find it."""
        found: dict[str, str] = {}
        for name in ("openai", "anthropic"):
            found |= {f"{name.upper()}_BASE_URL": self.url + BASE_PATHS[name], f"{name.upper()}_API_KEY": "no key"}
        return found

    def begin(self) -> None:
        """Let it forget what it was asked."""
        self._say("reset", method="POST")

    def journal(self) -> list[Asked]:
        """Give what it was asked since, by its own journal; waits until it has answered."""
        return [
            Asked(
                number=one["seq"],
                turn=turn_of(one["body"]),
                answered=one["status"] == 200 and one["completed"],
                told=neutral(conversation(one["body"])),
            )
            for one in self._say("requests")["requests"]
        ]

    def _say(self, what: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"{self.url}/_llmock/{what}", method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())


def by_turn(journal: list[Asked]) -> dict[int, list[Asked]]:
    """Give the requests for each turn, in their order."""
    found: dict[int, list[Asked]] = {}
    for one in journal:
        found.setdefault(one.turn, []).append(one)
    return found


@contextmanager
def serving() -> Generator[MockModel]:
    """Have the server run beside."""
    command = [sys.executable, "-m", "tests.crash.mock_model"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield MockModel(server.stdout.readline().strip())
        server.communicate()


if __name__ == "__main__":
    main()

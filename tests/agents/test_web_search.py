"""The tool with which a model searches the web."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx2
import pytest
from polos import (
    Polos,
    WebSearchOptions,
    WebSearchResult,
    WebSearchResultItem,
    WebSearchToolConfig,
    create_web_search_tool,
)
from polos.engine import events as e
from polos.engine.codec import decode

from tests.agents.stage import call, make_agent

pytestmark = pytest.mark.anyio

PAGE: dict[str, Any] = {
    "title": "Dante",
    "url": "http://d",
    "content": "Of hell.",
    "score": 0.5,
    "published_date": "1321",
}
SHOWN = {"title": "Dante", "url": "http://d", "content": "Of hell.", "score": 0.5, "publishedDate": "1321"}
KEY = "tvly-a-secret"

Answer = Callable[[httpx2.Request], httpx2.Response]


def tavily(answer: Answer, **options: Any) -> WebSearchToolConfig:
    """Give settings for a search that answers so."""
    return WebSearchToolConfig(http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(answer)), **options)


async def search(folder: Path, config: WebSearchToolConfig, **payload: Any) -> tuple[Any, list[Any], bytes]:
    """Search once; gives what was found or why not, the events, and all bytes of the log."""
    tool = create_web_search_tool(config)
    async with Polos(folder) as polos:
        try:
            found: Any = await tool.run(polos, payload)
        except RuntimeError as failed:
            found = str(failed)
        with polos.engine.store.log.reader() as reader:
            records = list(reader.records())
    return found, [decode(r.type, r.schema_version, r.payload) for r in records], b"".join(r.payload for r in records)


async def test_a_search_asks_tavily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is sent is what was set, with the key of the environment; it and nothing else of the request is kept out."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        body = {"query": "hell", "answer": None, "results": [{**PAGE, "raw_content": "All of it."}], "images": []}
        return httpx2.Response(200, json=body)

    monkeypatch.setenv("TAVILY_API_KEY", KEY)
    found, _, log = await search(tmp_path, tavily(answer), query="hell")

    assert {"query": "hell", "answer": None, "results": [SHOWN]} == found
    assert ["POST https://api.tavily.com/search"] == [f"{one.method} {one.url}" for one in asked]
    assert f"Bearer {KEY}" == asked[0].headers["authorization"]
    assert {
        "query": "hell", "search_depth": "basic", "include_answer": True, "include_raw_content": False,
        "max_results": 5, "topic": "general",
    } == json.loads(asked[0].content)  # fmt: skip
    assert KEY.encode() not in log


async def test_every_setting_counts(tmp_path: Path):
    """The model's own wishes come before the settings, and whole pages come where they were asked for."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, json={"answer": "Hot.", "results": [{"raw_content": "All."}, "odd"]})

    config = tavily(
        answer, api_key=KEY, search_depth="advanced", include_answer=False, include_raw_content=True,
        base_url="http://here/", max_results=3, topic="news",
    )  # fmt: skip
    found, _, log = await search(tmp_path / "1", config, query="hell", maxResults=7)
    await search(tmp_path / "2", config, query="hell", topic="general")

    assert {
        "query": "hell",
        "answer": "Hot.",
        "results": [
            {"title": "", "url": "", "content": "", "score": None, "publishedDate": None, "rawContent": "All."},
        ],
    } == found
    bodies = [json.loads(one.content) for one in asked]
    assert [(7, "news"), (3, "general")] == [(body["max_results"], body["topic"]) for body in bodies]
    assert ("advanced", False, True) == tuple(
        bodies[0][name] for name in ("search_depth", "include_answer", "include_raw_content")
    )
    assert ("http://here/search", False) == (str(asked[0].url), KEY.encode() in log)


async def test_no_key_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a key nothing is sent, and nothing is tried again."""
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    found, events, _ = await search(tmp_path, WebSearchToolConfig(), query="hell")

    assert "there is no key for the search: set TAVILY_API_KEY, or give api_key" in found
    assert 1 == sum(isinstance(event, e.StepAttemptStarted | e.StepAttemptFailed | e.StepFailed) for event in events)


@pytest.mark.parametrize(
    ("answers", "says", "failures"),
    [
        ([(429, "slow down", {"retry-after": "0"}), (503, "", {}), (200, '{"results": []}', {})], None, 2),
        ([(401, f"who is {KEY}?", {})], "status 401: who is …?", 0),
        ([(500, "x" * 9_000, {})] * 3, "status 500: " + "x" * 500, 2),
        ([(200, "<html>", {})] * 3, "what is no result", 2),
        ([(200, "[" * 100_000, {})] * 3, "what is no result", 2),
        ([(200, '{"results": 7}', {})] * 3, "there are no results in it", 2),
        ([None] * 3, "can't be reached: ConnectError", 2),
    ],
)
async def test_a_search_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[Any], says: str | None, failures: int
):
    """What may get better is tried again, each attempt on record, what is refused isn't; the key is in no message."""
    monkeypatch.setattr("polos.tools.web_search._DELAY_SECONDS", 0.001)
    left = list(answers)

    def answer(request: httpx2.Request) -> httpx2.Response:
        one = left.pop(0)
        if one is None:
            raise httpx2.ConnectError(f"no route for {KEY}")
        return httpx2.Response(one[0], text=one[1], headers=one[2])

    found, events, log = await search(tmp_path, tavily(answer, api_key=KEY), query="hell")

    assert [] == left
    if says is None:
        assert {"query": "hell", "answer": None, "results": []} == found
    else:
        assert says in found
    assert failures == sum(isinstance(event, e.StepAttemptFailed) for event in events)
    assert KEY.encode() not in log


async def test_a_function_of_the_program_searches(tmp_path: Path):
    """It gets the words and options, its results have the same form, and one that gives something else fails."""
    asked: list[tuple[str, WebSearchOptions]] = []

    async def mine(query: str, options: WebSearchOptions) -> WebSearchResult:
        asked.append((query, options))
        return WebSearchResult(query=query, answer="Yes.", results=[WebSearchResultItem(**PAGE)])

    async def odd(query: str, options: WebSearchOptions) -> Any:
        return ["a page"]

    found, _, _ = await search(tmp_path / "1", WebSearchToolConfig(search=mine, max_results=2), query="hell")
    failed, _, _ = await search(tmp_path / "2", WebSearchToolConfig(search=odd), query="hell")

    assert {"query": "hell", "answer": "Yes.", "results": [SHOWN]} == found
    assert [("hell", WebSearchOptions(max_results=2, topic="general"))] == asked
    assert "WebSearchResult" in failed


async def test_a_model_searches_after_it_was_approved(tmp_path: Path):
    """The tool has the id and the approval that the settings say, and runs its search as a step of that name."""

    async def mine(query: str, options: WebSearchOptions) -> WebSearchResult:
        return WebSearchResult(query=query)

    tool = create_web_search_tool(WebSearchToolConfig(search=mine, tool_id="library", approval="always"))
    agent = make_agent("web_approved", [call("library", query="hell"), "Hot."], tools=[tool])
    async with Polos(tmp_path) as polos:
        answer = await agent.stream(polos, "Look it up.")
        async for event in answer.events:
            kind = event.event_type or ""
            if kind.startswith("suspend_approve_library_"):
                await polos.resume(agent.id, answer.id, kind.removeprefix("suspend_"), {"approved": True})
        result = await answer.result()
        with polos.engine.store.log.reader() as reader:
            events = [decode(r.type, r.schema_version, r.payload) for r in reader.records()]

    assert [{"query": "hell", "answer": None, "results": []}] == [one.result for one in result.tool_results]
    assert "web_search" in [event.name for event in events if isinstance(event, e.StepScheduled)]


def test_settings_show_no_key():
    """The key isn't in the text of the settings, and the names of the settings are those of Polos."""
    config = WebSearchToolConfig(api_key=KEY)

    assert "WebSearchToolConfig(api_key='…', base_url='https://api.tavily.com', tool_id='web_search')" == repr(config)
    assert [
        "api_key", "search_depth", "include_answer", "include_raw_content", "base_url", "search", "max_results",
        "topic", "tool_id", "approval",
    ] == [field.name for field in fields(config)][:10]  # fmt: skip
    schema = create_web_search_tool().parameters
    assert (["query", "maxResults", "topic"], ["query"]) == (list(schema["properties"]), schema["required"])


async def test_a_function_that_is_not_async_searches(tmp_path: Path):
    """A function of the program may be a plain one; it has a thread, and nobody waits for it."""
    threads: list[str] = []

    def look(query: str, options: WebSearchOptions) -> WebSearchResult:
        threads.append(threading.current_thread().name)
        return WebSearchResult(query=query)

    found, _, _ = await search(tmp_path, WebSearchToolConfig(search=look), query="hell")

    assert {"query": "hell", "answer": None, "results": []} == found
    assert [True] == [name != threading.main_thread().name for name in threads]

"""
A tool with which a model searches the web: by Tavily's API, or by a function of the program.

The search is a step of the tool's run, so its results are kept, and a run that goes on after a crash goes on with what
was found before it. The key is read when the call is made and goes into a header; no argument of the step, no error and
no result holds it. What can't get better by asking again (no key, a refused request) isn't asked again.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polos.context import WorkflowContext, is_async
from polos.llm.jsonish import a_list, a_text, an_object
from polos.tools.tool import Tool, ToolApproval

__all__ = [
    "WebSearchFunction",
    "WebSearchOptions",
    "WebSearchResult",
    "WebSearchResultItem",
    "WebSearchToolConfig",
    "create_web_search_tool",
]

_TIMEOUT_SECONDS: Final = 30.0
_DELAY_SECONDS = 1.0  # before the second attempt
_SHOWN_CHARACTERS: Final = 500
_TOLD: Final = "Search the web. Gives pages with title, address and content, and an answer if there is one."


class SearchUnavailable(RuntimeError):
    """A search got no answer; asking again may help."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SearchRefused(RuntimeError):
    """A search can't be made; asking again doesn't help."""


class WebSearchResultItem(BaseModel):
    """
    A page that was found.

    ```python run
    from polos import WebSearchResultItem

    print(WebSearchResultItem(title="Python", url="https://www.python.org", content="A language.").score)
    ```

    Attributes:
        title: of the page.
        url: its address.
        content: what it says of what was searched for.
        score: how well it fits, from 0 to 1.
        published_date: when it was published, as the search says it.
        raw_content: the whole page, if it was asked for.
    """

    model_config = ConfigDict(populate_by_name=True)

    title: str
    url: str
    content: str
    score: float | None = None
    published_date: str | None = Field(default=None, alias="publishedDate")
    raw_content: str | None = Field(default=None, alias="rawContent")


class WebSearchResult(BaseModel):
    """
    What a search found.

    ```python run
    from polos import WebSearchResult, WebSearchResultItem

    page = WebSearchResultItem(title="Python", url="https://www.python.org", content="A language.")
    print(len(WebSearchResult(query="python", results=[page]).results))
    ```

    Attributes:
        query: what was searched for.
        answer: an answer in a few sentences, if the search gives one.
        results: the pages, the best first.
    """

    query: str
    answer: str | None = None
    results: list[WebSearchResultItem] = Field(default_factory=list[WebSearchResultItem])


@dataclass(frozen=True, slots=True)
class WebSearchOptions:
    """
    How to search.

    ```python run
    from polos import WebSearchOptions

    print(WebSearchOptions(max_results=3, topic="news").topic)
    ```

    Attributes:
        max_results: how many pages at most.
        topic: "general" or "news".
    """

    max_results: int = 5
    topic: str = "general"


class WebSearchFunction(Protocol):
    """
    A function of a program that searches.

    ```python run
    from polos import WebSearchFunction, WebSearchOptions, WebSearchResult, WebSearchToolConfig

    async def nowhere(query: str, options: WebSearchOptions) -> WebSearchResult:
        return WebSearchResult(query=query)

    function: WebSearchFunction = nowhere
    print(WebSearchToolConfig(search=function).search is nowhere)
    ```
    """

    async def __call__(self, query: str, options: WebSearchOptions, /) -> WebSearchResult:
        """Search."""
        ...


@dataclass(slots=True)
class WebSearchToolConfig:
    """
    Settings of a search tool.

    ```python run
    from polos import WebSearchToolConfig

    print(WebSearchToolConfig(max_results=3, approval="always").base_url)
    ```

    Attributes:
        api_key: of Tavily; `TAVILY_API_KEY` of the environment, when it is called, if there is none here.
        search_depth: "basic" or "advanced".
        include_answer: whether to ask for an answer beside the pages.
        include_raw_content: whether to ask for the whole pages.
        base_url: where Tavily's API is.
        search: a function that searches instead of Tavily; async or not.
        max_results: how many pages there are if the model doesn't say.
        topic: "general" or "news", if the model doesn't say.
        tool_id: what models call the tool.
        approval: "always" to ask a person before each search.
        http_client: an `httpx2.AsyncClient` to be used, and left open.
    """

    api_key: str | None = None
    search_depth: Literal["basic", "advanced"] = "basic"
    include_answer: bool = True
    include_raw_content: bool = False
    base_url: str = "https://api.tavily.com"
    search: WebSearchFunction | Callable[[str, WebSearchOptions], WebSearchResult] | None = None
    max_results: int = 5
    topic: str = "general"
    tool_id: str = "web_search"
    approval: ToolApproval | None = None
    http_client: Any = None

    def __repr__(self) -> str:
        """Show it without the key."""
        key = None if self.api_key is None else "…"
        return f"WebSearchToolConfig(api_key={key!r}, base_url={self.base_url!r}, tool_id={self.tool_id!r})"


class WebSearchInput(BaseModel):
    """What a model gives."""

    model_config = ConfigDict(populate_by_name=True)

    query: str = Field(description="What to search for.", min_length=1)
    max_results: int | None = Field(
        default=None, alias="maxResults", ge=1, le=20, description="How many pages at most."
    )
    topic: Literal["general", "news"] | None = Field(default=None, description="Where to search.")


def create_web_search_tool(config: WebSearchToolConfig | None = None) -> Tool:
    """
    Make a tool with which a model searches the web.

    ```python run
    import asyncio, tempfile
    from polos import (
        Polos, WebSearchOptions, WebSearchResult, WebSearchResultItem, WebSearchToolConfig, create_web_search_tool,
    )

    async def library(query: str, options: WebSearchOptions) -> WebSearchResult:
        page = WebSearchResultItem(title="Dante", url="file:///dante", content=f"Of {query}.")
        return WebSearchResult(query=query, results=[page])

    search = create_web_search_tool(WebSearchToolConfig(search=library, tool_id="library"))

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                print(await search.run(polos, {"query": "hell", "maxResults": 1}))

    asyncio.run(main())
    ```

    Args:
        config: settings; without, it asks Tavily with the key in `TAVILY_API_KEY`.

    Returns:
        The tool. It gives `{"query", "answer", "results": [{"title", "url", "content", "score", "publishedDate"}]}`,
        and `rawContent` in each result if whole pages were asked for.
    """
    settings = config if config is not None else WebSearchToolConfig()

    async def search(ctx: WorkflowContext, input: WebSearchInput) -> dict[str, Any]:
        options = WebSearchOptions(input.max_results or settings.max_results, input.topic or settings.topic)

        async def web_search(query: str, max_results: int, topic: str) -> dict[str, Any]:
            found = await _found(settings.search or _Tavily(settings), query, WebSearchOptions(max_results, topic))
            return _shown(found, raw=settings.include_raw_content)

        return await ctx.step.run(
            "web_search", web_search, input.query, options.max_results, options.topic,
            base_delay=_DELAY_SECONDS, non_retryable=(SearchRefused, ValidationError),
        )  # fmt: skip

    names = {"WebSearchInput": WebSearchInput}
    return Tool(settings.tool_id, description=_TOLD, func=search, approval=settings.approval, names=names)


async def _found(search: Callable[..., Any], query: str, options: WebSearchOptions) -> Any:
    """Search; a function that isn't async has a thread, so that nobody else waits for it."""
    found = search(query, options) if is_async(search) else await asyncio.to_thread(search, query, options)
    return await found if inspect.isawaitable(found) else found


def _shown(found: object, *, raw: bool) -> dict[str, Any]:
    """Give what was found as the model is told of it."""
    result = WebSearchResult.model_validate(found)
    left_out = None if raw else {"results": {"__all__": {"raw_content"}}}
    return result.model_dump(mode="json", by_alias=True, exclude=left_out)  # pyright: ignore[reportArgumentType]  # its type knows no "__all__"


class _Tavily:
    """Asks Tavily."""

    def __init__(self, settings: WebSearchToolConfig) -> None:
        self._settings = settings

    async def __call__(self, query: str, options: WebSearchOptions) -> WebSearchResult:
        import httpx2

        settings = self._settings
        key = settings.api_key or os.environ.get("TAVILY_API_KEY")
        if not key:
            raise SearchRefused("there is no key for the search: set TAVILY_API_KEY, or give api_key")
        body = {
            "query": query, "search_depth": settings.search_depth, "include_answer": settings.include_answer,
            "include_raw_content": settings.include_raw_content, "max_results": options.max_results,
            "topic": options.topic,
        }  # fmt: skip
        client = settings.http_client or httpx2.AsyncClient()
        try:
            answer = await client.post(
                f"{settings.base_url.rstrip('/')}/search", json=body, headers={"Authorization": f"Bearer {key}"},
                timeout=_TIMEOUT_SECONDS,
            )  # fmt: skip
        except httpx2.HTTPError as problem:
            raise SearchUnavailable(f"the search can't be reached: {_without(key, repr(problem))}") from None
        finally:
            if settings.http_client is None:
                await client.aclose()
        if answer.status_code != 200:
            raise _refusal(answer, key)
        try:
            return _read(query, answer.json())
        except (ValueError, RecursionError) as wrong:  # a ValidationError is one, too
            raise SearchUnavailable(
                f"the search answered with what is no result: {_without(key, str(wrong))}"
            ) from None


def _refusal(answer: Any, key: str) -> RuntimeError:
    """Say what a status means: whether asking again may help, and when."""
    status: int = answer.status_code
    says = f"the search answered with status {status}: {_without(key, answer.text)[:_SHOWN_CHARACTERS]}"
    if status not in (408, 429) and status < 500:
        return SearchRefused(says)
    after: str = answer.headers.get("retry-after", "")
    return SearchUnavailable(says, float(after) if after.isdigit() else None)


def _read(query: str, told: object) -> WebSearchResult:
    found = an_object(told)
    pages = None if found is None else a_list(found.get("results"))
    if found is None or pages is None:
        raise ValueError("there are no results in it")
    items = [
        {
            "title": page.get("title") or "", "url": page.get("url") or "", "content": page.get("content") or "",
            "score": page.get("score"), "published_date": page.get("published_date"),
            "raw_content": page.get("raw_content"),
        }
        for page in map(an_object, pages)
        if page is not None
    ]  # fmt: skip
    asked, answer = a_text(found.get("query")) or query, a_text(found.get("answer"))
    return WebSearchResult.model_validate({"query": asked, "answer": answer, "results": items})


def _without(key: str, text: str) -> str:
    return text.replace(key, "…")

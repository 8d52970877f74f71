"""
What a program may say about a request itself, among the arguments that go into its body.

`provider_kwargs` are words of the body. Five of them never were: programs know them as arguments of the SDKs' methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from polos.llm.jsonish import a_list, an_object

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """
    How a request travels.

    Attributes:
        headers: beside those that the SDK sends.
        query: of the address.
        timeout_seconds: instead of that of the provider; None leaves it.
    """

    headers: dict[str, str] = field(default_factory=dict[str, str])
    query: dict[str, Any] = field(default_factory=dict[str, Any])
    timeout_seconds: float | None = None

    @classmethod
    def of(cls, body: dict[str, Any]) -> Options:
        """
        Take them out of a body.

        Args:
            body: what `extra_headers`, `extra_query`, `extra_body`, `betas` and `timeout` are taken from, and what
                `extra_body` is put into.
        """
        headers = {str(name): str(value) for name, value in (an_object(body.pop("extra_headers", None)) or {}).items()}
        betas = a_list(body.pop("betas", None))
        if betas:
            headers["anthropic-beta"] = ",".join(map(str, betas))
        timeout = body.pop("timeout", None)
        query = an_object(body.pop("extra_query", None)) or {}
        body.update(an_object(body.pop("extra_body", None)) or {})
        return cls(headers, query, float(timeout) if isinstance(timeout, int | float) else None)

    def for_sdk(self, timeout: object) -> Any:
        """
        Give them as the SDKs take them.

        Args:
            timeout: the limits of the connection.
        """
        return {"headers": self.headers, "params": self.query, "timeout": timeout}

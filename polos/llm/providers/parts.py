"""
Texts, images and files of a conversation, read in any of the three dialects in which programs write them.

A program that was written for one provider hands its users' images over in that provider's form. Whoever answers in
the end gets them in its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polos.errors import ModelRequestRefused
from polos.llm.jsonish import a_list, a_text, an_object

__all__ = ["FilePart", "ImagePart", "OtherPart", "Part", "TextPart", "data_url", "parts_of", "split_data_url"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """
    A text.

    Attributes:
        text: it.
        native: the same in the words of the provider that made it, `{"provider", "data"}`, if there is more to it.
    """

    text: str
    native: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ImagePart:
    """
    An image.

    Attributes:
        url: its address or data URL; None if the provider holds it.
        file_id: under which the provider holds it.
        detail: how closely to look.
    """

    url: str | None = None
    file_id: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class FilePart:
    """
    A file.

    Attributes:
        url: its address, if it has one.
        data: its data URL, if it is here.
        file_id: under which the provider holds it.
        filename: its name.
    """

    url: str | None = None
    data: str | None = None
    file_id: str | None = None
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class OtherPart:
    """
    Something that we have no word for; given to the provider as it is.

    Attributes:
        part: it.
    """

    part: dict[str, Any]


Part = TextPart | ImagePart | FilePart | OtherPart


def parts_of(content: object) -> list[Part]:
    """
    Read the content of an item.

    Raises:
        ModelRequestRefused: it is neither text nor a list of parts.
    """
    if content is None:
        return []
    if isinstance(content, str):
        return [TextPart(content)]
    listed = a_list(content)
    if listed is None:
        raise ModelRequestRefused(f"the content of an item must be text or a list of parts, it is {content!r:.200}")
    return [_part(one) for one in listed]


def _part(told: object) -> Part:
    if isinstance(told, str):
        return TextPart(told)
    part = an_object(told)
    if part is None:
        raise ModelRequestRefused(f"a part of an item must be text or an object, it is {told!r:.200}")
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            return TextPart(str(part.get("text", "")), an_object(part.get("native")))
        case "refusal":
            return TextPart(str(part.get("refusal", "")))
        case "input_image":
            return ImagePart(a_text(part.get("image_url")), a_text(part.get("file_id")), a_text(part.get("detail")))
        case "image_url":
            inner = an_object(part.get("image_url")) or {"url": part.get("image_url")}
            return ImagePart(a_text(inner.get("url")), None, a_text(inner.get("detail")))
        case "image":
            return ImagePart(*_source(part)[:2])
        case "input_file" | "file":
            inner = an_object(part.get("file")) or part
            return FilePart(*(a_text(inner.get(name)) for name in ("file_url", "file_data", "file_id", "filename")))
        case "document" if (an_object(part.get("source")) or {}).get("type") in ("base64", "url", "file"):
            url, file_id, data = _source(part)
            return FilePart(None if data else url, data, file_id, a_text(part.get("title")))
        case _:
            return OtherPart(part)


def _source(part: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Read a source as Anthropic writes it: an address or data URL, an id, and the data URL if it is one."""
    source = an_object(part.get("source")) or {}
    if source.get("type") == "base64":
        data = data_url(str(source.get("media_type")), str(source.get("data")))
        return data, None, data
    return a_text(source.get("url")), a_text(source.get("file_id")), None


def data_url(media_type: str, base64_data: str) -> str:
    """Write bytes that are base64 already as a data URL."""
    return f"data:{media_type};base64,{base64_data}"


def split_data_url(url: str) -> tuple[str, str] | None:
    """Give media type and base64 of a data URL; None if it is another address."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    return head[len("data:") : -len(";base64")], data

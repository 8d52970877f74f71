"""
Row keys as bytes that sort like the tuples they stand for.

A store compares bytes, an engine thinks in tuples such as ``("run", run_id, "timer", due_us)``.
So each part is written such that comparing the bytes of two keys gives what comparing the parts
one after another would give, and such that the bytes of a shorter tuple are a prefix of the bytes
of every longer tuple that starts with it: that makes "all rows under a prefix" one range scan.

* An integer is ``0x01`` and eight bytes, big end first.
* A string is ``0x02``, its UTF-8 bytes, ``0x00``. UTF-8 keeps the order of code points. Inside,
  ``0x00`` becomes ``01 01`` and ``0x01`` becomes ``01 02``, so the closing ``0x00`` is smaller
  than anything that could go on, and is never taken for a part of the string.

LMDB takes keys of 511 bytes, and users name topics as they like. A string of more than 200 UTF-8
bytes therefore enters as its first 160 bytes, ``0xFF`` (a byte UTF-8 never has) and its SHA-256.
Equality still works, order among such strings holds for those first bytes only, and the whole key
can't be had back from the bytes: who stores such a key stores `pack_key` of it beside the value.

The same few strings come again and again (the kinds of rows, the runs that live just now), so the bytes of those that
were asked for last are kept; long ones aren't, or nobody would know where the memory went.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

from polos.errors import PolosUsageError
from polos.store.log import Key

__all__ = ["INT_MAX", "KEY_BYTES_MAX", "STRING_BYTES_MAX", "decode_key", "encode_key", "is_lossy", "pack_key"]

KEY_BYTES_MAX = 511
STRING_BYTES_MAX = 200
PREFIX_BYTES = 160
KEPT = 2048  # strings
SHOWN_MAX = 160  # characters of a key that is refused
INT_MAX = 2**63 - 1

_INT_TAG = 0x01
_STR_TAG = 0x02
_STR = bytes([_STR_TAG])
_END = b"\x00"
_DIGEST_MARK = 0xFF
_pack_int = struct.Struct(">BQ").pack


def encode_key(key: Key) -> bytes:
    """
    Encode a key so that bytes sort as keys do.

    Raises:
        PolosUsageError: the key is over 511 bytes, or an integer is outside 0 <= n < 2**63.
    """
    encoded = b"".join(
        [
            (_kept(part) if len(part) <= STRING_BYTES_MAX else _encode_string(part))
            if isinstance(part, str)
            else _encode_int(part)
            for part in key
        ]
    )
    if len(encoded) > KEY_BYTES_MAX:
        shown = repr(key)[:SHOWN_MAX]
        raise PolosUsageError(f"a key of {len(encoded)} bytes is over KEY_BYTES_MAX ({KEY_BYTES_MAX}): {shown}")
    return encoded


def pack_key(key: Key) -> bytes:
    """Encode a key with every string whole: any length, and `decode_key` gives the key back."""
    return b"".join([_whole_string(part) if isinstance(part, str) else _encode_int(part) for part in key])


def is_lossy(encoded: bytes) -> bool:
    """Tell whether a string in an encoded key was cut, so that the key can't be had back from it."""
    # Cheap first: an integer may hold the byte as well, so only its presence calls for a walk.
    return _DIGEST_MARK in encoded and None in _parts(encoded)


def decode_key(encoded: bytes) -> Key:
    """
    Decode what `encode_key` or `pack_key` gave.

    Raises:
        ValueError: these aren't the bytes of a key, or a string in it was cut (see `is_lossy`).
    """
    parts = _parts(encoded)
    key = tuple([part for part in parts if part is not None])
    if len(key) != len(parts):
        raise ValueError("a string of this key was cut; the key is kept beside the value")
    return key


def _encode_int(number: int) -> bytes:
    if not 0 <= number <= INT_MAX:
        raise PolosUsageError(f"an integer in a key must be in 0 <= n < 2**63, not {number}")
    return _pack_int(_INT_TAG, number)


def _encode_string(text: str) -> bytes:
    # Lone surrogates reach us out of user JSON; "surrogatepass" keeps them apart and in order.
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) <= STRING_BYTES_MAX:
        return _STR + _escape(raw) + _END
    return _STR + _escape(raw[:PREFIX_BYTES]) + bytes([_DIGEST_MARK]) + hashlib.sha256(raw).digest()


_kept = lru_cache(KEPT)(_encode_string)


def _whole_string(text: str) -> bytes:
    return _STR + _escape(text.encode("utf-8", "surrogatepass")) + _END


def _escape(raw: bytes) -> bytes:
    if b"\x01" in raw or b"\x00" in raw:
        return raw.replace(b"\x01", b"\x01\x02").replace(b"\x00", b"\x01\x01")
    return raw


def _unescape(raw: bytes) -> str:
    if b"\x01" in raw:
        raw = raw.replace(b"\x01\x01", b"\x00").replace(b"\x01\x02", b"\x01")
    return raw.decode("utf-8", "surrogatepass")


def _parts(encoded: bytes) -> list[str | int | None]:
    """Take an encoded key apart; a cut string is None."""
    parts: list[str | int | None] = []
    at, size = 0, len(encoded)
    marked = _DIGEST_MARK in encoded
    while at < size:
        tag = encoded[at]
        if tag == _INT_TAG and at + 9 <= size:
            parts.append(int.from_bytes(encoded[at + 1 : at + 9], "big"))
            at += 9
        elif tag == _STR_TAG:
            end = encoded.find(_END, at)
            mark = encoded.find(_DIGEST_MARK, at, end if end >= 0 else None) if marked else -1
            if mark >= 0 and mark + 33 <= len(encoded):
                parts.append(None)
                at = mark + 33
            elif end >= 0 and mark < 0:
                parts.append(_unescape(encoded[at + 1 : end]))
                at = end + 1
            else:
                raise ValueError(f"not a key: {encoded!r}")
        else:
            raise ValueError(f"not a key: {encoded!r}")
    return parts

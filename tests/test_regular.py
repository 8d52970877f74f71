"""Reading files that anybody may have put there."""

from __future__ import annotations

import os
import socket

import pytest
from polos.regular import NoRegularFile, read_regular


def test_a_file_is_read(tmp_path):
    """A file, also behind a link, is given as it is."""
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "b").symlink_to("a")

    assert [b"text", b"text"] == [read_regular(tmp_path / name, bytes_max=4) for name in "ab"]
    with pytest.raises(OSError, match="symbolic links"):
        read_regular(tmp_path / "b", follow=False)


def test_what_is_no_file_is_refused(tmp_path):
    """A fifo, a device, a socket and a file that is too long are refused at once, a directory as the system does."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "long").write_bytes(b"12345")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(tmp_path / "socket"))
        for name, why in (("fifo", "a fifo"), ("zero", "a device"), ("socket", "no file"), ("long", "5 bytes")):
            with pytest.raises(NoRegularFile, match=f"{why}.*{name}"):
                read_regular(tmp_path / name, bytes_max=4)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)

"""How the file of a log comes to be: whole, and never in the way of another process that makes the same one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from polos.store.lmdb_log import LmdbLog

from tests.contract.logs import MAP_BYTES, payloads
from tests.store_children import run_child

# Makes a log in argv[1] and appends to it.
RIVAL = """
    import sys
    from polos.store.lmdb_log import LmdbLog
    from tests.contract.logs import record, unit
    log = LmdbLog(sys.argv[1], map_bytes=64 << 20)
    log.append([unit(record("a", b"first"))], epoch=log.acquire())
    log.close()
"""


def test_a_log_that_somebody_else_makes_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of two processes that make the same log the later one goes on with what the first has made, and used since."""
    link = os.link

    def late(made: str, path: str) -> None:
        run_child(RIVAL, tmp_path)
        link(made, path)

    monkeypatch.setattr(os, "link", late)
    log = LmdbLog(tmp_path, map_bytes=MAP_BYTES)
    with log.reader() as reader:
        found = payloads(list(reader.records()))
    log.close()

    assert [b"first"] == found
    assert {"data.mdb", "lock.mdb"} == set(os.listdir(tmp_path))


def test_a_log_that_can_not_be_made_leaves_nothing(tmp_path: Path):
    """When the disk is full already, nothing of a log is left behind, and it can be made later."""
    code = """
        import os, resource, signal, sys
        from polos.store.lmdb_log import LmdbLog
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            LmdbLog(sys.argv[1], map_bytes=64 << 20)
        except Exception as error:
            print(type(error).__name__, os.listdir(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(LmdbLog(sys.argv[1], map_bytes=64 << 20).acquire())
    """

    assert "StoreFull []\n1\n" == run_child(code, tmp_path)

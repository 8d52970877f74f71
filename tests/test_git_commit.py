"""Which commit is checked out: repositories made by hand, and one made by git where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from polos.runtime.git_commit import git_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def repository(folder: Path, **files: str) -> None:
    """Make the files of a repository by hand; `a__b` stands for .git/a/b."""
    for name, text in files.items():
        path = folder / ".git" / name.replace("__", "/").replace("_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_commit_without_a_branch(tmp_path):
    """A checked-out commit is given as it is, also where names of commits are long."""
    repository(tmp_path, HEAD=f"{COMMIT}\n")
    assert COMMIT == git_commit(tmp_path / "app.py")
    repository(tmp_path, HEAD=f"{'ab' * 32}\n")
    assert "ab" * 32 == git_commit(tmp_path / "app.py")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"HEAD": "ref: refs/heads/main\n"},
        {
            "HEAD": "ref: refs/heads/main\n",
            "packed_refs": f"# pack-refs\n{COMMIT} refs/heads/maintenance\nx refs/heads/main\n",
        },
        {"HEAD": "nothing that git writes\n"},
        {"HEAD": f"ref: refs/heads/{'x' * 300}\n"},
        {"HEAD": "ref: HEAD\n"},
        {"HEAD": "ref: refs/heads/.invalid\n", "reftable__tables.list": "x\n"},
    ],
    ids=["nothing", "no commit yet", "not packed", "damaged", "too long", "endless", "reftable"],
)
def test_no_commit_to_be_read(tmp_path, files):
    """Where the files of git hold no answer there is none."""
    (tmp_path / ".git").mkdir()
    repository(tmp_path, **files)

    assert None is git_commit(tmp_path / "app.py")


def test_damaged_repository(tmp_path):
    """A .git that is no repository, or no text, is none."""
    (tmp_path / ".git").write_bytes(b"gitdir \xff")
    assert None is git_commit(tmp_path / "app.py")
    (tmp_path / ".git").write_text("gitdir: nowhere\n")
    assert None is git_commit(tmp_path / "app.py")


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git to compare with")
def test_commit_as_git_gives_it(tmp_path):
    """Loose and packed refs, linked worktrees, and submodules give what git itself says."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env |= {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(folder: Path, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, env=env, capture_output=True, check=True, text=True)
        return done.stdout.strip()

    main, linked, around = tmp_path / "main", tmp_path / "linked", tmp_path / "around"
    for folder in (main, around):
        folder.mkdir()
        git(folder, "init", "-q", "-b", "trunk")
        git(folder, "commit", "-q", "--allow-empty", "-m", f"first of {folder.name}")
    git(main, "worktree", "add", "-q", "-b", "side", str(linked))
    git(linked, "commit", "-q", "--allow-empty", "-m", "second")
    git(around, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(main), "sub")

    def both(folder: Path) -> tuple[str | None, str]:
        return git_commit(folder / "app.py"), git(folder, "rev-parse", "HEAD")

    found = [both(main), both(linked), both(around), both(around / "sub")]
    git(main, "pack-refs", "--all")
    found += [both(main), both(linked)]
    git(linked, "checkout", "-q", "--detach")
    found.append(both(linked))

    assert [said for _, said in found] == [read for read, _ in found]
    assert 3 == len({said for _, said in found})


# ------------------------------------------------------------------------------------- what git didn't write

HELD = {
    ".git": {},
    "HEAD": {},
    "refs/heads/main": {"HEAD": "ref: refs/heads/main\n"},
    "packed-refs": {"HEAD": "ref: refs/heads/main\n"},
    "commondir": {"HEAD": "ref: refs/heads/main\n"},
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("what", ["fifo", "link to a device", "directory", "huge", "no text"])
def test_what_git_did_not_write_holds_nobody(tmp_path, name, what):
    """Where a file of git is expected, nothing else is waited for, and none is read that is longer than git's are."""
    path = tmp_path / ".git" if name == ".git" else tmp_path / ".git" / name
    repository(tmp_path, **HELD[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    elif what == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)  # a hole, which takes no space
    elif what == "no text":
        path.write_bytes(b"ref: \xff\xfe")
    else:
        path.symlink_to("/dev/zero")

    assert None is git_commit(tmp_path / "app.py")

"""Which code this is: its release, its commit, and whether anybody changed it since.

A version that is fixed when the package is installed would be wrong after the next ``git pull``,
as an editable install stays.  So a checkout is asked when the version is wanted, once in a process.

``0.2.0+g3cb8d42f01ab``
    A commit, and git says that the code is what was committed.
``0.2.0+g3cb8d42f01ab.dirty5f2a91c0``
    The code was changed since; so many digits of its hash tell one change from another.
``0.2.0+g3cb8d42f01ab.unchecked5f2a91c0``
    Nobody can tell: an unpacked archive, a machine without git, or a checkout of another user,
    which git refuses to look at.
"""

import hashlib
import os
import re
import subprocess
from functools import cache
from pathlib import Path

from earmark import REPOSITORY

#: The newest heading of CHANGELOG.md.
RELEASE = "0.2.0"
#: What makes results, of all that lies in a checkout.
CODE = ("sql", "src", "workflow")

_COMMIT = re.compile(r"[0-9a-f]{40,64}")


@cache
def current() -> str:
    """Version of the code that runs, as PEP 440 has it."""
    if Path(__file__).resolve().parent == REPOSITORY / "src/earmark":
        return of(REPOSITORY)
    from importlib import metadata

    try:
        return metadata.version("earmark")
    except metadata.PackageNotFoundError:
        return f"{RELEASE}+unknown"


def of(root: Path) -> str:
    """Version of the code in a folder.

    Args:
        root: A checkout, an archive of one (``git archive``), or a source distribution.
    """
    if (root / ".git").exists():
        told = _ask_git(root)
        if told is None:
            commit, state = _head(root / ".git"), "unchecked"
        else:
            commit, changed = told
            state = "dirty" if changed or not commit else ""
    elif (built := _built(root)) is not None:
        return built
    else:
        commit, state = _exported(root), "unchecked"
    parts = [f"g{commit[:12]}"] if commit else []
    if state:
        parts.append(state + _digest(root)[:8])
    return f"{RELEASE}+{'.'.join(parts)}"


def _ask_git(root: Path) -> tuple[str, bool] | None:
    """Commit, "" before the first one, and whether the code was changed; None without an answer."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=all", "--", *CODE],
            cwd=root,
            env=environment
            | {"GIT_OPTIONAL_LOCKS": "0", "GIT_CEILING_DIRECTORIES": str(root.parent)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.decode(errors="replace").splitlines()
    heads = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    if not heads:
        return None
    commit = heads[0] if _COMMIT.fullmatch(heads[0]) else ""
    return commit, any(not line.startswith("#") for line in lines)


def _head(git: Path) -> str:
    """The commit that is checked out, from git's own files; "" if they don't tell.

    Source: gitrepository-layout(5).
    """
    try:
        if git.is_file():  # a worktree
            git = git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head if _COMMIT.fullmatch(head) else ""
        reference = head.removeprefix("ref: ")
        common = git / "commondir"
        shared = git / common.read_text(encoding="utf-8").strip() if common.exists() else git
        if (shared / reference).exists():
            lines = [(shared / reference).read_text(encoding="utf-8").strip()]
        else:
            packed = (shared / "packed-refs").read_text(encoding="utf-8").splitlines()
            lines = [line.split()[0] for line in packed if line.endswith(f" {reference}")]
    except (OSError, ValueError):
        return ""
    return next(filter(_COMMIT.fullmatch, lines), "")


def _exported(root: Path) -> str:
    """The commit that ``git archive`` wrote down; "" if it didn't."""
    try:
        told = (root / ".git_archival.txt").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    found = _COMMIT.search(told)
    return found[0] if found else ""


def _built(root: Path) -> str | None:
    """What a source distribution says of itself."""
    try:
        told = (root / "PKG-INFO").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r"^Version: (\S+)$", told, re.MULTILINE)
    return found[1] if found else None


def _digest(root: Path) -> str:
    """SHA-256 of the code, hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(path for top in CODE for path in (root / top).rglob("*")):
        name = path.relative_to(root).as_posix()
        if "__pycache__" in name or ".egg-info" in name or not path.is_file():
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content} {name}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()

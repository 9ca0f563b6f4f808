"""The version names the commit of the code that runs, and never two codes alike."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from earmark import REPOSITORY, version

Git = Callable[..., str]


@pytest.fixture
def git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Git:
    """Runs git in a new checkout, which holds this package and nothing else."""
    for key, value in {"NAME": "Nobody", "EMAIL": "nobody@example.org"}.items():
        monkeypatch.setenv(f"GIT_AUTHOR_{key}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{key}", value)
    root = tmp_path / "checkout"
    root.mkdir()

    def run(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    shutil.copytree(
        REPOSITORY / "src/earmark",
        root / "src/earmark",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in (".gitattributes", ".git_archival.txt", ".gitignore", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, root / name)
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(REPOSITORY / name, root / name)
    run("init", "--quiet", "--initial-branch=main")
    run("add", ".")
    run("commit", "--quiet", "--message=First")
    return run


@pytest.fixture
def checkout(git: Git, tmp_path: Path) -> Path:
    return tmp_path / "checkout"


def told_by(root: Path, folder: str = "src") -> str:
    """What a new process says that runs the code in a folder of a checkout."""
    command = [sys.executable, "-c", "import earmark; print(earmark.__version__)"]
    environment = {"PYTHONPATH": str(root / folder), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit_of(git: Git) -> str:
    return f"{version.RELEASE}+g{git('rev-parse', 'HEAD')[:12]}"


def edit(checkout: Path, text: str) -> None:
    with (checkout / "src/earmark/clock.py").open("a") as file:
        file.write(f"# {text}\n")


def test_the_release_is_the_newest_one_of_the_changelog() -> None:
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([0-9.]+) — \d{4}-\d\d-\d\d$", changes, re.MULTILINE)[0] == (
        version.RELEASE
    )


def test_a_checkout_tells_its_commit_and_after_a_pull_the_new_one(git: Git, checkout: Path) -> None:
    first = told_by(checkout)
    assert first == commit_of(git)
    edit(checkout, "better")
    git("commit", "--quiet", "--all", "--message=Second")
    second = told_by(checkout)
    assert second == commit_of(git) != first
    git("checkout", "--quiet", "--detach", "HEAD~1")
    assert told_by(checkout) == first


def test_what_running_the_code_leaves_behind_is_no_change_of_it(git: Git, checkout: Path) -> None:
    told_by(checkout)
    assert list(checkout.rglob("__pycache__"))
    (checkout / "notes.txt").write_text("beside the code")
    (checkout / "README.md").write_text("no code either")
    assert told_by(checkout) == commit_of(git)


def test_each_change_that_is_not_committed_is_a_version_of_its_own(
    git: Git, checkout: Path
) -> None:
    clean = version.of(checkout)
    edit(checkout, "one")
    one = version.of(checkout)
    git("add", ".")
    assert version.of(checkout) == one
    edit(checkout, "two")
    two = version.of(checkout)
    (checkout / "src/earmark/new.py").write_text("")
    three = version.of(checkout)
    (checkout / "src/earmark/new.py").write_text("NEW = True")
    four = version.of(checkout)
    assert len({clean, one, two, three, four}) == 5
    assert all(re.fullmatch(re.escape(clean) + r"\.dirty[0-9a-f]{8}", v) for v in (one, two, four))
    git("reset", "--quiet", "--hard")
    (checkout / "src/earmark/new.py").unlink()
    assert version.of(checkout) == clean


def test_before_the_first_commit_the_code_itself_is_named(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text("")
    assert re.fullmatch(rf"{version.RELEASE}\+dirty[0-9a-f]{{8}}", version.of(tmp_path))


@pytest.mark.parametrize("how", ["loose", "packed", "detached", "worktree"])
@pytest.mark.parametrize("why", ["absent", "refuses", "fails"])
def test_without_an_answer_of_git_the_commit_is_read_from_its_files_and_the_code_is_named_too(
    git: Git, checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, why: str
) -> None:
    clean = commit_of(git)
    if how == "packed":
        git("pack-refs", "--all", "--prune")
    elif how == "detached":
        git("checkout", "--quiet", "--detach")
    elif how == "worktree":
        checkout = tmp_path / "elsewhere"
        git("worktree", "add", "--quiet", "-b", "other", str(checkout))
    programs = tmp_path / "bin"
    programs.mkdir()
    if why != "absent":
        # Git's own tests make it believe by this variable that a checkout is somebody else's.
        real = shutil.which("git")
        said = f"GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {real}" if why == "refuses" else "exit 1;:"
        (programs / "git").write_text(f'#!/bin/sh\n{said} "$@"\n')
        (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    first = version.of(checkout)
    assert re.fullmatch(re.escape(clean) + r"\.unchecked[0-9a-f]{8}", first)
    edit(checkout, "changed")
    assert version.of(checkout) != first


@pytest.mark.parametrize("head", ["", "ref: refs/heads/none\n", "\xff", "ref: ../../secret\n"])
def test_a_damaged_checkout_still_has_a_version(checkout: Path, head: str) -> None:
    (checkout / ".git/HEAD").write_bytes(head.encode("latin-1"))
    told = version.of(checkout)
    assert re.fullmatch(rf"{version.RELEASE}\+(dirty|unchecked)[0-9a-f]{{8}}", told)


def test_variables_that_lead_git_to_another_checkout_are_ignored(
    git: Git, checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean = commit_of(git)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert version.of(checkout) == clean


def test_an_archive_of_a_checkout_tells_the_commit(
    git: Git, checkout: Path, tmp_path: Path
) -> None:
    git("archive", "--output", str(tmp_path / "code.tar"), "HEAD")
    with tarfile.open(tmp_path / "code.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    told = told_by(tmp_path / "unpacked")
    assert re.fullmatch(re.escape(commit_of(git)) + r"\.unchecked[0-9a-f]{8}", told)
    edit(tmp_path / "unpacked", "changed")
    assert told_by(tmp_path / "unpacked") != told


def test_an_installed_wheel_tells_the_commit_that_it_was_built_from(
    git: Git, checkout: Path, tmp_path: Path
) -> None:
    # By way of a source distribution, and laid out as `pip install --target` does in a checkout.
    build = [str(Path(sys.executable).with_name("uv")), "build", "--quiet", "--no-build-isolation"]
    python = ["--python", sys.executable, "--offline"]
    clean = commit_of(git)
    subprocess.run([*build, *python, "--out-dir", str(tmp_path / "out"), str(checkout)], check=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(checkout / "vendor")
    edit(checkout, "changed")
    assert told_by(checkout, "vendor") == clean

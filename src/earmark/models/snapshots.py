"""A model of the hub as it lies on the volume, and whether it is whole.

Files lie where the Hugging Face libraries keep them (``HF_HOME``).  Their cache doesn't say
whether a download came to its end, nor does it check contents.  So a list of each fetched
commit's files, with sizes and the hub's own checksums, is written beside them once all are there
and right; a commit without one counts as not fetched.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from huggingface_hub import constants

from earmark.errors import SetupError
from earmark.files import whole
from earmark.progress import track

#: What an unpinned model's latest fetched commit is called, in the hub's word for it.
UNPINNED = "main"

_CHUNK = 1 << 20


@dataclass(frozen=True)
class File:
    """A file of a model, as the hub describes it.

    Attributes:
        name: Path within the model, with slashes.
        bytes: Size.
        algorithm: ``sha256`` of the contents (large files, which the hub keeps by LFS or Xet), or
            ``git-sha1``, the id of a Git blob.
        checksum: In hexadecimal.
    """

    name: str
    bytes: int
    algorithm: str
    checksum: str

    def damage(self, folder: Path, by_size: bool = False) -> str | None:
        """What is wrong with the file in a folder, or None.

        Args:
            folder: The model's folder.
            by_size: Compare just the size, and read nothing.
        """
        path = folder / self.name
        if not path.is_file():  # a link to nowhere is none
            return f"{self.name} is missing"
        if (found := path.stat().st_size) != self.bytes:
            return f"{self.name} is damaged ({found} bytes instead of {self.bytes})"
        if not by_size and self._checksum_of(path) != self.checksum:
            return f"{self.name} is damaged ({self.algorithm} is not {self.checksum})"
        return None

    def _checksum_of(self, path: Path) -> str:
        if self.algorithm == "sha256":
            digest = hashlib.sha256()
        else:  # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
            digest = hashlib.sha1(b"blob %d\0" % self.bytes, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()


@dataclass(frozen=True)
class Snapshot:
    """One commit of a model.

    Attributes:
        repository: The model's name on the hub, ``owner/name``.
        commit: 40 hexadecimal digits.
        files: What belongs to it.
    """

    repository: str
    commit: str
    files: tuple[File, ...]

    @classmethod
    def of(cls, repository: str, revision: str | None) -> "Snapshot | None":
        """What was fetched whole of a model, or None.

        Args:
            repository: The model's name on the hub.
            revision: A commit; None takes the one that was fetched last without one.

        Raises:
            SetupError: the list of its files is damaged.
        """
        path = _lists(repository) / f"{revision or UNPINNED}.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise SetupError(
                f"{path}, which lists the files of {repository}, is damaged ({error}); remove it "
                "and run `earmark models fetch`"
            ) from error

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def folder(self) -> Path:
        """Where the files lie: links to ``blobs``, as the Hugging Face libraries have it."""
        return _storage(self.repository) / "snapshots" / self.commit

    def damage(self, by_size: bool = False) -> Iterator[str]:
        """What is wrong with the files, one sentence for each that is missing or damaged.

        Args:
            by_size: Compare sizes only, at once; else every byte is read.
        """
        for file in (
            self.files if by_size else track(self.files, f"check {self.repository}", "files")
        ):
            if found := file.damage(self.folder, by_size):
                yield found

    def record(self, unpinned: bool) -> None:
        """Write down that all files are there and right.

        Args:
            unpinned: Whether this is also what a configuration without a revision means.
        """
        text = json.dumps(asdict(self), indent=2)
        for name in [self.commit, UNPINNED] if unpinned else [self.commit]:
            with whole(_lists(self.repository) / f"{name}.json") as partial:
                partial.write_text(text + "\n", encoding="utf-8")


def _storage(repository: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _lists(repository: str) -> Path:
    return _storage(repository) / "earmark"

"""What the system refuses, in a sentence that names the file and fits the refusal."""

import errno
import os
from pathlib import Path

import pytest
from small_volume import fill, small_volume

from earmark.errors import refused_by_system
from earmark.files import whole
from earmark.tables import MEMBERS, write_table


@pytest.mark.needs("root")
def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path: Path) -> None:
    with small_volume(tmp_path / "volume", 1) as root:
        fill(root)
        with pytest.raises(OSError, match="No space left") as text, whole(root / "a") as partial:
            partial.write_bytes(bytes(1 << 20))
        row = {"ordinal": 0, "member": "x" * 10**6, "bytes": 1, "status": "ok", "sha256": None}
        with pytest.raises(OSError, match="No space left") as table:
            write_table(root / "members.parquet", MEMBERS, [row], {"note": os.urandom(10**6).hex()})
    said = [refused_by_system(raised.value) for raised in (text, table)]
    for name, sentence in zip(("a", "members.parquet"), said, strict=True):
        assert f"the system refused {root / name}:" in sentence
        assert sentence.endswith("; make space, or raise the quota")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "read-only"),
        (errno.ENOTEMPTY, "try again"),
        (errno.ESTALE, "mount it again"),
        (errno.EMFILE, "ulimit"),
        (errno.ENOENT, "volume.root"),
    ],
)
def test_the_advice_fits_the_refusal(number: int, remedy: str) -> None:
    said = refused_by_system(OSError(number, os.strerror(number), "/srv/audio/x"))
    assert said.startswith(f"the system refused /srv/audio/x: {os.strerror(number)}; ")
    assert remedy in said


def test_a_refusal_without_known_remedy_gets_no_advice() -> None:
    said = refused_by_system(OSError(errno.EXDEV, "Invalid cross-device link", "/srv/x"))
    assert said == "the system refused /srv/x: Invalid cross-device link"

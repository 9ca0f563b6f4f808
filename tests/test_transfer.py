"""Fetching: an archive arrives whole, or not at all."""

import os
from pathlib import Path

import pytest

from earmark.catalogue import discover
from earmark.errors import EarmarkError
from earmark.transfer import fetch_archive
from earmark.volume import Volume


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "a.tar"
    path.parent.mkdir()
    path.write_bytes(os.urandom(100_000))
    os.utime(path, ns=(1_793_534_400_123_456_789, 1_793_534_400_123_456_789))
    return path


def fetch(archive: Path, volume: Volume) -> Path:
    target = volume.incoming(archive.name)
    fetch_archive(volume.entry(archive.name), archive.parent, target)
    return target


def test_an_archive_arrives_whole(archive: Path, volume: Volume) -> None:
    discover(archive.parent, volume)
    assert fetch(archive, volume).read_bytes() == archive.read_bytes()


def test_an_archive_that_grew_since_it_was_found_does_not_arrive(
    archive: Path, volume: Volume
) -> None:
    discover(archive.parent, volume)
    with archive.open("ab") as file:
        file.write(b"more")
    with pytest.raises(EarmarkError, match=r"100004 bytes, .* says 100000"):
        fetch(archive, volume)
    assert list(volume.incoming("").iterdir()) == []


def test_an_archive_that_was_replaced_by_one_of_the_same_size_does_not_arrive(
    archive: Path, volume: Volume
) -> None:
    discover(archive.parent, volume)
    archive.write_bytes(os.urandom(100_000))
    with pytest.raises(EarmarkError, match="changed after it was found"):
        fetch(archive, volume)
    assert list(volume.incoming("").iterdir()) == []


def test_an_archive_that_vanished_is_named(archive: Path, volume: Volume) -> None:
    discover(archive.parent, volume)
    archive.unlink()
    with pytest.raises(EarmarkError, match=r"a\.tar has vanished"):
        fetch(archive, volume)


def test_only_what_was_found_is_fetched(archive: Path, volume: Volume) -> None:
    with pytest.raises(EarmarkError, match="there is no entry"):
        fetch(archive, volume)

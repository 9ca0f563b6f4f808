"""A content that several archives hold is transcribed once, and reported for every upload."""

import hashlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from demo_clips import MEMBERS, QUICK, extract_clips, spoken, write_manifest
from msgspec.structs import replace

from earmark import checkpoints
from earmark.speech.deduplication import DeduplicationIndex, Place
from earmark.speech.transcribe import transcribe_archive
from earmark.tables import TRANSCRIPTS, read_provenance, read_table
from earmark.volume import Volume

DAY = "2026-11-09"


def content(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


class Archives:
    """A volume whose archives hold clips of the demo."""

    def __init__(self, root: Path) -> None:
        self.volume = Volume(root)
        self.clips = extract_clips(root)

    def encode(self, archive: str, members: list[int]) -> None:
        rows = [
            {
                "archive": archive,
                # The file lies where it lies; its name here is that of an Opus file.
                "opus_path": f"{member}",
                "source_sha256": content(member),
            }
            for member in members
        ]
        path = self.volume.manifest(DAY, archive)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(path, rows)

    def transcribe(self, archive: str, **settings: object) -> list[dict]:
        wanted = replace(QUICK, **settings)
        output = self.volume.transcripts(wanted.name, DAY, archive)
        transcribe_archive(
            self.volume.manifest(DAY, archive),
            output,
            self.volume.root,
            wanted,
            self.volume.checkpoint(archive, "transcribe_audio"),
            DeduplicationIndex(self.volume, wanted.name, DAY),
        )
        checkpoints.remove(self.volume, archive)  # as loading does
        found: list[dict] = read_table(output, TRANSCRIPTS).to_pylist()
        return found

    def copied(self, archive: str) -> str:
        """How many transcripts the file itself says were copied."""
        return read_provenance(self.volume.transcripts(QUICK.name, DAY, archive))["copied"]


@pytest.fixture
def archives(tmp_path: Path) -> Archives:
    made = Archives(tmp_path)
    first, second = (spoken(language)["ordinal"] for language in ("en", "es"))
    silent = next(m["ordinal"] for m in MEMBERS if m["status"] == "ok" and not m["text"])
    made.encode("a.tar", [first, second])
    made.encode("b.tar", [silent, second])
    made.transcribe("a.tar")
    return made


def test_what_another_archive_held_is_copied_and_says_so(archives: Archives) -> None:
    (_, there) = read_table(
        archives.volume.transcripts("demo", DAY, "a.tar"), TRANSCRIPTS
    ).to_pylist()
    fresh, copied = archives.transcribe("b.tar")
    assert fresh["copied_from"] is None
    assert copied == there | {
        "archive": "b.tar",
        "ordinal": 1,
        "seconds": 0.0,
        "copied_from": f"{spoken('es')['ordinal']}",
    }
    assert copied["text"]
    assert (archives.copied("a.tar"), archives.copied("b.tar")) == ("0", "1")


def test_with_nothing_left_to_hear_no_model_is_loaded(
    archives: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives.encode("c.tar", [spoken("es")["ordinal"]])
    monkeypatch.setattr("earmark.speech.transcribe.Transcriber", None)
    (row,) = archives.transcribe("c.tar")
    assert row["copied_from"]


def test_reruns_give_the_same_in_whatever_order(archives: Archives) -> None:
    before = archives.transcribe("b.tar")
    again = archives.transcribe("a.tar")
    assert [row["copied_from"] for row in again] == [None, None]  # it was the first
    assert archives.transcribe("b.tar")[1] == before[1]


def test_copies_name_the_clip_that_was_heard_never_another_copy(archives: Archives) -> None:
    archives.transcribe("b.tar")
    archives.encode("c.tar", [spoken("es")["ordinal"]])
    archives.transcribe("c.tar")
    index = DeduplicationIndex(archives.volume, "demo", DAY)
    (places,) = index.find([content(spoken("es")["ordinal"])]).values()
    assert places == [Place(DAY, "a.tar", 1)]


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"beam_size": 1}, {"compute_type": "int8"}], ids=str
)
def test_what_was_heard_with_other_settings_is_heard_again(
    archives: Archives, change: dict
) -> None:
    _, row = archives.transcribe("b.tar", **change)
    assert row["copied_from"] is None


def test_a_place_that_does_not_hold_any_more_is_passed_over(archives: Archives) -> None:
    first, second = (spoken(language)["ordinal"] for language in ("en", "es"))
    archives.encode("a.tar", [second, first])  # the archive was replaced
    assert archives.transcribe("b.tar")[1]["copied_from"] is None
    archives.encode("c.tar", [second])
    (copied,) = archives.transcribe("c.tar")
    assert copied["copied_from"]  # of b.tar now
    archives.volume.transcripts("demo", DAY, "b.tar").unlink()
    assert archives.transcribe("c.tar")[0]["copied_from"] is None


def test_an_index_that_is_lost_costs_one_more_transcription_and_nothing_else(
    archives: Archives,
) -> None:
    for path in archives.volume.deduplication("demo").iterdir():
        path.write_bytes(b"\xff\0 no line\n" + content("x").encode() + b"\tnever\n")
    assert archives.transcribe("b.tar")[1]["copied_from"] is None


# The index alone


def test_the_first_place_comes_first_and_none_twice(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    for archive in ("b.tar", "a b.tar", "b.tar"):
        DeduplicationIndex(volume, "v2", DAY).publish(archive, {3: content(1), 4: content(2)})
    index = DeduplicationIndex(volume, "v2", "2026-11-10")
    places = [Place(DAY, "b.tar", 3), Place(DAY, "a b.tar", 3)]
    assert index.find([content(1), content(9)]) == {content(1): places}
    assert DeduplicationIndex(volume, "v3", DAY).find([content(1)]) == {}


@pytest.mark.parametrize("cut", [1, 2, 40, 90])
def test_a_line_that_a_killed_writer_left_torn_says_nothing(tmp_path: Path, cut: int) -> None:
    index = DeduplicationIndex(Volume(tmp_path), "v2", DAY)
    index.publish("a.tar", {123: content(1)})
    (path,) = Volume(tmp_path).deduplication("v2").iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    assert index.find([content(1)]) == {}
    index.publish("b.tar", {5: content(1)})
    assert index.find([content(1)]) == {content(1): [Place(DAY, "b.tar", 5)]}


def test_nothing_is_lost_when_archives_are_published_side_by_side(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3) as workers:
        list(workers.map(_publish, [tmp_path] * 9, range(9)))
    everything = DeduplicationIndex(Volume(tmp_path), "v2", DAY).find(map(content, range(40)))
    for number in range(40):
        places = everything[content(number)]
        assert sorted(place.archive for place in places) == [f"{n}.tar" for n in range(9)]
        assert {place.ordinal for place in places} == {number}


def _publish(root: Path, number: int) -> None:
    index = DeduplicationIndex(Volume(root), "v2", DAY)
    index.publish(f"{number}.tar", {each: content(each) for each in range(40)})

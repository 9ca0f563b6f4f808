"""Doing an archive again from a stage on, whoever is at work."""

import json
import logging
import os
import re
import shutil
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from example_receipt import example
from place import Place, member
from workflow_run import ROWS, Run, copy_volume

from earmark import cli, configuration, locks, receipts
from earmark.driver import redo
from earmark.driver.feed import Feed
from earmark.ingest import again, catalogue
from earmark.ingest.again import Request, requests
from earmark.ingest.source import source_of
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, read_table, write_table
from earmark.volume import Volume


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two archives that are done, and one that is pending."""
    place = Place(tmp_path, tmp_path / "volume")
    place.configure(asr={"name": "large-v2"}, classify={"policy": "2026-11"})
    for name in ("a.tar", "b.tar", "pending.tar"):
        place.put(name)
    for archive in place.poll().archives:
        if archive.name != "pending.tar":
            make(place, archive.name, archive.date)
    place.poll()
    return place


def make(place: Place, archive: str, date: str) -> None:
    """Write what the stages of an archive leave."""
    volume = place.volume
    row = member(archive, 0, date) | {"encoded_at": None}
    opus = volume.root / row["opus_path"]
    opus.parent.mkdir(parents=True)
    opus.write_bytes(b"opus")
    write_table(volume.manifest(date, archive), MANIFEST, [row], {})
    for asr in ("large-v2", "other"):
        write_table(volume.transcripts(asr, date, archive), TRANSCRIPTS, [], {})
    for policy_set in ("2026-11", "other"):
        write_table(volume.classes(policy_set, date, archive), CLASSES, [], {})
    receipts.write(volume.receipt(date, archive), example(archive=archive, date=date, bytes=3))
    for folder in (volume.incoming(archive), volume.unpacked(archive) / "000000"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_bytes(b"x")


def date_of(place: Place) -> str:
    return catalogue.read(place.volume).archives[0].date


def call(place: Place, *arguments: str) -> int:
    return cli.main(["redo", "--configfile", str(place.file), *arguments])


def pending(place: Place) -> list[str]:
    archives = place.poll().archives
    return [archive.name for archive in archives if catalogue.is_pending(archive, place.volume)]


def current(place: Place, archive: str) -> set[str]:
    """What is there of an archive, and not out of date."""
    root = place.volume.root
    found = {*root.rglob(f"{archive}*"), *root.rglob(f"{archive}/*")}
    kept = {path for path in found if path.is_file() and place.volume.state not in path.parents}
    fresh = {path for path in kept if path.stat().st_mtime > 1 and "other" not in str(path)}
    return {path.relative_to(root).parts[0] for path in fresh}


@pytest.mark.parametrize(
    ("stage", "left"),
    [
        ("fetch", {"audio"}),
        ("unpack", {"audio", "incoming"}),
        ("encode", {"audio", "incoming"}),
        ("transcribe", {"audio", "incoming", "unpacked", "manifests"}),
        ("classify", {"audio", "incoming", "unpacked", "manifests", "transcripts"}),
        ("load", {"audio", "incoming", "unpacked", "manifests", "transcripts", "classes"}),
    ],
)
def test_what_a_stage_and_those_behind_it_made_is_out_of_date(
    place: Place, stage: str, left: set[str]
) -> None:
    others = current(place, "b.tar")
    assert pending(place) == ["pending.tar"]
    assert call(place, "a.tar", "--stage", stage) == 0
    assert current(place, "a.tar") == left
    assert current(place, "b.tar") == others
    assert pending(place) == ["a.tar", "pending.tar"]
    for made_by in ("asr=other", "policy=other"):
        (path,) = place.volume.root.glob(f"*/{made_by}/*/a.tar.parquet")
        assert path.stat().st_mtime > 1


@pytest.mark.parametrize("changed", [None, 0, 1])
def test_after_a_lost_catalogue_its_entry_is_newer_than_what_is_out_of_date(
    place: Place, changed: int | None
) -> None:
    volume = place.volume
    if changed is not None:  # as old as files can be
        os.utime(place.source / "a.tar", (changed, changed))
        (again,) = [each for each in place.poll().archives if each.name == "a.tar"]
        make(place, "a.tar", again.date)
    (volume.state / "catalogue.json").unlink()
    (found,) = [each for each in place.poll().archives if each.name == "a.tar"]
    assert call(place, "a.tar", "--date", found.date, "--stage", "encode") == 0
    assert "a.tar" in pending(place)
    manifest = volume.manifest(found.date, "a.tar")
    assert volume.entry("a.tar").stat().st_mtime > manifest.stat().st_mtime


def test_a_day_is_done_again_as_a_whole(place: Place) -> None:
    assert call(place, "--date", date_of(place)) == 0
    assert pending(place) == ["a.tar", "b.tar", "pending.tar"]


def test_everything_is_done_again_as_for_another_database(place: Place) -> None:
    assert call(place, "--all") == 0
    assert pending(place) == ["a.tar", "b.tar", "pending.tar"]


def test_a_preview_changes_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = current(place, "a.tar")
    assert call(place, "a.tar", "--stage", "encode", "--dry-run", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["archive"], row["from"]) == ("a.tar", "encode")
    assert current(place, "a.tar") == before
    assert list(requests(place.volume)) == []


def test_a_request_goes_once_the_archive_is_done(place: Place) -> None:
    call(place, "a.tar")
    settings = configuration.read(place.file)
    redo.carry_out(place.volume, settings)
    assert [request.archive for request in requests(place.volume)] == ["a.tar"]
    receipt = place.volume.receipt(date_of(place), "a.tar")
    receipts.write(receipt, example(archive="a.tar", date=date_of(place)))
    redo.carry_out(place.volume, settings)
    assert list(requests(place.volume)) == []
    assert receipt.exists()


def test_a_receipt_of_what_is_out_of_date_ends_no_request(place: Place) -> None:
    assert call(place, "a.tar", "--stage", "encode") == 0
    receipt = place.volume.receipt(date_of(place), "a.tar")
    receipts.write(receipt, example(archive="a.tar", date=date_of(place)))
    redo.carry_out(place.volume, configuration.read(place.file))
    assert not receipt.exists()
    assert pending(place) == ["a.tar", "pending.tar"]


def test_an_archive_that_a_driver_has_in_its_hands_waits_until_it_lets_go(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt = place.volume.receipt(date_of(place), "a.tar")
    receipt.unlink()  # it is at work, between two stages
    driver = locks.exclusive(place.volume.driver_lock)
    with driver:
        assert call(place, "a.tar", "--stage", "transcribe", "--json") == 0
        assert json.loads(capsys.readouterr().out)[0]["waits for the driver"] is True
        assert "transcripts" in current(place, "a.tar")
    receipts.write(receipt, example(archive="a.tar", date=date_of(place)))  # the driver's last job
    redo.carry_out(place.volume, configuration.read(place.file))
    assert "transcripts" not in current(place, "a.tar")
    assert pending(place) == ["a.tar", "pending.tar"]


def test_one_that_the_source_has_lost_is_pending_all_the_same(place: Place) -> None:
    date = date_of(place)
    (place.source / "a.tar").unlink()
    assert pending(place) == ["pending.tar"]
    assert call(place, "a.tar", "--stage", "transcribe") == 0
    assert pending(place) == ["a.tar", "pending.tar"]
    (archive, _, _) = sorted(place.poll().archives, key=lambda each: each.name)
    assert (archive.date, archive.confirmed) == (date, True)
    assert json.loads(place.volume.entry("a.tar").read_text())["name"] == "a.tar"


def test_one_that_was_lost_meanwhile_keeps_its_tables_and_no_other_is_taken_for_it(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    date = date_of(place)
    assert call(place, "a.tar", "--stage", "encode") == 0
    assert pending(place) == ["a.tar", "pending.tar"]
    (place.source / "a.tar").unlink()
    place.volume.incoming("a.tar").write_bytes(b"another archive of the name")
    logging.getLogger("earmark").propagate = True  # as before the command
    assert pending(place) == ["pending.tar"]
    assert f"earmark redo 'a.tar' --date {date}" in caplog.text
    assert read_table(place.volume.manifest(date, "a.tar"), MANIFEST).num_rows == 1
    assert call(place, "a.tar") == 0
    assert pending(place) == ["a.tar", "pending.tar"]


def test_a_command_that_is_killed_between_two_steps_is_made_up_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    date, ask = date_of(place), again.ask
    ask(place.volume, Request("a.tar", date, "transcribe"))

    def killed(volume: Volume, request: Request) -> None:
        if request.begun:
            raise KeyboardInterrupt
        ask(volume, request)

    with monkeypatch.context() as broken:
        broken.setattr(again, "ask", killed)
        with pytest.raises(KeyboardInterrupt):
            redo.carry_out(place.volume, configuration.read(place.file))
    receipt = place.volume.receipt(date_of(place), "a.tar")
    redo.carry_out(place.volume, configuration.read(place.file))
    assert not receipt.exists()
    assert [request.begun for request in requests(place.volume)] == [True]
    assert "transcripts" not in current(place, "a.tar")


def test_one_whose_receipt_never_told_its_size_ends_with_the_new_receipt(place: Place) -> None:
    date = date_of(place)
    place.volume.receipt(date, "a.tar").unlink()
    lose_at_source(place)
    assert call(place, "a.tar", "--date", date) == 0
    (archive,) = [each for each in place.poll().archives if each.name == "a.tar"]
    told = example(archive="a.tar", date=date, bytes=102_400, modified_ns=archive.modified_ns)
    receipts.write(place.volume.receipt(date, "a.tar"), told)
    assert catalogue.is_done(archive, place.volume)


def lose_tables(place: Place) -> None:
    for kind in ("transcripts", "classes", "audio"):
        shutil.rmtree(place.volume.root / kind)


def lose_at_source(place: Place) -> None:
    (place.source / "a.tar").unlink()
    place.volume.incoming("a.tar").unlink()
    place.poll()


def lose_at_source_after_the_last_poll(place: Place) -> None:
    (place.source / "a.tar").unlink()
    place.volume.incoming("a.tar").unlink()


def lose_at_source_and_fetch_another(place: Place) -> None:
    (place.source / "a.tar").unlink()
    place.volume.incoming("a.tar").write_bytes(b"another archive of the name")


def lose_audio(place: Place) -> None:
    next(place.volume.root.glob("audio/*/a.tar/000000.opus")).unlink()


def give_up(place: Place) -> None:
    place.volume.quarantine("a.tar").parent.mkdir()
    place.volume.quarantine("a.tar").write_text("{}")


def have_another_day(place: Place) -> None:
    make(place, "a.tar", "2020-01-01")


def replace_at_source(place: Place) -> None:
    place.put("a.tar", age_seconds=10 * 86_400)
    place.poll()


def nothing(place: Place) -> None:
    """All is as it was."""


@pytest.mark.parametrize(
    ("happens", "arguments", "said"),
    [
        (lose_at_source, ["a.tar", "--stage", "encode"], "is not at the source any more"),
        (
            lose_at_source_after_the_last_poll,
            ["a.tar", "--stage", "encode"],
            "is not at the source any more",
        ),
        (
            lose_at_source_and_fetch_another,
            ["a.tar", "--stage", "encode"],
            "is not at the source any more",
        ),
        (lose_audio, ["a.tar", "--stage", "transcribe"], "1 of 1 clips of a.tar have no audio"),
        (
            lose_tables,
            ["a.tar"],
            "no transcripts large-v2, which load reads",
        ),
        (lose_tables, ["a.tar", "--stage", "transcribe"], "1 of 1 clips of a.tar have no audio"),
        (give_up, ["a.tar"], "earmark retry a.tar"),
        (have_another_day, ["a.tar"], "give --date"),
        (replace_at_source, ["a.tar"], "the source has another archive a.tar"),
        (nothing, ["c.tar"], "c.tar has got no further"),
        (nothing, ["*"], r"\* has got no further"),
        (nothing, ["--date", "2020-01-01"], "no archive of 2020-01-01"),
        (nothing, [], "name archives, a --date"),
        (nothing, ["a.tar", "--all"], "not both"),
    ],
)
def test_what_no_run_could_do_is_refused_and_nothing_is_out_of_date(
    place: Place, happens: Any, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    happens(place)
    before = current(place, "a.tar")
    assert call(place, *arguments) == 2
    assert said.replace("\\", "") in capsys.readouterr().err
    assert current(place, "a.tar") == before
    assert list(requests(place.volume)) == []


def test_no_date_is_refused_by_what_a_date_looks_like(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(place, "--date", "yesterday")
    assert "'yesterday' is no date; write 2026-11-30" in capsys.readouterr().err


def take(feed: Queue[Any]) -> Any:
    """The next thing of a feed, which fills itself beside this."""
    while True:
        try:
            return feed.get_nowait()
        except Empty:
            continue


@pytest.mark.parametrize("meant", [["--all"], ["--date", "DATE"]])
def test_of_all_archives_one_that_cannot_be_done_again_is_left_out_and_told(
    place: Place, meant: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    date = date_of(place)
    place.volume.transcripts("large-v2", date, "a.tar").unlink()  # its texts are past their age
    meant = [date if word == "DATE" else word for word in meant]
    assert call(place, *meant, "--stage", "classify") == 0
    assert [request.archive for request in requests(place.volume)] == ["b.tar"]
    assert "left out: a.tar has no transcripts large-v2" in capsys.readouterr().err


def test_where_none_of_all_archives_can_be_done_again_that_is_an_error(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.tar", "b.tar"):
        place.volume.transcripts("large-v2", date_of(place), name).unlink()
    assert call(place, "--all", "--stage", "classify") == 2
    assert "none of 2 archives can be done again from classify on" in capsys.readouterr().err
    assert list(requests(place.volume)) == []


def test_a_living_driver_that_has_done_it_ends_so_that_the_next_one_does_it_again(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path, tmp_path / "volume")
    intake = {"batch": 1, "poll_seconds": 1, "latency_minutes": 0}
    known = configuration.read(place.file).source
    place.configure(
        source={"kind": "folder", "directory": known.directory} | intake,
        asr={"name": "large-v2"},
        classify={"policy": "2026-11"},
    )
    for name, age_seconds in (("a.tar", 9000), ("b.tar", 8000), ("c.tar", 7000)):
        place.put(name, age_seconds)
    settings = configuration.read(place.file)
    catalogue.discover(source_of(settings), place.volume, settings.source)
    feed = Feed(settings, failed=set)
    first = Path(take(feed))
    assert first.stem == "a.tar"
    date = first.parent.name.removeprefix("date=")
    make(place, "a.tar", date)
    assert Path(take(feed)).stem == "b.tar"  # it has seen that the first is done
    with locks.exclusive(place.volume.driver_lock):
        assert call(place, "a.tar") == 0
        assert take(feed) is feed.end


def test_only_what_is_wanted_is_made_again_and_with_the_same_result(
    tmp_path: Path, volume: Path, finished: Path, small_source: Path
) -> None:
    copy_volume(finished, volume)
    source = tmp_path / "source"
    source.mkdir()
    run = Run(tmp_path, volume, source={"directory": str(source)})
    before = run.query(ROWS)
    (transcripts,) = volume.glob("transcripts/*/*/small.tar.parquet")
    (manifest,) = volume.glob("manifests/*/small.tar.parquet")
    made_at = manifest.stat().st_mtime_ns
    command = ["redo", "--configfile", str(run.configfile), "small.tar", "--stage", "transcribe"]
    for _ in range(2):  # the second time Snakemake knows the checksums of what it read
        assert cli.main(command) == 0  # the source is empty
        code, said = run.finish()
        assert code == 0, said
        ran = set(re.findall(r"\| (\w+)@\S+ \| small\.tar: done", said))
        assert ran == {"transcribe_audio", "classify_transcripts", "load_pg"}
        assert manifest.stat().st_mtime_ns == made_at
        assert transcripts.stat().st_mtime > 1
        assert run.query(ROWS) == before

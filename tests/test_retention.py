"""What is removed, and above all what is not."""

import os
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from example_receipt import example
from hypothesis import given
from hypothesis import strategies as st
from place import Place
from ssh_host import ALIAS, SshHost

from earmark import locks, receipts
from earmark.driver.retention import delete_at_source, expire_rows, leftovers, remove, sweep
from earmark.files import partial_path
from earmark.ingest.catalogue import Archive, poll
from earmark.ingest.source import FolderSource, SshSource
from earmark.record.database import connect
from earmark.settings import RetentionSettings
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, write_table
from earmark.volume import ARCHIVE_NAME, Volume

DAY = 86_400.0
DATE = "2026-11-01"
NOON = 1_793_534_400  # of that day


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    (tmp_path / "source").mkdir()
    return FolderSource(tmp_path / "source")


def offer(source: FolderSource, volume: Volume, *names: str) -> list[Archive]:
    """Put archives at the source and find them."""
    for name in names:
        path = source.folder / name
        path.write_bytes(b"tar")
        os.utime(path, (NOON, NOON))
    return poll(source, volume, 0).archives


def put(path: Path, content: bytes = b"x", days_old: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    age(path, days_old)
    return path


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def receive(volume: Volume, archive: str, days_old: float = 0, status: str = "ok") -> Path:
    path = put(volume.receipt(DATE, archive), days_old=days_old)
    receipts.write(path, example(archive=archive, status=status))
    age(path, days_old)
    return path


def found(volume: Volume, archives: list[Archive], **ages) -> dict[str, str]:
    """What is left over, by its path on the volume."""
    return {
        item.path.relative_to(volume.root).as_posix(): item.reason
        for item in leftovers(volume, archives, RetentionSettings(**ages))
    }


# After each run


def test_a_fetched_archive_goes_once_its_receipt_exists(
    volume: Volume, source: FolderSource
) -> None:
    archives = offer(source, volume, "done.tar", "pending.tar")
    for archive in archives:
        put(volume.incoming(archive.name))
    receive(volume, "done.tar")
    sweep(volume, archives, RetentionSettings())
    assert [path.name for path in volume.incoming("").iterdir()] == ["pending.tar"]


def test_fetched_archives_stay_if_that_is_wanted(volume: Volume, source: FolderSource) -> None:
    archives = offer(source, volume, "done.tar")
    put(volume.incoming("done.tar"))
    receive(volume, "done.tar")
    sweep(volume, archives, RetentionSettings(archives="keep"))
    assert volume.incoming("done.tar").exists()


def test_an_archive_that_replaces_one_that_is_done_stays_until_it_is_done_itself(
    volume: Volume, source: FolderSource
) -> None:
    offer(source, volume, "a.tar")
    receive(volume, "a.tar", days_old=1)
    (source.folder / "a.tar").write_bytes(b"another")
    os.utime(source.folder / "a.tar", (NOON + 60, NOON + 60))
    archives = poll(source, volume, 0).archives
    put(volume.incoming("a.tar"), b"another")
    sweep(volume, archives, RetentionSettings())
    assert volume.incoming("a.tar").exists()


def test_what_killed_runs_left_goes_and_what_the_next_run_needs_stays(
    volume: Volume, source: FolderSource
) -> None:
    archives = offer(source, volume, "done.tar", "pending.tar")
    receive(volume, "done.tar")
    gone = [
        put(volume.unpacked("done.tar") / "000000").parent,
        put(volume.unpacked("vanished.tar") / "000000").parent,
        put(volume.unpacked(".pending.tar.12.partial") / "000000").parent,
        put(volume.transfer("done.tar", "abc")),
        put(volume.transfer("vanished.tar", "abc")),
        put(volume.checkpoint("done.tar", "transcribe_audio") / "abc/000000.parquet"),
        put(volume.checkpoint("vanished.tar", "transcribe_audio") / "abc/000000.parquet"),
        put(volume.manifest(DATE, "pending.tar").with_name(".pending.tar.parquet.12.partial")),
        put(volume.incoming(".pending.tar.77.partial")),
        put(volume.archive_lock("done.tar")),
    ]
    kept = [
        put(volume.unpacked("pending.tar") / "000000"),
        put(volume.transfer("pending.tar", "abc")),
        put(volume.checkpoint("pending.tar", "transcribe_audio") / "abc/000000.parquet"),
        put(volume.incoming("pending.tar")),
        put(volume.manifest(DATE, "pending.tar")),
        put(volume.archive_lock("pending.tar")),
    ]
    sweep(volume, archives, RetentionSettings())
    assert [path for path in gone if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []


def test_nothing_that_somebody_works_on_is_touched(volume: Volume, source: FolderSource) -> None:
    archives = offer(source, volume, "a.tar")
    receive(volume, "a.tar", days_old=100)
    kept = [
        put(volume.incoming("a.tar")),
        put(volume.unpacked("a.tar") / "000000"),
        put(volume.transfer("a.tar", "abc")),
        put(volume.checkpoint("a.tar", "transcribe_audio") / "abc/000000.parquet"),
    ]
    with locks.exclusive(volume.archive_lock("a.tar")):
        sweep(volume, archives, RetentionSettings())
        assert found(volume, archives, audio_days=1) == {}
    assert all(path.exists() for path in kept)


#: Names that look like a name of something half written, or like an archive and what is made of it.
ODD = [
    "a",
    "a.1",
    "a.tar",
    "a.tar.1",
    "a.json",
    "a.parquet",
    "a.parquet.1",
    "a.1.partial",
    "a.lock",
]
NAMES = st.sampled_from(ODD) | st.from_regex(ARCHIVE_NAME, fullmatch=True).filter(
    lambda name: not name.endswith((" ", "."))
)


@given(st.sets(NAMES, min_size=2, max_size=6), st.data())
def test_whatever_an_archive_is_called_only_what_nobody_works_on_is_removed(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], data: st.DataObject
) -> None:
    volume = Volume(tmp_path_factory.mktemp("volume"))
    archives = [Archive(name, 1, NOON * 10**9) for name in sorted(names)]
    at_work = data.draw(st.sampled_from(sorted(names)))
    half_written = {
        name: [
            put(partial_path(volume.incoming(name))),
            put(partial_path(volume.unpacked(name)) / "000000").parent,
            put(partial_path(volume.manifest(DATE, name))),
            put(partial_path(volume.transcripts("large-v2", DATE, name))),
            put(partial_path(volume.receipt(DATE, name))),
        ]
        for name in names
    }
    needed = [
        path
        for name in names
        for path in (
            put(volume.unpacked(name) / "000000").parent,
            put(volume.transfer(name, "abc")),
            put(volume.checkpoint(name, "transcribe_audio") / "abc/000000.parquet"),
            put(volume.incoming(name)),
        )
    ]
    with locks.exclusive(volume.archive_lock(at_work)):
        sweep(volume, archives, RetentionSettings())
    left = {name: [path.exists() for path in paths] for name, paths in half_written.items()}
    assert left == {name: [name == at_work] * 5 for name in names}
    assert all(path.exists() for path in needed)


def test_what_somebody_began_to_work_on_after_it_was_found_stays(
    volume: Volume, source: FolderSource
) -> None:
    archives = offer(source, volume, "a.tar", "b.tar")
    receive(volume, "a.tar")
    receive(volume, "b.tar")
    kept, gone = put(volume.incoming("a.tar")), put(volume.incoming("b.tar"))
    found = list(leftovers(volume, archives, RetentionSettings()))
    with locks.exclusive(volume.archive_lock("a.tar")):
        removed = [leftover.path for leftover, _ in remove(found, volume)]
    assert removed == [gone]
    assert kept.exists()


def test_what_took_the_place_of_something_left_over_stays(
    volume: Volume, source: FolderSource
) -> None:
    archives = offer(source, volume, "a.tar")
    receive(volume, "a.tar")
    path = put(volume.incoming("a.tar"), b"the old archive")
    found = list(leftovers(volume, archives, RetentionSettings()))
    put(path.with_name("b"), b"another one of this name").replace(path)
    assert list(remove(found, volume)) == []
    assert path.exists()


# With age


def test_what_was_fetched_or_encoded_of_a_vanished_archive_goes_after_some_days(
    volume: Volume, source: FolderSource
) -> None:
    archives = offer(source, volume, "pending.tar")
    put(volume.incoming("pending.tar"), days_old=100)
    old, young = put(volume.incoming("old.tar"), days_old=8), put(volume.incoming("young.tar"))
    put(volume.audio(DATE, "old.tar") / "000000.opus")
    age(volume.audio(DATE, "old.tar"), 8)
    put(volume.audio(DATE, "pending.tar") / "000000.opus")
    age(volume.audio(DATE, "pending.tar"), 8)
    sweep(volume, archives, RetentionSettings())
    assert old.exists()
    assert young.exists()
    assert found(volume, archives, abandoned_days=7).keys() == {f"audio/date={DATE}/old.tar"}
    # What is fetched is as old as it was at the source; it came just now.
    assert found(volume, archives, abandoned_days=1e-9).keys() == {
        *("incoming/old.tar", "incoming/young.tar", f"audio/date={DATE}/old.tar"),
    }


STATUSES = {None: "failed", "unasked": "unasked"}
FLAGS = {True: True, False: False}


def make_results(volume: Volume, archive: str, verdicts: list[list], days_old: float) -> None:
    """An archive that is done: a clip per entry, each with one verdict per policy set."""
    rows = []
    for ordinal in range(len(verdicts)):
        opus = put(volume.audio(DATE, archive) / f"{ordinal:06d}.opus", bytes(1000))
        rows.append(
            {
                "archive": archive, "ordinal": ordinal, "member": "x", "source_bytes": 1,
                "opus_path": opus.relative_to(volume.root).as_posix(), "status": "ok",
                "selected": True, "inclusion_probability": 1.0,
            }
        )  # fmt: skip
    write_table(volume.manifest(DATE, archive), MANIFEST, rows, {})
    for policy in range(len(verdicts[0])):
        classes = [
            {
                "archive": archive, "ordinal": ordinal, "category": "scams", "threshold": 0.5,
                "flagged": FLAGS.get(verdict[policy]), "truncated": False, "answer": "logits",
                "status": STATUSES.get(verdict[policy], "ok"),
            }
            for ordinal, verdict in enumerate(verdicts)
            if verdict[policy] != "none"
        ]  # fmt: skip
        write_table(volume.classes(f"set{policy}", DATE, archive), CLASSES, classes, {})
    receive(volume, archive, days_old)


def test_only_audio_that_no_policy_ever_flagged_or_left_open_goes(
    volume: Volume, source: FolderSource
) -> None:
    verdicts: list[list] = [
        [False, False],
        [True, False],
        [False, True],
        [None, False],
        ["none", "none"],
        ["unasked", False],
        ["unasked", True],
    ]
    make_results(volume, "old.tar", verdicts, days_old=31)
    make_results(volume, "young.tar", verdicts, days_old=29)
    expired = found(volume, [], audio_days=30)
    assert expired.keys() == {
        f"audio/date={DATE}/old.tar/000000.opus",
        f"audio/date={DATE}/old.tar/000004.opus",
        f"audio/date={DATE}/old.tar/000005.opus",
    }
    assert set(expired.values()) == {"audio never flagged, older than 30 days"}
    assert found(volume, [], audio_days=None) == {}


def test_flagged_audio_has_an_age_of_its_own(volume: Volume) -> None:
    make_results(volume, "old.tar", [[False], [True], [None]], days_old=31)
    folder = f"audio/date={DATE}/old.tar"
    flagged = {f"{folder}/000001.opus", f"{folder}/000002.opus"}
    assert found(volume, [], flagged_audio_days=30).keys() == flagged
    assert found(volume, [], flagged_audio_days=40) == {}
    assert found(volume, [], audio_days=10, flagged_audio_days=40).keys() == {
        f"{folder}/000000.opus"
    }


def test_texts_go_at_their_age_and_audio_whose_verdict_is_gone_counts_as_flagged(
    volume: Volume,
) -> None:
    make_results(volume, "old.tar", [[False], [True]], days_old=31)
    make_results(volume, "young.tar", [[False]], days_old=29)
    write_table(volume.transcripts("x", DATE, "old.tar"), TRANSCRIPTS, [], {})
    expired = found(volume, [], text_days=30)
    assert expired.keys() == {
        f"transcripts/asr=x/date={DATE}/old.tar.parquet",
        f"classes/policy=set0/date={DATE}/old.tar.parquet",
    }
    assert len(list(remove(leftovers(volume, [], RetentionSettings(text_days=30)), volume))) == 2
    assert found(volume, [], audio_days=30) == {}
    assert len(found(volume, [], audio_days=1, flagged_audio_days=30)) == 3
    assert volume.manifest(DATE, "old.tar").exists()


def test_reports_and_logs_go_at_their_ages_but_never_the_log_of_erasures(volume: Volume) -> None:
    old = time.time() - 31 * 86_400
    report = volume.report("2026-10-01")
    logs = [volume.log("encode_opus", "a.tar", DATE), volume.root / "logs" / "erasures.log"]
    for path in (report, *logs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (old, old))
    os.utime(report.parent, (old, old))
    volume.report("2026-11-01").parent.mkdir(parents=True)
    assert found(volume, [], reports_days=30).keys() == {"reports/2026-10-01"}
    assert found(volume, [], logs_days=30).keys() == {str(logs[0].relative_to(volume.root))}
    assert found(volume, []) == {}


def test_clips_leave_the_database_at_their_age_but_for_those_that_people_decided_about(
    tmp_path: Path, volume: Volume, migrated_database: str
) -> None:
    place = Place(tmp_path, volume.root)
    for name, days in (("old.tar", 31), ("young.tar", 29)):
        place.finish(migrated_database, name, flagged=2, clean=3)
        with connect(migrated_database) as connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE archives SET loaded_at = now() - %s * INTERVAL '1 day' WHERE name = %s",
                [days, name],
            )
    with connect(migrated_database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE audio_files SET status = 'reviewed' WHERE archive_source = 'old.tar' "
            "AND ordinal = 0"
        )
        cursor.execute(  # one that came back to the queue
            "WITH ada AS (INSERT INTO reviewers (name, role, password_hash) "
            "VALUES ('ada', 'reviewer', '') RETURNING id) "
            "INSERT INTO review_decisions "
            "(audio_file_id, reviewer_id, round, chosen_by, verdict, claimed_at) "
            "SELECT f.id, ada.id, 'first', 'score', 'undone', now() FROM audio_files f, ada "
            "WHERE archive_source = 'old.tar' AND ordinal = 1"
        )
    assert expire_rows(migrated_database, 30, dry_run=True) == 3
    assert expire_rows(migrated_database, 30) == 3
    assert expire_rows(migrated_database, 30) == 0
    with connect(migrated_database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT archive_source, f.status, count(*), count(t.id) FROM audio_files f LEFT JOIN "
            "transcripts t ON t.audio_file_id = f.id GROUP BY 1, 2 ORDER BY 1, 2"
        )
        assert cursor.fetchall() == [
            ("old.tar", "flagged", 1, 1),
            ("old.tar", "reviewed", 1, 1),
            ("young.tar", "flagged", 2, 2),
            ("young.tar", "transcribed", 3, 3),
        ]


def test_the_folder_of_an_archive_goes_with_its_last_audio(volume: Volume) -> None:
    make_results(volume, "a.tar", [[False], [False]], days_old=31)
    expired = leftovers(volume, [], RetentionSettings(audio_days=30))
    assert [size for _, size in remove(expired, volume)] == [1000, 1000]
    assert not volume.audio(DATE, "a.tar").exists()
    assert found(volume, [], audio_days=30) == {}
    assert volume.manifest(DATE, "a.tar").exists()


def test_an_archive_whose_tables_are_damaged_keeps_its_audio(
    volume: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    make_results(volume, "a.tar", [[False]], days_old=31)
    volume.classes("set0", DATE, "a.tar").write_bytes(b"damaged")
    assert found(volume, [], audio_days=30) == {}
    assert "the audio of a.tar stays" in caplog.text


def test_audio_without_a_receipt_stays_however_old(volume: Volume) -> None:
    make_results(volume, "a.tar", [[False]], days_old=31)
    volume.receipt(DATE, "a.tar").unlink()
    assert found(volume, [], audio_days=30) == {}


# At the source


@pytest.mark.needs("ssh", "sshd")
@pytest.mark.parametrize("kind", ["folder", "ssh"])
def test_only_what_is_done_and_unchanged_is_deleted_at_the_source(
    tmp_path: Path, volume: Volume, source: FolderSource, kind: str
) -> None:
    offer(source, volume, "done.tar", "pending.tar", "replaced.tar", "two words.tar", "é.tar")
    offer(source, volume, "partial.tar", "failed.tar", "unread.tar")
    archives = poll(source, volume, 0).archives
    for name in ("done.tar", "replaced.tar", "two words.tar"):
        receive(volume, name)
    for status in ("partial", "failed"):
        receive(volume, f"{status}.tar", status=status)
    put(volume.receipt(DATE, "unread.tar"), b"{}")
    (source.folder / "replaced.tar").write_bytes(b"new")
    if kind == "folder":
        deleted = delete_at_source(source, volume, archives)
    else:
        host = SshHost(tmp_path / "host")
        over_ssh = SshSource(ALIAS, host.ssh_config, str(source.folder))
        deleted = delete_at_source(over_ssh, volume, archives)
        host.stop()
        assert delete_at_source(over_ssh, volume, archives) == []  # a warning and no more
        host.close()
    assert sorted(deleted) == ["done.tar", "two words.tar"]
    left = sorted(path.name for path in source.folder.iterdir())
    kept = ["failed.tar", "partial.tar", "pending.tar", "replaced.tar", "unread.tar", "é.tar"]
    assert left == kept


def test_a_receipt_is_never_removed(volume: Volume) -> None:
    make_results(volume, "a.tar", [[False]], days_old=1000)
    receipt = volume.receipt(DATE, "a.tar").read_bytes()
    settings = RetentionSettings(audio_days=0.1, abandoned_days=0)
    assert list(remove(leftovers(volume, [], settings), volume))
    assert volume.receipt(DATE, "a.tar").read_bytes() == receipt
    assert volume.classes("set0", DATE, "a.tar").exists()


@pytest.mark.needs("ssh", "sshd")
def test_a_long_history_is_deleted_in_parts_and_a_lost_connection_loses_no_line_of_the_log(
    tmp_path: Path,
    volume: Volume,
    source: FolderSource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = {f"{number}.tar" for number in range(7)}
    offer(source, volume, *names)
    archives = poll(source, volume, 0).archives
    for name in names:
        receive(volume, name)
    monkeypatch.setattr("earmark.ingest.source._DELETED_AT_ONCE", 2)
    caplog.set_level("INFO", "earmark")
    with closing(SshHost(tmp_path / "host")) as host:
        over_ssh = SshSource(ALIAS, host.ssh_config, str(source.folder))
        call, calls = SshSource._call, []

        def lose_the_second(*arguments: Any) -> bytes:
            calls.append(arguments)
            if len(calls) == 2:
                host.stop()
            return call(*arguments)

        monkeypatch.setattr(SshSource, "_call", lose_the_second)
        first = set(delete_at_source(over_ssh, volume, archives))
        assert len(first) == 2
        left = {path.name for path in source.folder.iterdir()}
        assert left == names - first
        assert "5 archives that are done stay there" in caplog.text
        host.start()
        assert set(delete_at_source(over_ssh, volume, archives)) == left
    logged = [r.getMessage().split(":")[0] for r in caplog.records if "deleted from" in r.message]
    assert sorted(logged) == sorted(names)


@pytest.mark.needs("ssh", "sshd", "root")
def test_one_that_the_host_cannot_delete_keeps_no_other_from_being_told(
    tmp_path: Path, volume: Volume, source: FolderSource
) -> None:
    offer(source, volume, "a.tar", "b.tar")
    archives = poll(source, volume, 0).archives
    for name in ("a.tar", "b.tar"):
        receive(volume, name)
    with closing(SshHost(tmp_path / "host")) as host:
        over_ssh = SshSource(ALIAS, host.ssh_config, str(source.folder))
        busy = source.folder / "b.tar"  # what something is mounted on can't be removed
        subprocess.run(["mount", "--bind", busy, busy], check=True)
        try:
            assert delete_at_source(over_ssh, volume, archives) == ["a.tar"]
        finally:
            subprocess.run(["umount", busy], check=True)

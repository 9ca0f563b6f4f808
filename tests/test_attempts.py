"""Attempts and quarantine: what is counted, what is not, and when an archive is given up."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from earmark.driver import attempts, quarantine
from earmark.driver.attempts import failures
from earmark.driver.stages import stage
from earmark.errors import EarmarkError, SetupError, UnavailableError
from earmark.ingest import catalogue
from earmark.ingest.catalogue import Archive
from earmark.ingest.source import FolderSource
from earmark.record.database import connect
from earmark.volume import Volume

ARCHIVE = Archive("a.tar", 1000, 1_700_000_000 * 10**9, confirmed=True)
NAME = ARCHIVE.name

#: A stage in a process of its own, which says when it is at work.
STAGE = """
import sys, time
from pathlib import Path
from earmark.ingest.source import FolderSource
from earmark.driver.stages import stage
from earmark.volume import Volume
volume = Volume(Path(sys.argv[1]))
with stage("encode_opus", "a.tar", volume, volume.log("encode_opus", "a.tar")) as lock:
    lock.renew(waits_for=sys.argv[2])
    print("at work", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def shared(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def work(shared: Volume, error: BaseException | None = None, name: str = "encode_opus") -> None:
    """Go through a stage, and end it with an error if one is given."""
    with stage(name, NAME, shared, shared.log(name, NAME)):
        if error:
            raise error


def fail(shared: Volume, error: BaseException, name: str = "encode_opus") -> None:
    with pytest.raises((SystemExit, type(error))):
        work(shared, error, name)


def killed(shared: Volume, waits_for: str = "") -> None:
    """Start a stage in another process and kill it at work, or while it waits."""
    before = failures(shared, NAME)
    command = [sys.executable, "-c", STAGE, str(shared.root), waits_for]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        meanwhile = failures(shared, NAME)
        process.send_signal(signal.SIGKILL)
    assert meanwhile == before  # one that is at work is no failure


def test_a_stage_that_succeeds_leaves_no_account(shared: Volume) -> None:
    work(shared)
    assert failures(shared, NAME) == []
    assert attempts.tried(shared) == []


def test_a_stage_that_was_killed_is_a_failure_as_soon_as_it_is_dead(shared: Volume) -> None:
    killed(shared)
    (failure,) = failures(shared, NAME)
    assert (failure.stage, failure.reason) == ("encode_opus", "its process ended without a word")
    assert failure.counts
    killed(shared)
    assert len(failures(shared, NAME)) == 2


@pytest.mark.parametrize("seen_at_once", [True, False])
def test_a_stage_that_was_killed_while_it_waited_does_not_count(
    shared: Volume, seen_at_once: bool
) -> None:
    killed(shared, waits_for="room")
    if seen_at_once:
        assert [failure.counts for failure in failures(shared, NAME)] == [False]
    killed(shared)
    assert [failure.counts for failure in failures(shared, NAME)] == [False, True]


def test_an_attempt_that_could_not_be_written_down_leaves_the_former_one_as_it_was(
    shared: Volume,
) -> None:
    fail(shared, ValueError("one"))
    attempts.fail(shared, NAME, "two", counts=True)
    assert [failure.reason for failure in failures(shared, NAME)] == ["ValueError: one"]


def test_success_forgives_the_failures_of_that_stage_alone(shared: Volume) -> None:
    fail(shared, ValueError("one"), "fetch_archive")
    fail(shared, ValueError("two"), "encode_opus")
    work(shared, name="encode_opus")
    assert [failure.reason for failure in failures(shared, NAME)] == ["ValueError: one"]


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (RuntimeError("CUDA error"), True),
        (EarmarkError("the file can't be read"), True),
        (UnavailableError("the source doesn't answer"), False),
        (SetupError("a policy was edited under its old name"), False),
        (OSError(28, "No space left on device"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_what_an_archive_may_be_to_blame_for_counts(
    shared: Volume, error: BaseException, counts: bool
) -> None:
    fail(shared, error)
    (failure,) = failures(shared, NAME)
    assert failure.counts == counts


def test_a_stage_that_died_with_its_driver_does_not_count(shared: Volume) -> None:
    driver = "import signal, sys; from pathlib import Path; from earmark import locks\n"
    driver += "locks.hold_until_exit(Path(sys.argv[1])); print('holds', flush=True); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", driver, str(shared.driver_lock)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        killed(shared)
        assert failures(shared, NAME)[0].counts
        process.kill()
    assert [each.counts for each in failures(shared, NAME)] == [False]


def test_a_damaged_account_is_begun_anew(shared: Volume) -> None:
    path = shared.attempts(NAME)
    path.parent.mkdir(parents=True)
    path.write_text("{not JSON")
    fail(shared, ValueError("one"))
    path.write_text(path.read_text().replace('"process": ', '"process": "no number", "was": '))
    fail(shared, ValueError("one"))
    assert len(failures(shared, NAME)) == 1


def test_a_failure_counts_even_if_its_reason_quotes_a_name_that_is_no_utf8(shared: Volume) -> None:
    fail(shared, ValueError("no file \udcff"))
    assert "\\udcff" in (failures(shared, NAME)[0].reason or "")
    assert [each.archive for each in quarantine.give_up(shared, [ARCHIVE], 1)] == [NAME]
    assert "\\udcff" in quarantine.in_quarantine(shared)[0].reason


def test_an_archive_is_given_up_after_so_many_failures_of_one_stage(shared: Volume) -> None:
    for number in range(3):
        assert quarantine.give_up(shared, [ARCHIVE], 3) == []
        fail(shared, ValueError(f"number {number}"))
    fail(shared, ValueError("elsewhere"), "fetch_archive")
    (given_up,) = quarantine.give_up(shared, [ARCHIVE], 3)
    assert quarantine.in_quarantine(shared) == [given_up]
    assert (given_up.archive, given_up.stage) == (NAME, "encode_opus")
    assert given_up.reason == "encode_opus: ValueError: number 2"
    assert "number 2" in given_up.log_tail
    assert [each["reason"] for each in given_up.attempts] == [
        *(f"ValueError: number {number}" for number in range(3)),
        "ValueError: elsewhere",
    ]
    assert not catalogue.is_pending(ARCHIVE, shared)
    assert quarantine.give_up(shared, [ARCHIVE], 3) == []


def test_a_preview_of_what_is_given_up_changes_nothing(shared: Volume) -> None:
    fail(shared, ValueError("no"))
    (due,) = quarantine.failed_too_often(shared, [ARCHIVE], 1)
    assert due.archive == NAME
    assert quarantine.in_quarantine(shared) == []


def test_failures_of_an_archive_do_not_count_against_the_one_that_replaced_it(
    shared: Volume,
) -> None:
    fail(shared, ValueError("no"))
    assert quarantine.give_up(shared, [replace(ARCHIVE, noted_at=time.time())], 1) == []


def test_failures_that_do_not_count_give_nothing_up(shared: Volume) -> None:
    for _ in range(5):
        fail(shared, UnavailableError("the database is away"))
    assert quarantine.give_up(shared, [ARCHIVE], 1) == []


def test_no_stage_works_on_an_archive_in_quarantine(shared: Volume) -> None:
    fail(shared, ValueError("no"))
    quarantine.give_up(shared, [ARCHIVE], 1)
    with pytest.raises(SystemExit):
        work(shared)
    assert f"earmark retry {NAME}" in shared.log("encode_opus", NAME).read_text()


def test_a_released_archive_is_pending_and_has_all_its_attempts_again(shared: Volume) -> None:
    fail(shared, ValueError("no"))
    quarantine.give_up(shared, [ARCHIVE], 1)
    quarantine.release(shared, [NAME])
    assert catalogue.is_pending(ARCHIVE, shared)
    assert quarantine.give_up(shared, [ARCHIVE], 1) == []
    work(shared)


def test_releasing_what_is_not_in_quarantine_releases_nothing(shared: Volume) -> None:
    fail(shared, ValueError("no"))
    quarantine.give_up(shared, [ARCHIVE], 1)
    with pytest.raises(EarmarkError, match=r"'b\.tar' is not in quarantine; in it: a\.tar"):
        quarantine.release(shared, [NAME, "b.tar"])
    assert [each.archive for each in quarantine.in_quarantine(shared)] == [NAME]


def test_a_copied_file_holds_the_archive_of_its_own_name(shared: Volume) -> None:
    fail(shared, ValueError("no"))
    quarantine.give_up(shared, [ARCHIVE], 1)
    shutil.copy(shared.quarantine(NAME), shared.quarantine("b.tar"))
    quarantine.release(shared, ["b.tar"])
    assert [each.archive for each in quarantine.in_quarantine(shared)] == [NAME]


_NESTED = "[" * 200_000  # deeper than a reader of JSON goes


def test_attempts_that_cannot_be_read_are_counted_anew(shared: Volume) -> None:
    fail(shared, ValueError("no"))
    for text in ("", "{}", _NESTED):
        shared.attempts(NAME).write_text(text)
        assert quarantine.give_up(shared, [ARCHIVE], 1) == []


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"archive": "a.tar", "odd": 1}', _NESTED],
    ids=["empty", "no facts", "a list", "others", "nested"],
)  # fmt: skip
def test_a_person_may_put_an_archive_into_quarantine_by_any_file(
    shared: Volume, text: str, migrated_database: str
) -> None:
    shared.quarantine(NAME).parent.mkdir()
    shared.quarantine(NAME).write_text(text)
    (held,) = quarantine.in_quarantine(shared)
    assert (held.archive, held.reason) == (NAME, "put there by a person")
    quarantine.record(shared, migrated_database)
    quarantine.release(shared, [NAME])
    assert quarantine.in_quarantine(shared) == []


def rows(conninfo: str) -> list[tuple]:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT name, status, reason FROM archives ORDER BY name")
        return cursor.fetchall()


def test_the_database_says_what_is_in_quarantine_and_what_is_not_any_more(
    shared: Volume, migrated_database: str
) -> None:
    fail(shared, ValueError("no"))
    quarantine.give_up(shared, [ARCHIVE], 1)
    for _ in range(2):  # recording twice changes nothing
        quarantine.record(shared, migrated_database)
        assert rows(migrated_database) == [(NAME, "quarantined", "encode_opus: ValueError: no")]
    quarantine.release(shared, [NAME])
    quarantine.record(shared, migrated_database)
    assert rows(migrated_database) == []


def test_a_release_leaves_the_clips_of_an_earlier_load(
    shared: Volume, migrated_database: str
) -> None:
    with connect(migrated_database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO archives (id, name, date, status) VALUES (7, %s, %s, 'ok');"
            "INSERT INTO audio_files (original_filename, archive_id, ordinal) VALUES ('x', 7, 0)",
            [NAME, ARCHIVE.date],
        )
    fail(shared, ValueError("no"))
    quarantine.give_up(shared, [ARCHIVE], 1)
    quarantine.record(shared, migrated_database)
    assert rows(migrated_database)[0][1] == "quarantined"
    quarantine.release(shared, [NAME])
    quarantine.record(shared, migrated_database)
    assert rows(migrated_database) == [(NAME, "partial", "released from quarantine")]


@pytest.mark.slow
def test_a_database_that_is_away_stops_no_quarantine(
    shared: Volume, capfd: pytest.CaptureFixture[str]
) -> None:
    fail(shared, ValueError("no"))
    quarantine.give_up(shared, [ARCHIVE], 1)
    quarantine.record(shared, "host=127.0.0.1 port=1 dbname=none user=none")
    assert "the database does not know yet" in capfd.readouterr().err


def test_a_source_folder_that_is_gone_is_no_archives_fault(tmp_path: Path) -> None:
    source = FolderSource(tmp_path / "gone")
    with pytest.raises(UnavailableError, match="is gone"):
        source.copy(NAME, tmp_path / "partial", 10, [])
    with pytest.raises(UnavailableError, match="cannot be used"):
        source.files()

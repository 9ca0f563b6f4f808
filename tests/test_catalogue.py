"""The catalogue: which archives there are, and which of them are to be done."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from example_receipt import example
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earmark import locks, receipts
from earmark.errors import EarmarkError
from earmark.ingest import catalogue
from earmark.ingest.catalogue import Archive, plan_run, poll
from earmark.ingest.fetch import FETCHING, fetch_archive
from earmark.ingest.source import FolderSource, Listed, SourceUnreachableError
from earmark.settings import DiskSpaceLimits, SourceSettings, TransferSettings
from earmark.tables import MANIFEST, write_table
from earmark.volume import Volume

NOON = 1_793_534_400  # 2026-11-01 12:00 UTC
DAY = 86_400.0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")


def put(source: Path, name: str, content: bytes = b"tar", modified: float = NOON) -> Path:
    path = source / name
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


def receive(volume: Volume, archive: Archive) -> None:
    facts = {"bytes": archive.bytes, "modified_ns": archive.modified_ns}
    told = example(archive=archive.name, date=archive.date, **facts)
    receipts.write(volume.receipt(archive.date, archive.name), told)


def discover(source: Path, volume: Volume) -> list[Archive]:
    """Poll a folder whose archives count as soon as they are seen."""
    return poll(FolderSource(source), volume, poll_seconds=0).archives


def pending(archives: list[Archive], volume: Volume, latency_minutes: float) -> list[Archive]:
    return plan_run(archives, volume, SourceSettings(latency_minutes=latency_minutes)).now


def names(archives: list[Archive]) -> list[str]:
    return [archive.name for archive in archives]


def test_archives_are_listed_oldest_first_with_the_day_of_their_last_change(
    source: Path, volume: Volume
) -> None:
    put(source, "new.tar", modified=NOON)
    put(source, "old.tar.gz", modified=NOON - 86_400)
    archives = discover(source, volume)
    assert [(a.name, a.date) for a in archives] == [
        ("old.tar.gz", "2026-10-31"),
        ("new.tar", "2026-11-01"),
    ]


def test_what_is_hidden_or_no_file_is_no_archive(source: Path, volume: Volume) -> None:
    put(source, ".uploading.tar.Xy12")
    (source / "folder.tar").mkdir()
    assert discover(source, volume) == []


def test_jobs_read_what_the_driver_found(source: Path, volume: Volume) -> None:
    put(source, "a.tar")
    assert catalogue.read(volume).archives == []
    found = discover(source, volume)
    assert catalogue.read(volume).archives == found


def test_a_finished_or_quarantined_archive_is_not_pending(source: Path, volume: Volume) -> None:
    for name in ("done.tar", "bad.tar", "left.tar"):
        put(source, name)
    archives = discover(source, volume)
    receive(volume, archives[1])
    assert archives[1].name == "done.tar"
    volume.quarantine("bad.tar").parent.mkdir(parents=True)
    volume.quarantine("bad.tar").write_text("{}")
    assert names(pending(archives, volume, 0)) == ["left.tar"]


def test_an_archive_that_changed_a_moment_ago_is_left_for_later(
    source: Path, volume: Volume
) -> None:
    put(source, "settled.tar")
    (source / "growing.tar").write_bytes(b"half")
    assert names(pending(discover(source, volume), volume, latency_minutes=10)) == ["settled.tar"]


def test_an_archive_from_a_source_whose_clock_is_ahead_waits_no_longer_than_others(
    source: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(source, "a.tar", modified=time.time() + DAY)
    archives = discover(source, volume)
    assert pending(archives, volume, latency_minutes=10) == []
    real = time.time
    monkeypatch.setattr("earmark.ingest.catalogue.time.time", lambda: real() + 11 * 60)
    assert names(pending(archives, volume, latency_minutes=10)) == ["a.tar"]


def test_an_archive_that_was_replaced_after_it_was_done_is_pending_again(
    source: Path, volume: Volume
) -> None:
    put(source, "a.tar")
    receive(volume, discover(source, volume)[0])
    put(source, "a.tar", b"another", modified=NOON + 86_400)
    assert names(pending(discover(source, volume), volume, 0)) == ["a.tar"]


def test_an_archive_that_was_replaced_on_the_same_day_is_pending_again(
    source: Path, volume: Volume
) -> None:
    put(source, "a.tar")
    receive(volume, discover(source, volume)[0])
    assert pending(discover(source, volume), volume, 0) == []
    put(source, "a.tar", b"grown", modified=NOON + 60)
    for _ in range(2):  # and stays so until it has been received again
        time.sleep(0.01)
        assert names(pending(discover(source, volume), volume, 0)) == ["a.tar"]
    receive(volume, discover(source, volume)[0])
    assert pending(discover(source, volume), volume, 0) == []


def test_a_lost_catalogue_does_not_make_finished_archives_pending(
    source: Path, volume: Volume
) -> None:
    put(source, "a.tar")
    receive(volume, discover(source, volume)[0])
    (volume.state / "catalogue.json").unlink()
    assert pending(discover(source, volume), volume, 0) == []


def test_an_entry_is_written_once_and_again_only_when_the_archive_changed(
    source: Path, volume: Volume
) -> None:
    put(source, "a.tar")
    discover(source, volume)
    first = volume.entry("a.tar").stat().st_mtime_ns
    discover(source, volume)
    assert volume.entry("a.tar").stat().st_mtime_ns == first
    put(source, "a.tar", b"grown", modified=NOON + 60)
    archives = discover(source, volume)
    assert volume.entry("a.tar").stat().st_mtime_ns > first
    receive(volume, archives[0])
    discover(source, volume)
    assert not volume.entry("a.tar").exists()


def test_the_catalogue_of_a_driver_at_work_is_left_alone(source: Path, volume: Volume) -> None:
    put(source, "a.tar")
    before = discover(source, volume)
    entry = volume.entry("a.tar").read_text()
    put(source, "a.tar", b"another", modified=NOON + 60)
    put(source, "b.tar")
    with locks.exclusive(volume.driver_lock):
        assert sorted(names(discover(source, volume))) == ["a.tar", "b.tar"]
        assert catalogue.read(volume).archives == before
        assert volume.entry("a.tar").read_text() == entry
        assert volume.entry("b.tar").exists()  # a dry run beside the driver can plan with it


def test_an_archive_that_is_being_worked_on_keeps_its_entry(source: Path, volume: Volume) -> None:
    path = put(source, "a.tar")
    before = discover(source, volume)
    volume.incoming("a.tar").parent.mkdir(parents=True)
    volume.incoming("a.tar").write_bytes(b"tar")
    path.unlink()
    assert discover(source, volume) == before
    put(source, "a.tar", b"another", modified=NOON + 86_400)
    assert discover(source, volume) == before


class Told(FolderSource):
    """A source that tells what a test says, for what no folder of this machine can hold."""

    def __init__(self, *listed: Listed) -> None:
        super().__init__(Path(f"told-{id(self)}"))
        self.listed: list[Listed] | None = list(listed)
        self.looks = 0

    def files(self) -> list[Listed]:
        self.looks += 1
        if self.listed is None:
            raise SourceUnreachableError("the host is asleep")
        return self.listed


def listed(name: str, size: int = 3, modified: float = NOON) -> Listed:
    return Listed(name, size, int(modified * 1e9))


def test_only_what_two_polls_saw_alike_is_taken(volume: Volume) -> None:
    source = Told(listed("growing.tar"), listed("settled.tar"))
    intake = SourceSettings(poll_seconds=0.05)
    first = poll(source, volume, 0.05).archives
    assert plan_run(first, volume, intake).unsettled == first
    at_once = poll(source, volume, 0.05).archives
    assert plan_run(at_once, volume, intake).now == []  # too soon to tell
    time.sleep(0.06)
    source.listed = [listed("growing.tar", 4), listed("settled.tar")]
    assert names(plan_run(poll(source, volume, 0.05).archives, volume, intake).now) == [
        "settled.tar"
    ]
    time.sleep(0.06)
    plan = plan_run(poll(source, volume, 0.05).archives, volume, intake)
    assert names(plan.now) == ["growing.tar", "settled.tar"]


def test_a_first_look_is_followed_by_a_second_one(volume: Volume) -> None:
    source = Told(listed("a.tar"))
    intake = SourceSettings(poll_seconds=0.3)
    found = catalogue.discover(source, volume, intake)
    assert source.looks == 2
    # They were far enough apart, or the second would have confirmed nothing.
    assert names(plan_run(found.archives, volume, intake).now) == ["a.tar"]
    source.listed = [listed("a.tar"), listed("b.tar")]
    found = catalogue.discover(source, volume, intake)
    assert source.looks == 3  # there is enough to do, the next run takes the new one
    assert names(plan_run(found.archives, volume, intake).now) == ["a.tar"]


def test_a_source_that_does_not_answer_is_a_warning_and_the_known_archives_go_on(
    volume: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    source = Told(listed("a.tar"))
    before = poll(source, volume, 0)
    source.listed = None
    now = poll(source, volume, 0)
    assert now.archives == before.archives
    assert now.checked_at == before.checked_at
    assert now.problem == "the host is asleep"
    assert catalogue.read(volume) == now
    assert "the host is asleep; going on with 1 known archive" in caplog.text
    source.listed = []
    assert poll(source, volume, 0).problem is None


def test_what_was_known_of_another_source_is_not_taken_for_this_ones(volume: Volume) -> None:
    old, new = Told(listed("old.tar"), listed("done.tar")), Told(listed("done.tar"))
    poll(old, volume, 0)
    receive(volume, Archive("done.tar", 3, NOON * 10**9))
    before = catalogue.read(volume)
    new.listed = None
    with pytest.raises(SourceUnreachableError):
        poll(new, volume, 0)
    assert catalogue.read(volume) == before
    new.listed = [listed("done.tar")]
    found = poll(new, volume, 0)
    assert names(found.archives) == ["done.tar"]
    assert plan_run(found.archives, volume, SourceSettings()).now == []


def test_an_archive_that_comes_again_after_it_was_deleted_is_another_one(volume: Volume) -> None:
    source = Told(listed("a.tar"))
    receive(volume, poll(source, volume, 0).archives[0])
    source.listed = []
    assert poll(source, volume, 0).archives == []
    # The same day and size, but changed after the receipt was written.
    later = listed("a.tar", modified=time.time() + 60)
    receive(volume, Archive("a.tar", later.bytes, later.modified_ns - 1))
    source.listed = [later]
    (again,) = poll(source, volume, 0).archives
    assert catalogue.is_pending(again, volume)


def test_what_is_wrong_with_a_source_is_remembered(source: Path, volume: Volume) -> None:
    put(source, "a.tar")
    discover(source, volume)
    source.rename(source.with_name("moved"))
    with pytest.raises(EarmarkError):
        discover(source, volume)
    now = catalogue.read(volume)
    assert "cannot be used" in (now.problem or "")
    assert names(now.archives) == ["a.tar"]


def test_a_run_takes_a_batch_in_the_order_asked_for_and_what_is_here_already(
    volume: Volume,
) -> None:
    source = Told(*(listed(f"{hour}.tar", modified=NOON + 3600 * hour) for hour in range(5)))
    archives = poll(source, volume, 0).archives
    plan = plan_run(archives, volume, SourceSettings(batch=2))
    assert (names(plan.now), names(plan.later)) == (["0.tar", "1.tar"], ["2.tar", "3.tar", "4.tar"])
    assert names(plan_run(archives, volume, SourceSettings(batch=2, order="newest")).now) == [
        "4.tar",
        "3.tar",
    ]
    volume.incoming("2.tar").parent.mkdir(parents=True)
    volume.incoming("2.tar").write_bytes(b"tar")
    plan = plan_run(archives, volume, SourceSettings(batch=2))
    assert names(plan.now) == ["0.tar", "1.tar", "2.tar"]


@pytest.mark.parametrize("modified", [-1, 253_402_300_800, 1e15])
def test_an_impossible_time_of_change_is_refused(volume: Volume, modified: float) -> None:
    (archive,) = poll(Told(listed("a.tar", modified=modified)), volume, 0).archives
    assert archive.refused
    assert archive.date  # can be told all the same


@pytest.mark.parametrize("name", ["../evil.tar", "/etc/passwd", "a/b.tar", "..", "a\0b.tar"])
def test_a_name_that_only_a_lying_host_can_tell_is_refused(volume: Volume, name: str) -> None:
    archives = poll(Told(listed(name)), volume, 0).archives
    assert all(archive.refused for archive in archives)
    assert plan_run(archives, volume, SourceSettings()).now == []


@pytest.mark.parametrize(
    "name",
    [
        "-rf.tar",
        "$(reboot).tar",
        "a,b.tar",
        "a'b.tar",
        'a"b.tar',
        "a\nb.tar",
        "{x}.tar",
        "a\\b.tar",
        "é.tar",
    ],
)
def test_a_name_that_could_mean_something_else_is_refused_and_recorded(
    source: Path, volume: Volume, name: str
) -> None:
    put(source, name)
    archives = discover(source, volume)
    assert archives[0].refused
    assert pending(archives, volume, 0) == []
    assert catalogue.read(volume).archives == archives


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(name=st.binary(min_size=1, max_size=80))
def test_any_name_is_either_taken_whole_or_refused(
    source: Path, volume: Volume, name: bytes
) -> None:
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        return
    path = os.fsencode(source) + b"/" + name
    with open(path, "wb"):  # noqa: PTH123
        pass
    try:
        archives = discover(source, volume)
    finally:
        os.remove(path)  # noqa: PTH107
    for archive in archives:
        assert archive.refused or volume.incoming(archive.name).parent == volume.root / "incoming"
        assert archive.refused or os.fsencode(archive.name) == name


def test_a_source_folder_that_does_not_exist_is_named_with_the_remedy(
    tmp_path: Path, volume: Volume
) -> None:
    with pytest.raises(EarmarkError, match=r"nowhere cannot be used .*source\.directory"):
        discover(tmp_path / "nowhere", volume)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b'{"archives": [{"name": "x"}]}', b'{"archives": 3}']
)
def test_a_damaged_catalogue_is_made_anew_and_nothing_is_done_twice_or_not_at_all(
    source: Path, volume: Volume, content: bytes
) -> None:
    for name in ("done.tar", "pending.tar"):
        put(source, name)
    for _ in range(2):
        archives = {archive.name: archive for archive in discover(source, volume)}
        receive(volume, archives["done.tar"])
    (volume.state / "catalogue.json").write_bytes(content)
    assert [archive.name for archive in catalogue.read(volume).archives] == ["pending.tar"]
    again = discover(source, volume)
    assert names(pending(again, volume, 0)) == ["pending.tar"]
    assert catalogue.read(volume).archives == again


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\0", b'{"archive": "a.tar"'])
def test_an_archive_whose_receipt_cannot_be_read_is_not_done(
    source: Path, volume: Volume, content: bytes
) -> None:
    put(source, "a.tar")
    for _ in range(2):
        (archive,) = discover(source, volume)
        receive(volume, archive)
    assert pending([archive], volume, 0) == []
    volume.receipt(archive.date, archive.name).write_bytes(content)
    assert pending([archive], volume, 0) == [archive]
    (archive,) = discover(source, volume)
    assert pending([archive], volume, 0) == [archive]
    assert not catalogue.is_done(archive, volume)


@pytest.mark.parametrize("wrong", [-DAY, 0.0, DAY], ids=["a day behind", "right", "a day ahead"])
@pytest.mark.parametrize("replaced", [False, True], ids=["new", "replaced"])
def test_a_clock_that_is_wrong_at_one_poll_changes_nothing(
    source: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch, wrong: float, replaced: bool
) -> None:
    """Snakemake makes again what is older than what it is made from."""
    if replaced:
        put(source, "a.tar", b"the former one")
        (former,) = discover(source, volume)
        receive(volume, former)
        write_table(volume.manifest(former.date, "a.tar"), MANIFEST, [], {})
        discover(source, volume)
    put(source, "a.tar", modified=NOON - 60)  # with its own time, which may be earlier
    real = time.time
    with monkeypatch.context() as clock:
        clock.setattr("earmark.ingest.catalogue.time.time", lambda: real() + wrong)
        poll(FolderSource(source), volume, poll_seconds=300)
        (archive,) = poll(FolderSource(source), volume, poll_seconds=300).archives
    entry = volume.entry("a.tar")
    made = entry.stat().st_mtime
    if replaced:
        assert made > volume.manifest(archive.date, "a.tar").stat().st_mtime
    else:
        assert made == NOON - 60
    with locks.exclusive(volume.archive_lock("a.tar"), FETCHING) as lock:
        folder = FolderSource(source)
        fetch_archive(entry, folder, volume, TransferSettings(), DiskSpaceLimits(), lock)
    assert volume.incoming("a.tar").stat().st_mtime == made  # no older, so Snakemake is content
    (archive,) = poll(FolderSource(source), volume, poll_seconds=0).archives
    assert entry.stat().st_mtime == made
    assert catalogue.is_here(archive, volume)
    assert names(pending([archive], volume, 0)) == ["a.tar"]
    receive(volume, archive)
    os.utime(volume.receipt(archive.date, "a.tar"), (NOON, NOON))  # whenever that was
    assert pending(discover(source, volume), volume, 0) == []


def test_what_0_2_has_written_is_understood_as_it_was_meant(source: Path, volume: Volume) -> None:
    """Its receipts know no time of change, and its catalogue none of the entry."""
    for name in ("done.tar", "replaced.tar"):
        put(source, name)
        receipts.write(volume.receipt("2026-11-01", name), example(archive=name, bytes=3))
        os.utime(volume.receipt("2026-11-01", name), (NOON + 600, NOON + 600))
    noted = {"done.tar": NOON + 60, "replaced.tar": NOON + 1200}
    former = [
        {"name": name, "bytes": 3, "modified_ns": NOON * 10**9, "noted_at": noted[name],
         "confirmed": True, "refused": None, "done": name == "done.tar"}
        for name in noted
    ]  # fmt: skip
    told = {"source": str(source), "archives": former, "checked_at": None, "problem": None}
    (volume.state / "archives").mkdir(parents=True)
    (volume.state / "catalogue.json").write_text(json.dumps(told))
    for _ in range(2):
        assert names(pending(discover(source, volume), volume, 0)) == ["replaced.tar"]
    assert volume.entry("replaced.tar").stat().st_mtime == NOON + 1200


def test_a_damaged_entry_is_made_anew_and_as_old_as_it_was(source: Path, volume: Volume) -> None:
    put(source, "a.tar")
    discover(source, volume)
    entry = volume.entry("a.tar")
    before = entry.read_bytes(), entry.stat().st_mtime_ns
    entry.write_bytes(b"{")
    catalogue.poll(FolderSource(source), volume, 0, at_work=["a.tar"])
    assert (entry.read_bytes(), entry.stat().st_mtime_ns) == before


def test_a_poll_waits_for_one_that_writes(source: Path, volume: Volume) -> None:
    """What another one has half written is not taken for something that a dead one left."""
    put(source, "a.tar")
    discover(source, volume)
    half = put(volume.entry("").parent, ".b.tar.json.4711.partial")
    began = threading.Event()

    def poll() -> None:
        began.set()
        discover(source, volume)

    thread = threading.Thread(target=poll)
    with locks.exclusive(volume.catalogue_lock):
        thread.start()
        began.wait()
        thread.join(1)
        assert half.exists()
    thread.join()
    assert not half.exists()


def test_the_catalogue_is_readable_by_people(source: Path, volume: Volume) -> None:
    put(source, "a.tar")
    discover(source, volume)
    content = json.loads((volume.state / "catalogue.json").read_text())
    assert content["archives"][0]["name"] == "a.tar"
    assert content["source"] == str(source)


def test_an_archive_whose_receipt_was_deleted_is_pending_again(
    source: Path, volume: Volume
) -> None:
    (source / "a.tar").write_bytes(b"a")
    discover(source, volume)
    (archive,) = discover(source, volume)
    receive(volume, archive)
    (archive,) = discover(source, volume)  # the catalogue remembers that it was done
    receipt = volume.receipt(archive.date, archive.name)
    assert archive.received_ns == receipt.stat().st_ctime_ns
    at_once = SourceSettings(latency_minutes=0, poll_seconds=0)
    assert plan_run([archive], volume, at_once).now == []
    receipt.unlink()
    assert plan_run([archive], volume, SourceSettings(latency_minutes=0, poll_seconds=0)).now == [
        archive
    ]


def test_a_receipt_that_was_damaged_and_is_as_old_as_before_makes_its_archive_pending(
    source: Path, volume: Volume
) -> None:
    (source / "a.tar").write_bytes(b"a")
    (archive,) = discover(source, volume)
    receive(volume, archive)
    (archive,) = discover(source, volume)
    assert not catalogue.History(volume).is_pending(archive)
    receipt = volume.receipt(archive.date, archive.name)
    then = receipt.stat()
    receipt.write_bytes(b"\0" * then.st_size)
    os.utime(receipt, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert catalogue.History(volume).is_pending(archive)
    assert catalogue.is_pending(archive, volume)


@pytest.mark.parametrize("change", ["none", "receipt", "quarantine", "refused", "replaced"])
def test_the_history_of_many_says_the_same_as_a_look_at_each(
    source: Path, volume: Volume, change: str
) -> None:
    name = "a\n.tar" if change == "refused" else "a.tar"
    (source / name).write_bytes(b"a")
    (archive,) = catalogue.poll(FolderSource(source), volume, 0).archives
    if change in ("receipt", "replaced"):
        receive(volume, archive)
    if change == "quarantine":
        volume.quarantine(archive.name).parent.mkdir()
        volume.quarantine(archive.name).write_text("{}")
    if change == "replaced":
        archive = replace(archive, modified_ns=archive.modified_ns + 1)
    history = catalogue.History(volume)
    assert history.is_pending(archive) == catalogue.is_pending(archive, volume)
    assert history.is_done(archive) == catalogue.is_done(archive, volume)
    assert history.is_done(archive) == (change == "receipt")

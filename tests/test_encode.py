"""Encoding an unpacked archive, and its manifest."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

import pytest
from processes import children, is_alive, readers, wait_for
from refusals import largest_file
from sounds import chirp, wav, write_audio

from earmark import progress
from earmark.errors import EarmarkError
from earmark.ingest.encode import encode_archive
from earmark.ingest.media import decode_audio
from earmark.ingest.unpack import unpack_archive
from earmark.progress import track
from earmark.settings import EncodeSettings
from earmark.tables import MANIFEST, read_provenance, read_table

ARCHIVE = "sound_2026-11-01_00.tar.gz"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four different clips of two seconds."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_audio(folder / f"{seed}.mp3", chirp(2, seed=seed)) for seed in range(4)]


class Volume:
    """An unpacked archive and where its results go."""

    def __init__(self, root):
        self.root = root
        self.unpacked = root / "unpacked" / ARCHIVE
        self.audio = root / "audio" / "date=2026-11-01" / ARCHIVE
        self.manifest = root / "manifests" / "date=2026-11-01" / f"{ARCHIVE}.parquet"

    def unpack(self, files, cut=None):
        archive = self.root / ARCHIVE
        with tarfile.open(archive, "w") as tar:
            for index, file in enumerate(files):
                tar.add(file, f"{index}.mp3")
        if cut:
            os.truncate(archive, cut)
        unpack_archive(archive, self.unpacked)

    def encode(self, **settings):
        chosen = EncodeSettings(**{"workers": 2, **settings})
        encode_archive(self.unpacked, self.audio, self.manifest, ARCHIVE, self.root, chosen)
        return read_table(self.manifest, MANIFEST).to_pylist()

    def opus_files(self):
        return sorted(path.name for path in self.audio.iterdir())


@pytest.fixture
def volume(tmp_path):
    return Volume(tmp_path)


def test_each_clip_becomes_an_opus_file_and_a_selected_row(volume, clips):
    volume.unpack(clips)
    rows = volume.encode()
    assert [row["ordinal"] for row in rows] == [0, 1, 2, 3]
    assert [row["member"] for row in rows] == [f"{index}.mp3" for index in range(4)]
    assert volume.opus_files() == [f"{index:06d}.opus" for index in range(4)]
    for row, clip in zip(rows, clips, strict=True):
        assert (row["archive"], row["status"], row["error"]) == (ARCHIVE, "ok", None)
        assert (row["selected"], row["inclusion_probability"]) == (True, 1.0)
        assert (row["source_format"], row["sample_rate"], row["channels"]) == ("mp3", 44_100, 1)
        assert row["source_bytes"] == clip.stat().st_size
        assert row["duration_seconds"] == pytest.approx(2, abs=0.05)
        assert row["encoded_at"].tzinfo is not None
        assert row["duplicate_of"] is None
        opus = volume.root / row["opus_path"]
        assert opus.stat().st_size == row["opus_bytes"]
        assert len(decode_audio(opus)) / 16_000 == pytest.approx(2, abs=0.05)
    assert rows[0]["opus_path"] == f"audio/date=2026-11-01/{ARCHIVE}/000000.opus"


def test_what_was_told_of_a_replaced_archive_goes_and_of_the_same_one_stays(volume, clips):
    volume.unpack(clips[:2])
    volume.encode()
    told = [
        volume.root / f"transcripts/asr=other/date=2026-11-01/{ARCHIVE}.parquet",
        volume.root / f"classes/policy=other/date=2026-11-01/{ARCHIVE}.parquet",
    ]
    for path in told:
        path.parent.mkdir(parents=True)
        path.touch()
    volume.encode(bitrate="32k")
    assert all(path.exists() for path in told)
    shutil.rmtree(volume.unpacked)
    volume.unpack([clips[2], clips[1]])
    volume.encode()
    assert not any(path.exists() for path in told)


def test_the_manifest_says_how_it_was_made(volume, clips):
    volume.unpack(clips, cut=40_000)
    volume.encode(bitrate="32k")
    facts = read_provenance(volume.manifest)
    assert json.loads(facts["encode"]) == {
        "bitrate": "32k",
        "channels": 1,
        "complexity": 0,
        "application": "audio",
        "vbr": "constrained",
    }
    assert facts["archive_status"] == "partial"
    assert "truncated" in facts["archive_error"]
    assert (facts["archive_type"], facts["archive_bytes"]) == ("tar", "40000")
    assert float(facts["seconds"]) > 0
    assert float(facts["unpack_seconds"]) > 0


def test_equal_content_is_encoded_once(volume, clips):
    volume.unpack([clips[0], clips[1], clips[0], clips[0]])
    rows = volume.encode()
    assert [row["duplicate_of"] for row in rows] == [None, None, 0, 0]
    assert volume.opus_files() == ["000000.opus", "000001.opus"]
    first, second = rows[0], rows[2]
    assert second["opus_path"] is None
    assert {**second, "ordinal": 0, "member": "0.mp3", "duplicate_of": None} == {
        **first,
        "opus_path": None,
    }


def test_what_cannot_be_encoded_is_a_row_with_a_reason(volume, clips, tmp_path):
    (tmp_path / "notes").write_text("not a sound\n" * 20)
    (tmp_path / "corrupt").write_bytes(b"\xff\xfb\x90\x00" + os.urandom(5000))
    volume.unpack([tmp_path / "notes", tmp_path / "corrupt", clips[0], tmp_path / "corrupt"])
    rows = volume.encode()
    assert [row["status"] for row in rows] == ["skipped", "failed", "ok", "failed"]
    assert rows[0]["error"] == "not audio: text/plain"
    assert "no audio can be decoded from this mp3" in rows[1]["error"]
    assert (rows[3]["error"], rows[3]["duplicate_of"]) == (rows[1]["error"], 1)
    for row in (rows[0], rows[1], rows[3]):
        assert (row["selected"], row["inclusion_probability"]) == (False, 0.0)
        assert (row["opus_path"], row["duration_seconds"]) == (None, None)
    assert volume.opus_files() == ["000002.opus"]


def test_members_that_were_not_extracted_keep_their_reason(volume, clips, tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    size = sum(512 + -(-clip.stat().st_size // 512) * 512 for clip in clips[:2])
    volume.unpack([tmp_path / "link", *clips], cut=512 + size + 5000)
    rows = volume.encode()
    assert [row["status"] for row in rows] == ["skipped", "ok", "ok", "failed"]
    assert rows[0]["error"] == "not a file: symbolic link"
    assert rows[3]["error"].startswith("truncated: ")


def test_an_archive_without_members_has_an_empty_manifest(volume):
    volume.unpack([])
    assert volume.encode() == []
    assert volume.opus_files() == []


def test_damaged_packets_are_left_out_and_told(volume, clips, tmp_path):
    (tmp_path / "noisy").write_bytes(clips[0].read_bytes() + b"x" * 3000)
    volume.unpack([tmp_path / "noisy"])
    (row,) = volume.encode()
    size = (tmp_path / "noisy").stat().st_size
    said = f"1 of 79 packets were left out as they can't be decoded, 3000 bytes of {size}"
    assert (row["status"], row["error"]) == ("ok", said)


def test_what_a_killed_run_left_is_removed_first(volume, clips):
    volume.audio.mkdir(parents=True)
    (volume.audio / "000009.opus").write_bytes(b"old")
    (volume.audio / ".000000.opus.1.partial").write_bytes(b"old")
    volume.unpack(clips[:1])
    volume.encode()
    assert volume.opus_files() == ["000000.opus"]


@pytest.mark.slow
def test_a_file_that_computes_without_end_is_one_failed_row(volume, clips):
    volume.unpack(clips)
    (volume.unpacked / "000001").write_bytes(wav(1, 500_000))  # six days
    rows = volume.encode(timeout_seconds=2)
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "ok"]
    assert rows[1]["error"] == "not decoded in 2 seconds of computing"
    assert volume.opus_files() == ["000000.opus", "000002.opus", "000003.opus"]


@pytest.mark.slow
def test_a_machine_that_stands_still_costs_no_clip(volume, clips):
    volume.unpack(clips)
    before = children()

    def stand_still():
        wait_for(lambda: len(children() - before) == 2)
        stopped = children() - before
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5)  # longer than a file may compute
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    still = threading.Thread(target=stand_still)
    still.start()
    rows = volume.encode(timeout_seconds=2)
    still.join()
    assert [row["status"] for row in rows] == ["ok"] * 4


def test_a_disk_that_does_not_answer_is_an_error_and_no_failed_row(volume, clips):
    volume.unpack(clips)
    stuck = volume.unpacked / "000001"
    stuck.unlink()
    os.mkfifo(stuck)  # blocks whoever opens it, for ever
    with pytest.raises(EarmarkError, match="neither computed nor answered for 10 seconds"):
        volume.encode(timeout_seconds=1)
    assert not volume.manifest.exists()


@pytest.mark.parametrize(("deaths", "status"), [(1, "ok"), (2, "failed")])
def test_a_worker_that_dies_is_replaced_and_costs_at_most_its_own_file(
    volume, clips, deaths, status
):
    volume.unpack(clips)
    victim = volume.unpacked / "000000"
    content = victim.read_bytes()
    victim.unlink()
    os.mkfifo(victim)  # keeps a worker busy until it is killed
    before = children()
    killed: set[int] = set()

    def kill():
        while len(killed) < deaths:
            time.sleep(0.3)
            for pid in children() - before - killed:
                if len(killed) == deaths - 1 and status == "ok":
                    victim.unlink()
                    victim.write_bytes(content)
                os.kill(pid, signal.SIGSEGV)
                killed.add(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    rows = volume.encode(workers=1)
    killer.join()
    assert [row["status"] for row in rows] == [status, "ok", "ok", "ok"]
    if status == "failed":
        assert rows[0]["error"] == "the decoder died of SIGSEGV"
    assert children() == before


UNPACK = """
import sys
from pathlib import Path
from earmark.ingest.unpack import unpack_archive
root, slow = Path(sys.argv[1]), Path(sys.argv[2])
unpack_archive(slow, root / "out")
"""
ENCODE = """
import sys
from pathlib import Path
from earmark.ingest.encode import encode_archive
from earmark.settings import EncodeSettings
root, slow = Path(sys.argv[1]), Path(sys.argv[2])
encode_archive(slow.parent, root / "out", root / "out.parquet", "a", root, EncodeSettings())
"""


@pytest.mark.parametrize("stage", [UNPACK, ENCODE], ids=["unpack", "encode"])
def test_no_child_outlives_a_stage_that_is_killed(volume, clips, stage):
    volume.unpack(clips[:1])
    if stage is UNPACK:
        slow = volume.root / ARCHIVE
        os.truncate(slow, 1 << 40)  # holes: zeros that take no room
    else:
        slow = volume.unpacked / "000000"
        slow.unlink()
        os.mkfifo(slow)
    with slow.open("r+b", buffering=0):  # a fifo's reader now waits for ever
        parent = subprocess.Popen([sys.executable, "-c", stage, volume.root, slow])
        try:
            wait_for(lambda: readers(slow, parent.pid))
            (child,) = readers(slow, parent.pid)
        finally:
            parent.kill()
            parent.wait()
        try:
            wait_for(lambda: not is_alive(child), seconds=1)
        finally:
            if is_alive(child):
                os.kill(child, signal.SIGKILL)


def test_a_child_whose_parent_died_before_it_could_ask_ends_at_once():
    code = "from earmark.child import die_with_parent; die_with_parent(0); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "process 0, which started this one, is gone\n"


def test_a_refusal_to_write_is_an_error_and_no_manifest_appears(volume, clips):
    volume.unpack(clips)
    with largest_file(5000), pytest.raises(OSError, match="File too large"):
        volume.encode()
    assert not volume.manifest.exists()
    assert [row["status"] for row in volume.encode()] == ["ok"] * 4


def test_a_file_that_vanished_is_an_error(volume, clips):
    volume.unpack(clips)
    (volume.unpacked / "000002").unlink()
    with pytest.raises(FileNotFoundError):
        volume.encode()


def test_the_number_of_workers_changes_no_byte(volume, clips):
    volume.unpack(clips)
    volume.encode(workers=1)
    once = {path.name: path.read_bytes() for path in volume.audio.iterdir()}
    shutil.rmtree(volume.audio)
    volume.encode(workers=3)
    assert {path.name: path.read_bytes() for path in volume.audio.iterdir()} == once


# Progress


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage().partition(",")[0] for record in caplog.records]


def test_a_log_gets_lines_now_and_then_and_one_at_the_end(log, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(track(iter("ab"), "encode x", "clips", total=2)) == ["a", "b"]
    first, second = "encode x: 1 of 2 clips", "encode x: 2 of 2 clips"
    assert log() == [first, second, second]


def test_short_work_says_one_line(log):
    assert list(track([1, 2, 3], "load", "rows")) == [1, 2, 3]
    assert log() == ["load: 3 of 3 rows"]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(track([1, 2], "load", "rows")) == [1, 2]
    assert "0/2" in capsys.readouterr().err

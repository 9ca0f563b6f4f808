"""What is kept of a long stage that is killed, and what is never taken for it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earmark import checkpoints as parts_module
from earmark import version
from earmark.checkpoints import Checkpoint, fingerprint
from earmark.tables import MEMBERS
from earmark.volume import STAGES, Volume


def row(ordinal: int) -> dict:
    return {"ordinal": ordinal, "member": f"{ordinal}.mp3", "bytes": 1, "status": "ok"}


def begin(folder: Path, key: str = "key", seconds: float = 0) -> Checkpoint:
    return Checkpoint(folder / "a.tar.stage", MEMBERS, key, seconds)


def ordinals(parts: Checkpoint) -> list[int]:
    found: list[int] = parts.table()["ordinal"].to_pylist()
    return found


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_job_that_is_tried_again_finds_the_rows_of_the_first_and_goes_on(tmp_path: Path) -> None:
    for attempt in range(3):
        parts = begin(tmp_path)
        assert ordinals(parts) == list(range(2 * attempt))
        parts.add([row(2 * attempt)])
        parts.add([row(2 * attempt + 1)])
    assert ordinals(begin(tmp_path)) == list(range(6))


def test_without_rows_there_is_a_table_and_no_file(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    parts.add([])
    assert parts.table().schema.equals(MEMBERS, check_metadata=False)
    assert ordinals(parts) == []
    assert files(tmp_path) == []


def test_nothing_is_left_of_an_archives_parts_once_they_are_removed(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    for archive in ("a.tar", "a.tar.gz"):
        for stage in STAGES:
            begin(volume.checkpoint(archive, stage)).add([row(0)])
    parts_module.remove(volume, "a.tar")
    parts_module.remove(volume, "never.tar")
    assert {path.name for path in volume.checkpoints.iterdir()} == {
        f"a.tar.gz.{stage}" for stage in STAGES
    }


def test_the_parts_of_other_input_or_settings_are_removed_and_never_read(tmp_path: Path) -> None:
    begin(tmp_path, "one").add([row(0)])
    assert ordinals(begin(tmp_path, "two")) == []
    assert ordinals(begin(tmp_path, "one")) == []


def test_another_input_other_settings_or_another_version_have_another_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "manifest.parquet"
    source.write_bytes(b"content")
    same = {fingerprint(source, {"model": "a", "beam_size": 5}) for _ in range(2)}
    same |= {fingerprint(source, {"beam_size": 5, "model": "a"})}
    assert len(same) == 1
    others = {fingerprint(source, {"model": "b", "beam_size": 5}), fingerprint(source, {})}
    source.write_bytes(b"contend")
    others |= {fingerprint(source, {"model": "a", "beam_size": 5})}
    monkeypatch.setattr(version, "current", lambda: "another")
    others |= {fingerprint(source, {"model": "a", "beam_size": 5})}
    assert len(others - same) == 4


@pytest.mark.parametrize("content", [b"", b"PAR1 and noise"])
def test_a_part_that_a_crash_of_the_machine_damaged_is_made_again(
    tmp_path: Path, content: bytes
) -> None:
    parts = begin(tmp_path)
    for ordinal in range(3):
        parts.add([row(ordinal)])
    (tmp_path / "a.tar.stage/key/000001.parquet").write_bytes(content)
    again = begin(tmp_path)
    assert ordinals(again) == [0, 2]
    again.add([row(1)])
    assert ordinals(begin(tmp_path)) == [0, 2, 1]


class Clock:
    """A clock that only moves when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=60), st.floats(10, 60))
def test_no_more_work_is_lost_than_asked_for_if_calls_come_steadily(
    tmp_path_factory: pytest.TempPathFactory, waits: list[float], seconds: float
) -> None:
    clock = Clock()
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "time", clock)
        parts = begin(folder, seconds=seconds)
        clock.now += max(waits)  # it knows from now on how long a wait can be
        parts.add([])
        made: list[float] = []
        for ordinal, wait in enumerate(waits):
            clock.now += wait
            kept = len(begin(folder, seconds=seconds).table())  # as if it was killed here
            lost = made[kept:]
            assert not lost or clock.now - lost[0] <= seconds + 1e-6
            parts.add([row(ordinal)])
            made.append(clock.now)


def test_after_one_long_wait_parts_are_not_written_at_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(parts_module, "time", clock)
    parts = begin(tmp_path, seconds=60)
    clock.now += 500  # a model was loaded
    for ordinal in range(600):
        parts.add([row(ordinal)])
        clock.now += 1
    assert len(files(tmp_path)) <= 600 / 30 + 1
    assert ordinals(parts) == list(range(600))


WRITER = """
import sys
from pathlib import Path
from earmark.checkpoints import Checkpoint
from earmark.tables import MEMBERS
parts = Checkpoint(Path(sys.argv[1]) / "a.tar.stage", MEMBERS, "key", 0)
for ordinal in range(len(parts.table()), 1_000_000):
    parts.add([{"ordinal": ordinal, "member": "a.mp3", "bytes": 1, "status": "ok"}])
    if not ordinal:
        print("at work", flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_parts_without_a_gap(tmp_path: Path) -> None:
    for delay in (0.0, 0.03, 0.12):
        folder = tmp_path / str(delay)
        command = [sys.executable, "-c", WRITER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        parts = begin(folder)
        found = ordinals(parts)
        assert found == list(range(len(found)))
        assert found

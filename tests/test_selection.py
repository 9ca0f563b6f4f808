"""The draw of clips for transcription: known probabilities, the same clips at every rerun."""

import hashlib
import json
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sounds import chirp, write_audio

from earmark.ingest.encode import encode_archive
from earmark.ingest.selection import Drawn, Selection, uniform
from earmark.ingest.unpack import MEMBERS_FILE
from earmark.settings import EncodeSettings, SelectionSettings
from earmark.tables import MANIFEST, MEMBERS, read_provenance, read_table, write_table
from earmark.volume import Volume

DAY = "2026-11-09"


def contents(name: object, count: int, seconds: float = 60.0) -> dict[str, float]:
    """Durations of some contents, by hashes that depend on the name."""
    return {hashlib.sha256(f"{name} {n}".encode()).hexdigest(): seconds for n in range(count)}


def draw(
    root: Path, archive: str, durations: dict[str, float], date: str = DAY, **settings: Any
) -> Drawn:
    return Selection(SelectionSettings(**settings), Volume(root), date).draw(archive, durations)


def selected(drawn: Drawn, durations: dict[str, float]) -> set[str]:
    return {sha for sha in durations if drawn.has(sha)}


# The uniform number


@given(st.text(), st.text())
def test_a_number_is_in_the_unit_interval_and_always_the_same(sha256: str, purpose: str) -> None:
    assert 0 <= uniform(sha256, purpose) < 1
    assert uniform(sha256, purpose) == uniform(sha256, purpose)


def test_numbers_are_uniform_and_those_of_two_purposes_independent() -> None:
    hashes = contents("many", 20_000)
    numbers = np.array([[uniform(sha, what) for what in ("selection", "x")] for sha in hashes])
    for column in numbers.T:
        # Kolmogorov-Smirnov: beyond this with probability 0.001, were they uniform.
        steps = np.arange(1, len(column) + 1) / len(column)
        assert np.abs(np.sort(column) - steps).max() < 1.95 / np.sqrt(len(column))
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.03


def test_the_numbers_of_today_are_those_of_tomorrow() -> None:
    """Another rule would draw other clips at reruns: choose another purpose instead."""
    assert uniform("00" * 32, "selection") == pytest.approx(0.3914289684402317, abs=1e-15)


# The fraction


def test_without_settings_every_clip_is_drawn(tmp_path: Path) -> None:
    clips = contents("a", 50)
    drawn = draw(tmp_path, "a.tar", clips)
    assert (drawn.fraction, selected(drawn, clips)) == (1.0, set(clips))


def test_about_the_fraction_is_drawn_and_each_clip_has_its_probability(tmp_path: Path) -> None:
    clips = contents("a", 4000)
    drawn = draw(tmp_path, "a.tar", clips, fraction=0.25)
    assert len(selected(drawn, clips)) == pytest.approx(1000, abs=110)  # 4 standard deviations
    assert {drawn.probability(sha) for sha in clips} == {0.25}
    assert drawn.reason == "selection.fraction"


def test_a_smaller_fraction_draws_a_part_of_what_a_larger_one_draws(tmp_path: Path) -> None:
    clips = contents("a", 500)
    fewer, more = (
        selected(draw(tmp_path, "a.tar", clips, fraction=share), clips) for share in (0.2, 0.6)
    )
    assert fewer < more


def test_clips_that_are_too_short_or_too_long_cannot_be_drawn(tmp_path: Path) -> None:
    durations = {f"{seconds}": seconds for seconds in (0.5, 1.0, 30.0, 30.1)}
    drawn = draw(tmp_path, "a.tar", durations, min_seconds=1, max_seconds=30)
    assert selected(drawn, durations) == {"1.0", "30.0"}
    assert [drawn.probability(sha) for sha in durations] == [0, 1, 1, 0]
    assert drawn.clips == 2


# At most so many a day


def arrivals(
    root: Path, sizes: list[int], date: str = DAY, limit: int = 1000, **settings: object
) -> tuple[int, list[float]]:
    """Draw from archives that arrive one by one; returns clips drawn, and fractions."""
    count, fractions = 0, []
    for number, size in enumerate(sizes):
        clips = contents((date, number), size)
        drawn = draw(root, f"{number}.tar", clips, date, max_clips_per_day=limit, **settings)
        count += len(selected(drawn, clips))
        fractions.append(drawn.fraction)
    return count, fractions


def test_a_usual_day_gives_about_the_limit_with_one_probability(tmp_path: Path) -> None:
    for day in range(2, 9):
        arrivals(tmp_path, [1000] * 10, f"2026-11-{day:02}")
    count, fractions = arrivals(tmp_path, [1000] * 10)
    assert set(fractions) == {0.1}
    assert count == pytest.approx(1000, abs=120)  # 4 standard deviations


def test_a_day_that_brings_more_lowers_the_fraction_and_never_to_nothing(tmp_path: Path) -> None:
    for day in range(2, 9):
        arrivals(tmp_path, [1000] * 10, f"2026-11-{day:02}")
    count, fractions = arrivals(tmp_path, [1000] * 20)
    assert fractions[:10] == [0.1] * 10
    assert fractions[10:] == [pytest.approx(1 / (n + 1)) for n in range(10, 20)]
    assert count < 1000 * (1 + np.log(2)) + 160


def test_a_day_that_brings_little_is_drawn_whole(tmp_path: Path) -> None:
    count, fractions = arrivals(tmp_path, [300, 300, 300])
    assert (count, fractions) == (900, [1.0, 1.0, 1.0])


def test_the_fraction_is_never_above_selection_fraction(tmp_path: Path) -> None:
    _, fractions = arrivals(tmp_path, [1000, 9000], fraction=0.3)
    assert fractions == [0.3, 0.1]


def test_the_reason_tells_which_limit_holds(tmp_path: Path) -> None:
    limit: dict[str, Any] = {"max_clips_per_day": 100, "fraction": 0.5}
    reasons = [
        draw(tmp_path, name, contents(name, size), **limit).reason
        for name, size in (("a", 50), ("b", 950))
    ]
    reasons.append(draw(tmp_path, "c", contents("c", 10), "2026-11-10", **limit).reason)
    assert reasons == [
        "selection.fraction; 50 clips have come so far, and 0 were expected",
        "selection.max_clips_per_day; 1000 clips have come so far, and 0 were expected",
        "selection.max_clips_per_day; 1000 clips are expected, the mean of 1 days before",
    ]


def test_a_rerun_draws_the_same_clips_whatever_came_meanwhile(tmp_path: Path) -> None:
    clips = contents("a", 800)
    limit: dict[str, Any] = {"max_clips_per_day": 300}
    first = draw(tmp_path, "a.tar", clips, **limit)
    assert draw(tmp_path, "b.tar", contents("b", 5000), **limit).fraction < first.fraction
    again = draw(tmp_path, "a.tar", clips, **limit)
    assert (again.fraction, again.reason) == (first.fraction, first.reason)
    assert selected(again, clips) == selected(first, clips)


def test_an_archive_with_other_contents_under_the_same_name_is_drawn_from_anew(
    tmp_path: Path,
) -> None:
    limit: dict[str, Any] = {"max_clips_per_day": 300}
    assert draw(tmp_path, "a.tar", contents("a", 300), **limit).fraction == 1
    replaced = draw(tmp_path, "a.tar", contents("b", 600), **limit)
    assert replaced.fraction == 0.5  # the former one does not count any more
    assert draw(tmp_path, "a.tar", contents("b", 600), max_clips_per_day=60).fraction == 0.1


def test_archives_taken_in_side_by_side_are_all_counted(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3) as workers:
        list(workers.map(_take_in, [tmp_path] * 12, range(12)))
    ledger = json.loads(Volume(tmp_path).selection(DAY).read_text())
    fractions = sorted(entry["fraction"] for entry in ledger.values())
    assert fractions == [pytest.approx(10 / (100 * n)) for n in range(12, 0, -1)]


def _take_in(root: Path, number: int) -> None:
    draw(root, f"{number}.tar", contents(number, 100), max_clips_per_day=10)


@pytest.mark.slow
def test_weights_give_the_number_of_clips_whatever_the_arrivals(tmp_path: Path) -> None:
    """Horvitz and Thompson's estimator of a total: unbiased if the probabilities are true."""
    chance = random.Random(1)
    errors = []
    for day in range(1, 29):
        sizes = [chance.randrange(20, 900) for _ in range(12)]
        estimate = 0.0
        for number, size in enumerate(sizes):
            clips = contents((day, number), size)
            drawn = draw(
                tmp_path, f"{number}.tar", clips, f"2026-02-{day:02}", max_clips_per_day=700
            )
            estimate += sum(1 / drawn.probability(sha) for sha in selected(drawn, clips))
        errors.append(estimate / sum(sizes) - 1)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(len(errors))


# In the manifest


def test_the_manifest_says_what_was_drawn_and_with_what_probability(tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    members = []
    for number, seconds in enumerate([1, 2, 2, 2, 2, 2, 2]):
        file = write_audio(unpacked / f"{number}.wav", chirp(seconds, seed=number))
        members.append((file, hashlib.sha256(file.read_bytes()).hexdigest()))
    members.append(members[1])
    rows = [
        {
            "ordinal": ordinal,
            "member": file.name,
            "file": file.name,
            "bytes": file.stat().st_size,
            "sha256": sha256,
            "status": "ok",
        }
        for ordinal, (file, sha256) in enumerate(members)
    ]
    write_table(unpacked / MEMBERS_FILE, MEMBERS, rows, {"archive_status": "ok"})
    settings = SelectionSettings(fraction=0.5, min_seconds=1.5)
    found = []
    for _ in range(2):
        encode_archive(
            unpacked,
            tmp_path / "audio",
            tmp_path / "manifest",
            "a.tar",
            tmp_path,
            EncodeSettings(workers=1),
            Selection(settings, Volume(tmp_path), DAY),
        )
        found.append(read_table(tmp_path / "manifest", MANIFEST).to_pylist())
    manifest = found[0]
    assert [row["inclusion_probability"] for row in manifest] == [0.0] + [0.5] * 7
    assert [row["selected"] for row in manifest] == [
        row["inclusion_probability"] > 0 and uniform(row["source_sha256"], "selection") < 0.5
        for row in manifest
    ]
    assert {row["selected"] for row in manifest} == {True, False}
    assert manifest[7]["duplicate_of"] == 1
    assert all(row["opus_path"] for row in manifest[:7])  # what is not drawn is kept all the same
    assert [row["selected"] for row in found[1]] == [row["selected"] for row in manifest]
    told = json.loads(read_provenance(tmp_path / "manifest")["selection"])
    assert told == {
        "fraction": 0.5,
        "configured_fraction": 0.5,
        "max_clips_per_day": None,
        "min_seconds": 1.5,
        "max_seconds": None,
        "reason": "selection.fraction",
        "clips": 6,
    }


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[1]"])
def test_a_damaged_ledger_is_made_anew_from_the_manifests(tmp_path: Path, damage: bytes) -> None:
    volume = Volume(tmp_path)
    settings = SelectionSettings(fraction=0.9, max_clips_per_day=2)
    drawn = {}
    for archive, count in (("a.tar", 3), ("b.tar", 5)):
        unpacked = volume.unpacked(archive)
        unpacked.mkdir(parents=True)
        rows = []
        for number in range(count):
            file = write_audio(unpacked / f"{number}.wav", chirp(0.1, seed=10 * count + number))
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            facts = {"ordinal": number, "member": "x", "file": file.name, "sha256": sha256}
            rows.append(facts | {"bytes": file.stat().st_size, "status": "ok"})
        write_table(unpacked / MEMBERS_FILE, MEMBERS, rows, {"archive_status": "ok"})
        encode_archive(
            unpacked,
            volume.audio(DAY, archive),
            volume.manifest(DAY, archive),
            archive,
            tmp_path,
            EncodeSettings(workers=1),
            Selection(settings, volume, DAY),
        )
        drawn[archive] = {row["sha256"]: 0.1 for row in rows}
    ledger = volume.selection(DAY)
    before = json.loads(ledger.read_text())
    ledger.write_bytes(damage)
    again = Selection(settings, volume, DAY).draw("a.tar", drawn["a.tar"])
    assert again.fraction == before["a.tar"]["fraction"]
    assert Selection(settings, volume, DAY).draw("c.tar", {"0" * 64: 1.0}).fraction == 2 / 9
    assert {name: json.loads(ledger.read_text())[name] for name in before} == before

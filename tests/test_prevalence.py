"""Estimates of prevalence, against populations of which the truth is known.

A population of archives is drawn from again and again by the draw of the workflow itself, with
other contents each time, so that other numbers decide. How often does the interval cover what a
census would have given?
"""

import datetime
import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from earmark.ingest.selection import Selection
from earmark.policy.screen import screened
from earmark.record.analysis import run
from earmark.settings import ScreenSettings, SelectionSettings
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, write_table
from earmark.volume import Volume

pytestmark = pytest.mark.slow

SAMPLES = 200
#: Standard error of the share of samples whose interval covers the truth, if that were 95 %.
ERROR = np.sqrt(0.95 * 0.05 / SAMPLES)

CATEGORIES = ("common", "rare")
LANGUAGES = ("en", "de", "gsw")
FOLDER_DATE = "2026-01-01"


@dataclass(frozen=True)
class Upload:
    """A clip of the population."""

    archive: int
    ordinal: int
    content: int
    language: str
    flagged: tuple[bool, ...]  # by category
    screen_score: float | None = None


def population() -> list[Upload]:
    """Twelve archives that differ in size, in languages and in what is said in them.

    A content of ten is uploaded again, some of them often, within its archive and in others.
    What is worst comes when most comes, so that it is drawn with the smallest probability.
    """
    chance = np.random.default_rng(7)
    uploads: list[Upload] = []
    made: list[tuple[int, str, tuple[bool, ...]]] = []
    for archive in range(12):
        size = 120 + 40 * archive
        language_shares = chance.dirichlet([6, 3, 0.5])
        common = 0.05 + 0.02 * archive
        for ordinal in range(size):
            if made and chance.random() < 0.1:
                # Few contents get most of the reposts.
                content, language, flagged = made[int(len(made) * chance.random() ** 3)]
            else:
                content = len(made)
                language = str(chance.choice(LANGUAGES, p=language_shares))
                flagged = (
                    bool(chance.random() < common * (2 if language == "de" else 1)),
                    bool(chance.random() < 0.02),
                )
                made.append((content, language, flagged))
            uploads.append(Upload(archive, ordinal, content, language, flagged))
    return uploads


def truth(uploads: list[Upload]) -> dict[tuple[str, str], float]:
    """Prevalence in the population, by category and language."""
    answers: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for upload in uploads:
        for category, flagged in zip(CATEGORIES, upload.flagged, strict=True):
            for language in (upload.language, "all languages"):
                answers[category, language].append(flagged)
    return {key: float(np.mean(flags)) for key, flags in answers.items()}


def write_samples(
    root: Path,
    uploads: list[Upload],
    samples: int,
    limit: int,
    screen: ScreenSettings | None = None,
) -> None:
    """Draw from the population many times; each sample is a policy set and a week of its own."""
    volume = Volume(root)
    clips: dict[str, list[object]] = defaultdict(list)
    heard: dict[str, list[object]] = defaultdict(list)
    for sample in range(samples):
        day = datetime.date(2000, 1, 1) + datetime.timedelta(days=30 * sample)
        selection = Selection(SelectionSettings(max_clips_per_day=limit), volume, str(day))
        judged: dict[str, list[object]] = defaultdict(list)
        for archive in range(12):
            name = f"{sample}-{archive}.tar"
            members = [upload for upload in uploads if upload.archive == archive]
            hash_of = {
                upload.content: hashlib.sha256(f"{sample} {upload.content}".encode()).hexdigest()
                for upload in members
            }
            drawn = selection.draw(name, dict.fromkeys(hash_of.values(), 60.0))
            selected = {content: drawn.has(sha) for content, sha in hash_of.items()}
            first: dict[int, int] = {}
            for upload in members:
                first.setdefault(upload.content, upload.ordinal)
            shas = [hash_of[upload.content] for upload in members]
            originals = [first[upload.content] for upload in members]
            add(
                clips,
                len(members),
                archive=name,
                ordinal=[upload.ordinal for upload in members],
                member=[f"{upload.ordinal}.mp3" for upload in members],
                source_sha256=shas,
                source_bytes=1,
                status="ok",
                selected=[selected[upload.content] for upload in members],
                inclusion_probability=[drawn.probability(sha) for sha in shas],
                duplicate_of=[
                    None if original == upload.ordinal else original
                    for upload, original in zip(members, originals, strict=True)
                ],
            )
            asked = [
                upload
                for upload, original in zip(members, originals, strict=True)
                if original == upload.ordinal and selected[upload.content]
            ]
            add(
                heard,
                len(asked),
                archive=name,
                ordinal=[upload.ordinal for upload in asked],
                language=[upload.language for upload in asked],
                status="ok",
            )
            found = [
                screened(upload.screen_score, hash_of[upload.content], screen or ScreenSettings())
                for upload in asked
            ]
            for place, category in enumerate(CATEGORIES):
                flagged = [
                    upload.flagged[place] if each.is_asked else None
                    for upload, each in zip(asked, found, strict=True)
                ]
                add(
                    judged,
                    len(asked),
                    archive=name,
                    ordinal=[upload.ordinal for upload in asked],
                    category=category,
                    flagged=flagged,
                    score=[None if flag is None else 0.9 if flag else 0.1 for flag in flagged],
                    threshold=0.5,
                    truncated=False,
                    answer="logits",
                    status=["unasked" if flag is None else "ok" for flag in flagged],
                    screen_score=[each.score for each in found],
                    asked_probability=[each.probability for each in found],
                )
        write(volume.classes(str(sample), FOLDER_DATE, "all"), CLASSES, judged)
    write(volume.manifest(FOLDER_DATE, "all"), MANIFEST, clips)
    write(volume.transcripts("v2", FOLDER_DATE, "all"), TRANSCRIPTS, heard)


def add(columns: dict[str, list[object]], count: int, **values: object) -> None:
    """Add rows; what is no list is the same in all of them."""
    for name, value in values.items():
        columns[name] += value if isinstance(value, list) else [value] * count


def write(path: Path, schema: pa.Schema, columns: dict[str, list[object]]) -> None:
    count = len(columns["archive"])
    arrays = [pa.array(columns.get(field.name, [None] * count), field.type) for field in schema]
    write_table(path, schema, pa.Table.from_arrays(arrays, schema=schema), {})


@pytest.fixture(scope="module")
def uploads() -> list[Upload]:
    return population()


@pytest.fixture(scope="module")
def root(uploads: list[Upload], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder, uploads, SAMPLES, limit=600)
    return folder


def estimates(answer: duckdb.DuckDBPyRelation) -> list[dict]:
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


@pytest.fixture(scope="module")
def found(root: Path) -> list[dict]:
    return estimates(run("prevalence", root))


def of(found: list[dict], category: str, language: str) -> list[dict]:
    rows = [row for row in found if (row["category"], row["language"]) == (category, language)]
    assert len(rows) == SAMPLES
    return rows


def covered(found: list[dict], category: str, language: str, true: float) -> float:
    """Share of samples whose interval covers the truth."""
    rows = of(found, category, language)
    share = float(np.mean([row["low"] <= true <= row["high"] for row in rows]))
    print(
        f"{category}, {language}: truth {true:.4f}, covered by {share:.1%} of {len(rows)} samples"
    )
    return share


of_each_population = pytest.mark.parametrize(
    ("category", "language"),
    [
        ("common", "all languages"),
        ("common", "en"),
        ("common", "de"),
        ("rare", "all languages"),
        ("rare", "en"),
    ],
)


@of_each_population
def test_the_interval_covers_the_truth_in_about_95_of_100_samples(
    found: list[dict], uploads: list[Upload], category: str, language: str
) -> None:
    share = covered(found, category, language, truth(uploads)[category, language])
    assert share == pytest.approx(0.95, abs=3 * ERROR)


def test_the_interval_is_rather_too_wide_where_a_handful_is_flagged(
    found: list[dict], uploads: list[Upload]
) -> None:
    assert np.mean([row["flagged"] for row in of(found, "rare", "de")]) < 10
    assert covered(found, "rare", "de", truth(uploads)["rare", "de"]) >= 0.95 - 3 * ERROR


def reposted() -> list[Upload]:
    """Twelve archives in which four uploads of five repeat a content; one content of 200 flags."""
    chance = np.random.default_rng(1)
    uploads: list[Upload] = []
    made: list[tuple[int, str, tuple[bool, ...]]] = []
    for archive in range(12):
        for ordinal in range(200):
            if made and chance.random() < 0.8:
                content = made[int(len(made) * chance.random() ** 2)]
            else:
                content = (len(made), "en", (bool(chance.random() < 0.005), False))
                made.append(content)
            uploads.append(Upload(archive, ordinal, *content))
    return uploads


def test_the_interval_does_not_take_uploads_of_one_content_for_so_many_contents(
    tmp_path: Path,
) -> None:
    uploads = reposted()
    write_samples(tmp_path, uploads, SAMPLES, limit=400)
    found = estimates(run("prevalence", tmp_path))
    true = truth(uploads)["common", "all languages"]
    assert covered(found, "common", "all languages", true) >= 0.95 - 3 * ERROR


@pytest.mark.parametrize("category", CATEGORIES)
def test_estimates_are_right_on_average_and_as_far_off_as_they_say(
    found: list[dict], uploads: list[Upload], category: str
) -> None:
    rows = of(found, category, "all languages")
    values = np.array([row["prevalence"] for row in rows])
    told = np.sqrt(np.mean([row["standard_error"] ** 2 for row in rows]))
    true = truth(uploads)[category, "all languages"]
    assert abs(values.mean() - true) < 3 * values.std() / np.sqrt(SAMPLES)
    assert told == pytest.approx(values.std(), rel=0.15)


def test_the_population_is_estimated_by_the_weights(
    found: list[dict], uploads: list[Upload]
) -> None:
    for language in ("all languages", "en", "de"):
        count = sum(language in (upload.language, "all languages") for upload in uploads)
        told = np.array([row["population"] for row in of(found, "common", language)])
        assert abs(told.mean() - count) < 3 * told.std() / np.sqrt(SAMPLES)


def test_without_weights_most_intervals_would_miss_the_truth(
    root: Path, found: list[dict], uploads: list[Upload]
) -> None:
    """The populations are such that it matters: what the test above shows is no accident."""
    true = truth(uploads)["common", "all languages"]
    rows = of(found, "common", "all languages")
    plain = [row["flagged"] / row["clips"] for row in rows]
    widths = [
        1.96 * np.sqrt(p * (1 - p) / row["clips"]) for p, row in zip(plain, rows, strict=True)
    ]
    hits = [abs(p - true) <= width for p, width in zip(plain, widths, strict=True)]
    assert np.mean(hits) < 0.8


def test_where_all_is_drawn_the_truth_itself_comes_out(
    uploads: list[Upload], tmp_path: Path
) -> None:
    write_samples(tmp_path, uploads, samples=1, limit=100_000)
    true = truth(uploads)
    for row in estimates(run("prevalence", tmp_path)):
        assert (row["missed"], row["missed_low"], row["missed_high"]) == (None, None, None)
        known = pytest.approx(true[row["category"], row["language"]])
        assert (row["prevalence"], row["low"], row["high"]) == (known, known, known)
        assert row["standard_error"] == pytest.approx(0)


MISSED = 0.3
SCREEN = ScreenSettings(threshold=0.1, audit_fraction=0.2)


def screen_scores(uploads: list[Upload]) -> list[Upload]:
    """The same uploads behind a screen that keeps out 30 % of what flags, 90 % of the rest."""
    chance = np.random.default_rng(11)
    scores: dict[int, float] = {}
    for upload in uploads:
        is_out = chance.random() < (MISSED if any(upload.flagged) else 0.9)
        scores.setdefault(upload.content, 0.01 if is_out else 0.8)
    return [replace(upload, screen_score=scores[upload.content]) for upload in uploads]


def true_misses(uploads: list[Upload], category: str, language: str) -> float:
    """Which part of what flags the screen keeps out."""
    place = CATEGORIES.index(category)
    flagged = [
        upload
        for upload in uploads
        if upload.flagged[place] and language in (upload.language, "all languages")
    ]
    return float(np.mean([upload.screen_score == 0.01 for upload in flagged]))


@pytest.fixture(scope="module")
def behind_screen(uploads: list[Upload]) -> list[Upload]:
    return screen_scores(uploads)


@pytest.fixture(scope="module")
def screened_root(behind_screen: list[Upload], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("screened")
    write_samples(folder, behind_screen, SAMPLES, limit=1500, screen=SCREEN)
    return folder


@pytest.fixture(scope="module")
def found_behind_screen(screened_root: Path) -> list[dict]:
    return estimates(run("prevalence", screened_root))


@of_each_population
def test_intervals_cover_the_truth_behind_a_screen_too(
    found_behind_screen: list[dict], behind_screen: list[Upload], category: str, language: str
) -> None:
    true = truth(behind_screen)[category, language]
    assert covered(found_behind_screen, category, language, true) >= 0.95 - 3 * ERROR
    rows = of(found_behind_screen, category, language)
    assert np.mean([row["unasked"] for row in rows]) > np.mean([row["clips"] for row in rows])
    values = np.array([row["prevalence"] for row in rows])
    assert abs(values.mean() - true) < 3 * values.std() / np.sqrt(SAMPLES)
    if category == "common":
        told = np.sqrt(np.mean([row["standard_error"] ** 2 for row in rows]))
        assert told == pytest.approx(values.std(), rel=0.15)


@pytest.mark.parametrize(
    ("category", "language"),
    [("common", "all languages"), ("common", "en"), ("rare", "all languages")],
)
def test_what_a_screen_misses_is_measured(
    found_behind_screen: list[dict], behind_screen: list[Upload], category: str, language: str
) -> None:
    true = true_misses(behind_screen, category, language)
    assert true == pytest.approx(MISSED, abs=0.1)
    rows = of(found_behind_screen, category, language)
    cover = np.mean([row["missed_low"] <= true <= row["missed_high"] for row in rows])
    print(f"{category}, {language}: {true:.1%} missed, covered by {cover:.1%} of the samples")
    assert cover >= 0.95 - 3 * ERROR
    if category == "common":
        assert np.mean([row["missed"] for row in rows]) == pytest.approx(true, abs=0.03)
        # A sound screen would not be taken for it.
        assert np.mean([row["missed_low"] > 0.05 for row in rows]) > 0.95


def test_flags_alone_would_tell_too_small_a_prevalence_behind_a_screen(
    screened_root: Path, found_behind_screen: list[dict], behind_screen: list[Upload]
) -> None:
    """Weighing what was asked by its probability matters."""
    true = truth(behind_screen)["common", "all languages"]
    rows = of(found_behind_screen, "common", "all languages")
    plain = [row["flagged"] / (row["clips"] + row["unasked"]) for row in rows]
    assert np.mean(plain) < 0.85 * true
    rates = of(estimates(run("flag_rate", screened_root)), "common", "en")
    assert np.mean([row["weighted_flag_rate"] for row in rates]) == pytest.approx(
        truth(behind_screen)["common", "en"], rel=0.03
    )


def test_where_all_is_asked_below_the_screen_its_misses_are_known(
    behind_screen: list[Upload], tmp_path: Path
) -> None:
    everything = ScreenSettings(threshold=0.1, audit_fraction=1.0)
    write_samples(tmp_path, behind_screen, samples=1, limit=100_000, screen=everything)
    record = tmp_path / "state/policies/0.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"asr.name": "v2", "thresholds": {"common": 0.5, "any_policy": 0.1}}')
    true = truth(behind_screen)
    for row in estimates(run("prevalence", tmp_path)):
        key = row["category"], row["language"]
        assert [row["prevalence"], row["low"], row["high"]] == pytest.approx([true[key]] * 3)
        if true[key]:
            missed = [row["missed"], row["missed_low"], row["missed_high"]]
            assert missed == pytest.approx([true_misses(behind_screen, *key)] * 3)


def test_what_is_below_a_screen_is_unknown_if_nothing_of_it_was_asked(
    behind_screen: list[Upload], tmp_path: Path
) -> None:
    few = ScreenSettings(threshold=0.1, audit_fraction=1e-9)
    write_samples(tmp_path, behind_screen, samples=1, limit=100_000, screen=few)
    (row,) = [
        row
        for row in estimates(run("prevalence", tmp_path))
        if (row["category"], row["language"]) == ("common", "all languages")
    ]
    assert row["prevalence"] is None
    assert row["missed"] is None
    passed = np.array([upload.screen_score == 0.8 for upload in behind_screen])
    flagged = np.array([upload.flagged[0] for upload in behind_screen])
    assert row["low"] == pytest.approx(np.mean(passed & flagged))
    assert row["high"] == pytest.approx(np.mean(~passed | flagged))
    assert row["missed_low"] == 0
    assert row["missed_high"] > 0.8
    assert row["standard_error"] is None


def blind(rate: float) -> list[Upload]:
    """Twelve archives whose screen keeps half out: a share of it is flagged, of the rest 2 %."""
    chance = np.random.default_rng(3)
    uploads = []
    for content in range(1500):
        is_out = chance.random() < 0.5
        flagged = (bool(chance.random() < (rate if is_out else 0.02)), False)
        score = 0.01 if is_out else 0.8
        uploads.append(Upload(content % 12, content // 12, content, "en", flagged, score))
    return uploads


@pytest.mark.parametrize("audit_fraction", [1.0, 0.3])
@pytest.mark.parametrize("rate", [0.95, 0.6])
def test_intervals_cover_the_truth_behind_a_screen_that_is_blind_to_much(
    tmp_path: Path, rate: float, audit_fraction: float
) -> None:
    """How much is below the screen is an estimate as well."""
    uploads = blind(rate)
    screen = ScreenSettings(threshold=0.1, audit_fraction=audit_fraction)
    write_samples(tmp_path, uploads, SAMPLES, limit=200, screen=screen)
    for sample in range(SAMPLES):
        record = tmp_path / f"state/policies/{sample}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text('{"asr.name": "v2", "thresholds": {"any_policy": 0.1}}')
    found = estimates(run("prevalence", tmp_path))
    true = truth(uploads)["common", "all languages"]
    share = covered(found, "common", "all languages", true)
    assert share == pytest.approx(0.95, abs=3 * ERROR)
    rows = of(found, "common", "all languages")
    values = np.array([row["prevalence"] for row in rows])
    told = np.sqrt(np.mean([row["standard_error"] ** 2 for row in rows]))
    print(f"standard error {values.std():.4f}, told {told:.4f}")
    assert abs(values.mean() - true) < 3 * values.std() / np.sqrt(SAMPLES)
    assert told == pytest.approx(values.std(), rel=0.15)
    missed = true_misses(uploads, "common", "all languages")
    cover = np.mean([row["missed_low"] <= missed <= row["missed_high"] for row in rows])
    print(f"{missed:.1%} missed, covered by {cover:.1%} of the samples")
    assert cover >= 0.95 - 3 * ERROR

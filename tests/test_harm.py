"""`earmark harm`: from clips in a volume and verdicts at the desk to how much harm there is."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from desk_record import join
from desk_server import write_config
from loaded_archive import judgement, member, query, transcript

from earmark import cli
from earmark.desk import claims, decisions, sampling
from earmark.desk.accounts import Reviewer
from earmark.desk.decisions import Judgement
from earmark.desk.sampling import Lane
from earmark.errors import EarmarkError
from earmark.record.database import connect
from earmark.record.harm import ANY, Study
from earmark.record.load import load_archive
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, write_table
from earmark.volume import Volume

DATE = "2026-11-02"
CLIPS = 60


def is_harmful(ordinal: int) -> bool:
    """Every fifth clip, of which the classifier flags all but each fourth."""
    return ordinal % 5 == 0


def put(
    root: Path,
    conninfo: str,
    name: str,
    first: int = 0,
    policy: str = "p",
    flags: bool = True,
    copied: str | None = None,
) -> None:
    """An archive of 60 clips and one that repeats clip 0, in the volume and in the record.

    Args:
        root: Of the volume.
        conninfo: Of the record.
        name: Of the archive.
        first: Number of its first content.
        policy: Policy set that judged it.
        flags: Whether that flags anything.
        copied: Archive in which the same clips were heard; None if they were heard here.
    """
    volume = Volume(root)
    contents = [hashlib.sha256(str(first + each).encode()).hexdigest() for each in range(CLIPS)]
    path = f"audio/date={DATE}/{name}/{{:06d}}.opus"
    members = [
        member(
            each,
            member=f"{'left' if each < 20 else 'right'}/{each}.mp3",
            source_sha256=sha,
            opus_path=path.format(each),
        )
        for each, sha in enumerate(contents)
    ]
    members.append(
        member(CLIPS, source_sha256=contents[0], duplicate_of=0, member="left/again.mp3")
    )
    scores = [
        0.9 - each / 1000 if flags and is_harmful(each) and each % 20 else 0.3 - each / 250
        for each in range(CLIPS)
    ]
    heard = [
        transcript(
            each,
            language="en" if each % 2 else "de",
            copied_from=copied and f"audio/date={DATE}/{copied}/{each:06d}.opus",
        )
        for each in range(CLIPS)
    ]
    files = (volume.manifest(DATE, name), volume.transcripts("v2", DATE, name),
             volume.classes(policy, DATE, name))  # fmt: skip
    for file, schema, rows in zip(
        files,
        (MANIFEST, TRANSCRIPTS, CLASSES),
        (
            members,
            heard,
            [judgement(each, "threats", score) for each, score in enumerate(scores)],
        ),
        strict=True,
    ):
        facts = {
            "archive_status": "ok",
            "policy_sha256": json.dumps({"threats": "0", "scams": "1"}),
        }
        write_table(file, schema, [{"archive": name, **row} for row in rows], facts)
    load_archive(*files, volume.receipt(DATE, name), conninfo, name, DATE, "v2", policy)


@pytest.fixture
def review(migrated_database: str, tmp_path: Path) -> Callable[[int], Study]:
    """Lets somebody review so many items of the sample, and reads what is known then."""
    put(tmp_path, migrated_database, "a.tar")
    (ada,) = join(migrated_database, "ada")

    def go_on(items: int) -> Study:
        for _ in range(items):
            decide_next(migrated_database, ada)
        return Study(tmp_path, migrated_database)

    return go_on


def decide_next(conninfo: str, who: Reviewer) -> str:
    """Returns why the item came up."""
    lane = Lane(per_day=40, target=40, timezone="Europe/Zurich")
    with connect(conninfo) as connection, connection.cursor() as cursor:
        sampling.draw_of_today(connection, lane)
        claim = claims.claim_next(connection, who, "score", 60, sample_share=lane.share)
        assert claim is not None
        cursor.execute("SELECT ordinal FROM audio_files WHERE id = %s", [claim.audio_file_id])
        harmful = is_harmful(cursor.fetchall()[0][0])
        said = (
            Judgement("reportable", frozenset({"threats"}))
            if harmful
            else Judgement("not reportable")
        )
        decisions.decide(connection, who, claim.audio_file_id, said, 0)
        return claim.chosen_by


def test_the_truth_lies_in_the_interval_and_scores_find_what_flags_miss(
    review: Callable[[int], Study],
) -> None:
    (any_harm, threats) = review(40).prevalence()
    assert (any_harm.category, threats.category) == (ANY, "threats")
    assert threats.uploads == CLIPS + 1
    assert threats.flags == pytest.approx(9 / 61)
    for estimate in (any_harm.sample, threats.sample, threats.scores):
        assert estimate.low < 13 / 61 < estimate.high
        assert estimate.heard == 40
        assert estimate.high - estimate.low < 0.35


def test_before_anybody_has_heard_anything_nothing_is_known(
    review: Callable[[int], Study],
) -> None:
    assert review(0).heard == 0
    assert list(review(0).prevalence()) == []  # there is no draw yet
    few = next(iter(review(2).prevalence()))
    assert few.sample.high - few.sample.low > 0.6


def test_estimates_are_told_by_any_column_and_add_up(review: Callable[[int], Study]) -> None:
    study = review(30)
    for by, parts in (
        ("language", {"de", "en"}),
        ("folder", {"left", "right"}),
        ("day", {DATE}),
        ("week", {"2026-11-02"}),
        ("source_format", {"mp3"}),
    ):
        found = [each for each in study.prevalence(by) if each.category == "threats"]
        assert {each.part for each in found} == parts, by
        assert sum(each.uploads for each in found) == CLIPS + 1
        assert sum(each.sample.heard for each in found) == 30
    with pytest.raises(EarmarkError, match="there is no column colour"):
        list(study.prevalence("colour"))


def test_contents_of_no_draw_are_counted_as_unknown(
    review: Callable[[int], Study], migrated_database: str, tmp_path: Path
) -> None:
    review(30)
    put(tmp_path, migrated_database, "b.tar", first=1_000)
    (found, _) = review(0).prevalence()
    assert (found.uploads, found.outside) == (61, 61)


def test_what_a_later_policy_set_brings_up_again_is_no_sample_of_an_earlier_draw(
    migrated_database: str, tmp_path: Path
) -> None:
    put(tmp_path, migrated_database, "a.tar", policy="p1", flags=False)
    (ada,) = join(migrated_database, "ada")
    for _ in range(20):
        decide_next(migrated_database, ada)
    put(tmp_path, migrated_database, "b.tar", policy="p2", copied="a.tar")
    (before, *_) = Study(tmp_path, migrated_database).prevalence()
    query(
        migrated_database,
        "UPDATE review_draws SET drawn_on = drawn_on - 1, drawn_at = drawn_at - INTERVAL '1 day'",
    )
    (again,) = query(
        migrated_database,
        "SELECT count(*) FROM audio_files WHERE archive_source = 'b.tar' AND status = 'flagged' "
        "AND copied_from IS NULL",
    )[0]
    assert again >= 3
    assert {decide_next(migrated_database, ada) for _ in range(again)} == {"sample"}
    assert query(migrated_database, "SELECT count(*) FROM review_sample_heard") == [(20 + again,)]
    (after, *_) = Study(tmp_path, migrated_database).prevalence()
    assert after == before
    assert (after.uploads, after.sample.heard) == (2 * CLIPS + 2, 20)
    assert after.sample.low < 13 / 61 < after.sample.high


def test_a_second_set_of_transcripts_changes_no_figure(
    review: Callable[[int], Study], migrated_database: str, tmp_path: Path
) -> None:
    review(30)
    put(tmp_path, migrated_database, "b.tar", first=1_000)  # of no draw

    def figures() -> str:
        study = review(0)
        parts = [*study.prevalence("language")], [*study.thresholds()], [*study.calibration()]
        return repr(parts)  # NaN is NaN there

    before = figures()
    for name in ("a.tar", "b.tar"):
        again = [
            {"archive": name, **transcript(each, language="fr", copied_from="elsewhere.opus")}
            for each in range(CLIPS)
        ]
        for asr in ("v1", "v3"):
            write_table(Volume(tmp_path).transcripts(asr, DATE, name), TRANSCRIPTS, again, {})
        assert figures() == before


@pytest.mark.parametrize("is_cut_off", [True, False])
def test_a_damaged_file_is_an_error_that_says_what_finds_it(
    review: Callable[[int], Study], tmp_path: Path, is_cut_off: bool
) -> None:
    study = review(1)
    file = Volume(tmp_path).classes("p", DATE, "a.tar")
    whole = file.read_bytes()
    # Where there is a footer, only whoever reads the rows meets the damage.
    file.write_bytes(whole[:-9] if is_cut_off else whole[:4] + bytes(1_000) + whole[1_004:])
    for ask in (lambda: review(0), lambda: list(study.prevalence())):
        with pytest.raises(EarmarkError, match="`earmark doctor` finds what is damaged"):
            ask()


def test_the_queue_s_top_is_known_and_helps(
    review: Callable[[int], Study], migrated_database: str
) -> None:
    before = next(iter(review(10).prevalence())).sample
    (ben,) = join(migrated_database, "ben")
    with connect(migrated_database) as connection:
        while claim := claims.claim_next(connection, ben, "score", 60):
            said = Judgement("reportable", frozenset({"threats"}))
            decisions.decide(connection, ben, claim.audio_file_id, said, 0)
    after = next(iter(review(0).prevalence())).sample
    assert after.low >= 9 / 61
    assert after.high - after.low < before.high - before.low


def test_what_the_scores_are_worth_is_told(review: Callable[[int], Study]) -> None:
    study = review(40)
    worth = {each.score: each for each in study.thresholds()}
    assert worth[0.5].uploads_a_day == 9
    assert worth[0.5].precision.value == 1
    recall = worth[0.5].recall
    assert recall is not None
    assert recall.low < 9 / 13 < recall.high
    harmful = [each.precision.value for each in study.calibration()]
    assert harmful[-1] == 1
    assert study.drift() == {"threats": 1.0}  # of one week
    assert not np.isnan(harmful).any()


def test_the_command_says_when_nobody_has_heard_anything(
    review: Callable[[int], Study], migrated_database: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = str(write_config(tmp_path, migrated_database))
    assert cli.main(["harm", "--configfile", config]) == 0
    assert "Nobody has decided about an item of a review sample yet" in capsys.readouterr().out
    review(20)
    assert cli.main(["harm", "--configfile", config, "--by", "language"]) == 0
    assert "with_scores_low" in capsys.readouterr().out
    assert cli.main(["harm", "--configfile", config, "--classifier", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    assert [len(rows) > 0 for rows in tables.values()] == [True] * 3

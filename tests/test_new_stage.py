"""A stage with a table of its own: an entry in the registry is all that the others need of it."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
from erasing import DATE, WORDS, Erasing
from place import Place

from earmark import REPOSITORY, SQL, configuration
from earmark.driver.retention import leftovers, remove
from earmark.record.analysis import run, view_of
from earmark.settings import RetentionSettings
from earmark.tables import TABLES, Table, read_provenance, read_table, write_table
from earmark.volume import STAGES, Volume
from earmark.watch.report import gather

LANGUAGES = Table(
    "languages",
    pa.schema(
        [
            pa.field("archive", pa.string(), nullable=False),
            pa.field("ordinal", pa.int32(), nullable=False),
            pa.field("language", pa.string(), nullable=False),
            pa.field("sample", pa.string()),
            pa.field("heard_at", pa.timestamp("us", tz="UTC")),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
        ]
    ),
    key=("ordinal", "language"),
    stage="name_languages",
    partitions=("asr",),
    retention="text",
    erasing="drop",
)


@pytest.fixture
def archives(tmp_path: Path, volume: Path, migrated_database: str) -> Erasing:
    """Two archives that are done, of which a further stage has named the languages too."""
    done = Erasing(Place(tmp_path, volume), migrated_database)
    for archive, count in (("a.tar", 5), ("b.tar", 2)):
        rows = [
            {"archive": archive, "ordinal": ordinal, "language": language, "status": "ok"}
            | {"sample": WORDS if (archive, ordinal) in (("a.tar", 1), ("b.tar", 0)) else "other"}
            for ordinal in range(count)
            for language in ("de", "en")
        ]
        write_table(languages_of(done.volume, archive), LANGUAGES.schema, rows, {"model": "x"})
    return done


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, LANGUAGES.name, LANGUAGES)


def languages_of(volume: Volume, archive: str) -> Path:
    return volume.table("languages", DATE, archive, asr="large-v2")


def test_an_erased_clip_is_gone_from_its_table(archives: Erasing) -> None:
    path = languages_of(archives.volume, "a.tar")
    half_written = path.with_name(".a.tar.parquet.4711.partial")
    half_written.write_text(WORDS)
    then = path.stat().st_mtime_ns
    archives.erase()
    assert archives.traces(WORDS) == []
    assert not half_written.exists()
    rows = read_table(path, LANGUAGES.schema).to_pylist()
    assert [(row["ordinal"], row["language"]) for row in rows] == [
        (ordinal, language) for ordinal in (0, 2, 3) for language in ("de", "en")
    ]
    assert (path.stat().st_mtime_ns, read_provenance(path)["model"]) == (then, "x")
    assert read_table(languages_of(archives.volume, "b.tar"), LANGUAGES.schema).num_rows == 2


def test_its_files_go_at_the_age_of_texts(archives: Erasing) -> None:
    volume = archives.volume
    assert list(leftovers(volume, [], RetentionSettings(archives="keep"))) == []
    found = leftovers(volume, [], RetentionSettings(archives="keep", text_days=0))
    assert len(list(remove(found, volume))) > 1
    left = {path.relative_to(volume.root).parts[0] for path in volume.root.rglob("*.tar.parquet")}
    assert left == {"manifests"}


def test_what_a_killed_job_left_half_written_goes(archives: Erasing) -> None:
    folder = languages_of(archives.volume, "a.tar").parent
    (folder / ".a.tar.parquet.4711.partial").touch()
    (leftover,) = leftovers(archives.volume, [], RetentionSettings(archives="keep"))
    assert (leftover.archive, leftover.reason) == ("a.tar", "half written")


def test_it_can_be_asked_about_in_sql(archives: Erasing, tmp_path: Path) -> None:
    own = tmp_path / "own.sql"
    own.write_text(
        "-- How often?\nSELECT date::VARCHAR, asr, language, count(*) FROM languages "
        "GROUP BY ALL ORDER BY language"
    )
    expected = [(DATE, "large-v2", "de", 7), (DATE, "large-v2", "en", 7)]
    assert run(own, archives.volume.root).fetchall() == expected
    for archive in ("a.tar", "b.tar"):
        languages_of(archives.volume, archive).unlink()
    assert run(own, archives.volume.root).fetchall() == []


def test_what_failed_in_it_is_in_the_report(archives: Erasing) -> None:
    path = languages_of(archives.volume, "b.tar")
    row = {"archive": "b.tar", "ordinal": 0, "language": "", "status": "failed", "error": "mumbled"}
    write_table(path, LANGUAGES.schema, [row], {})
    failures = gather(configuration.read(archives.place.file)).failures
    assert [(each.stage, each.reason, each.count) for each in failures] == [("name", "mumbled", 1)]


def test_rows_of_a_clip_are_found_by_the_columns_that_every_table_has() -> None:
    for table in TABLES.values():
        assert {"archive", "ordinal", *table.key} <= set(table.schema.names)


def test_the_file_of_views_has_those_of_all_tables_of_the_workflow() -> None:
    known = (SQL / "analysis" / "views.sql").read_text(encoding="utf-8")
    for table in TABLES.values():
        assert (view_of(table) in known) == (table is not LANGUAGES)


def test_each_table_is_made_by_the_rule_that_its_entry_names(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    made = {
        "manifests": volume.manifest("*", "*"),
        "transcripts": volume.transcripts("*", "*", "*"),
        "classes": volume.classes("*", "*", "*"),
    }
    for name, path in made.items():
        assert path == tmp_path / TABLES[name].pattern()
        assert TABLES[name].stage in STAGES
        rule = (REPOSITORY / "workflow/rules" / f"{TABLES[name].stage}.smk").read_text()
        output = re.search(r"output:\n +(\w+)=volume\.(\w+)\(", rule)
        assert output is not None
        assert getattr(volume, output[2])(*"*" * (3 if TABLES[name].partitions else 2)) == path

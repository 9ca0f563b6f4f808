"""The whole chain, as a person runs it: Snakemake, real models, a real PostgreSQL."""

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import jiwer
import pytest
import yaml

from earmark import REPOSITORY, database
from earmark.catalogue import discover
from earmark.database import connect, connection_string
from earmark.volume import Volume

DEMO = REPOSITORY / "demo"
EXPECTED = json.loads((DEMO / "expected.json").read_text(encoding="utf-8"))
STAGES = [
    "fetch_archive",
    "unpack_archive",
    "encode_opus",
    "transcribe_audio",
    "classify_transcripts",
    "load_pg",
]

ROWS = """
    SELECT a.archive, af.ordinal, af.original_filename, af.opus_path, af.status, af.error,
           af.duplicate_of, t.transcript_text, t.language, t.confidence,
           c.flag_category, c.flagged, c.flag_score
    FROM audio_files af
    JOIN archives a ON a.id = af.archive_id
    LEFT JOIN transcripts t ON t.audio_file_id = af.id
    LEFT JOIN classifications c ON c.audio_file_id = af.id
    ORDER BY a.archive, af.ordinal, c.flag_category
"""


class Run:
    """A place to run the workflow in: a volume, a source folder and a configuration."""

    def __init__(self, folder: Path, **changes: dict) -> None:
        self.folder = folder
        self.volume = Volume(folder / "volume")
        self.configfile = folder / "config.yaml"
        config = yaml.safe_load((DEMO / "config.yaml").read_text(encoding="utf-8"))
        config["volume"]["root"] = str(self.volume.root)
        for section, values in changes.items():
            config[section] = config.get(section, {}) | values
        folder.mkdir(parents=True, exist_ok=True)
        self.configfile.write_text(yaml.safe_dump(config), encoding="utf-8")

    def start(self, *options: str, **variables: str) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own."""
        command = [
            *("snakemake", "--snakefile", REPOSITORY / "workflow/Snakefile"),
            *("--profile", REPOSITORY / "profiles/local"),
            *("--configfile", self.configfile, "--directory", self.folder),
            *options,
        ]
        return subprocess.Popen(
            [str(part) for part in command],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, *options: str, **variables: str) -> tuple[int, str]:
        """Run Snakemake to its end; returns its exit code and what it said."""
        with self.start(*options, **variables) as process:
            said, _ = process.communicate(timeout=600)
        return process.returncode, said

    def query(self, sql: str) -> list[tuple]:
        with (
            connect(connection_string(None, self.volume.root)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql)
            return cursor.fetchall()

    def leftovers(self) -> list[Path]:
        """What a finished run must not leave behind."""
        unpacked = self.volume.unpacked("")
        return [
            *(unpacked.iterdir() if unpacked.exists() else ()),
            *self.volume.root.rglob("*.partial"),
        ]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo, run once to its end."""
    run = Run(tmp_path_factory.mktemp("demo"))
    code, said = run.finish()
    assert code == 0, said
    return run


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with one small archive: a few short clips and something that is no audio."""
    folder = tmp_path_factory.mktemp("small")
    with (
        tarfile.open(DEMO / "archives" / EXPECTED["small"]) as demo_archive,
        tarfile.open(folder / "small.tar", "w") as small,
    ):
        members = [member for member in demo_archive if member.isreg()]
        for member in sorted(members, key=lambda member: member.size)[:5]:
            small.addfile(member, demo_archive.extractfile(member))
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> list[tuple]:
    """The rows of a run over the small archive that nobody disturbed."""
    run = Run(tmp_path_factory.mktemp("undisturbed"), source={"directory": str(small_source)})
    code, said = run.finish()
    assert code == 0, said
    return run.query(ROWS)

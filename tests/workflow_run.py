"""One run of the workflow as a person starts it, on a volume and a source of its own."""

import json
import os
import subprocess
import tarfile
import time
from pathlib import Path

import yaml

from earmark import REPOSITORY, configuration
from earmark.ingest.catalogue import Archive
from earmark.ingest.source import source_of
from earmark.record.database import connect, connection_string, stop_embedded
from earmark.settings import Settings
from earmark.volume import Volume

DEMO = REPOSITORY / "demo"
EXPECTED = json.loads((DEMO / "expected.json").read_text(encoding="utf-8"))

#: All that a run stores about clips.
ROWS = """
    SELECT a.name, af.ordinal, af.original_filename, af.opus_path, af.status, af.error,
           af.duplicate_of, t.transcript_text, t.language, t.confidence,
           c.flag_category, c.flagged, c.flag_score
    FROM audio_files af
    JOIN archives a ON a.id = af.archive_id
    LEFT JOIN transcripts t ON t.audio_file_id = af.id
    LEFT JOIN classifications c ON c.audio_file_id = af.id
    ORDER BY a.name, af.ordinal, c.flag_category
"""


class Run:
    """A place to run the workflow in: a volume, a source folder, a configuration, a profile."""

    def __init__(self, folder: Path, volume: Path, profile: str = "local", **changes: dict) -> None:
        self.folder = folder
        self.profile = REPOSITORY / "profiles" / profile
        self.volume = Volume(volume)
        self.configfile = folder / "config.yaml"
        config = yaml.safe_load((DEMO / "config.yaml").read_text(encoding="utf-8"))
        config["volume"]["root"] = str(self.volume.root)
        config["asr"]["vad"] = "silero"  # pyannote takes longer to load than all the rest to run
        for section, values in changes.items():
            config[section] = config.get(section, {}) | values
        folder.mkdir(parents=True, exist_ok=True)
        self.configfile.write_text(yaml.safe_dump(config), encoding="utf-8")

    def start(self, *options: str, **variables: str) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own."""
        command = [
            *("snakemake", "--snakefile", REPOSITORY / "workflow/Snakefile"),
            *("--profile", self.profile),
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

    def date(self, archive: str) -> str:
        """The day of an archive at the source, as its paths have it."""
        (found,) = [file for file in source_of(self.settings()).files() if file.name == archive]
        return Archive(found.name, found.bytes, found.modified_ns).date

    def settings(self) -> Settings:
        """The configuration with its defaults."""
        return configuration.read(self.configfile)

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


def copy_volume(volume: Path, target: Path) -> None:
    """Copy a volume with the owners and times of its files, after stopping its server."""
    stop_embedded(volume)
    subprocess.run(["cp", "--archive", "--no-target-directory", volume, target], check=True)


def write_small_archive(folder: Path) -> None:
    """Write ``small.tar``: a few short clips of the demo and something that is no audio."""
    with (
        tarfile.open(DEMO / "archives" / EXPECTED["small"]) as demo_archive,
        tarfile.open(folder / "small.tar", "w") as small,
    ):
        members = [member for member in demo_archive if member.isreg()]
        for member in sorted(members, key=lambda member: member.size)[:5]:
            small.addfile(member, demo_archive.extractfile(member))


def wait_for(path: Path, text: str, process: subprocess.Popen[str]) -> str:
    """Wait until a log says something; returns the log."""
    said = wait_for_any([path], text, process)
    assert said is not None, process.stdout and process.stdout.read()
    return said


def wait_for_any(paths: list[Path], text: str, process: subprocess.Popen[str]) -> str | None:
    """Wait until one of some logs says something; None if the process ends before."""
    deadline = time.monotonic() + 300
    while process.poll() is None:
        for path in paths:
            if path.exists() and text in (said := path.read_text()):
                return said
        assert time.monotonic() < deadline, f"none of these said {text!r}: {paths}"
        time.sleep(0.02)
    return None

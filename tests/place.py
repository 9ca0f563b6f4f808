"""A place where archives come, are finished and are told of, without a run of the workflow."""

import json
import os
import time
from pathlib import Path
from typing import Any

import yaml

from earmark import cli, configuration
from earmark.ingest import catalogue
from earmark.ingest.source import source_of
from earmark.record.database import connect, display
from earmark.record.load import load_archive
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, write_table
from earmark.volume import Volume
from earmark.watch.status import Status, status

HOUR = 3600.0


class Place:
    """A volume, a source beside it, and a configuration of both."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.volume = Volume(root)
        self.source = folder / "source"
        self.source.mkdir()
        self.file = folder / "config.yaml"
        source = {"kind": "folder", "directory": str(self.source), "poll_seconds": 0}
        self.configure(source=source, volume={"root": str(root)})

    def configure(self, **sections: dict[str, Any]) -> None:
        known = yaml.safe_load(self.file.read_text()) if self.file.exists() else {}
        self.file.write_text(yaml.safe_dump(known | sections))

    def use(self, conninfo: str) -> None:
        """Name the database to use."""
        self.configure(database={"url": display(conninfo)})

    def put(self, name: str, age_seconds: float = 86_400) -> None:
        """Let an archive appear at the source."""
        (self.source / name).write_bytes(b"tar")
        then = time.time() - age_seconds
        os.utime(self.source / name, (then, then))

    def poll(self) -> catalogue.Catalogue:
        config = configuration.read(self.file)
        return catalogue.poll(source_of(config), self.volume, 0)

    def status(self) -> Status:
        return status(configuration.read(self.file))

    def show(self, *options: str) -> int:
        return cli.main(["status", "--configfile", str(self.file), *options])

    def finish(
        self, conninfo: str, name: str, *, flagged: int = 0, clean: int = 0, broken: int = 0,
        status: str = "ok", hours_ago: float = 0.0, date: str = "2026-11-02",
    ) -> Path:  # fmt: skip
        """Let an archive go through loading; returns its receipt."""
        place = self.volume
        good = flagged + clean
        members = [member(name, ordinal, date) for ordinal in range(good)]
        failed = {"status": "failed", "opus_path": None, "duration_seconds": None}
        members += [member(name, good + n, date) | failed for n in range(broken)]
        heard = [
            {"archive": name, "ordinal": ordinal, "text": "text", "segments": [], "status": "ok"}
            for ordinal in range(good)
        ]
        judged = [
            judgement(name, ordinal, category, 0.9 if ordinal < flagged else 0.1)
            for ordinal in range(good)
            for category in ("scams", "threats")
        ]
        paths = (
            place.manifest(date, name),
            place.transcripts("large-v2", date, name),
            place.classes("2026-11", date, name),
        )
        write_table(paths[0], MANIFEST, members, {"archive_status": status})
        write_table(paths[1], TRANSCRIPTS, heard, {})
        known = json.dumps({"scams": "0" * 64, "threats": "1" * 64})
        write_table(paths[2], CLASSES, judged, {"policy_sha256": known})
        receipt = place.receipt(date, name)
        load_archive(*paths, receipt, conninfo, name, date, "large-v2", "2026-11")
        then = time.time() - hours_ago * HOUR
        os.utime(receipt, (then, then))
        with connect(conninfo) as connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE audio_files SET created_at = now() - %s * INTERVAL '1 hour', "
                "processed_at = now() - %s * INTERVAL '1 hour' WHERE archive_source = %s",
                [hours_ago, hours_ago, name],
            )
        return receipt


def member(archive: str, ordinal: int, date: str) -> dict[str, Any]:
    return {
        "archive": archive,
        "ordinal": ordinal,
        "member": f"{ordinal}.mp3",
        "opus_path": f"audio/date={date}/{archive}/{ordinal:06d}.opus",
        "source_sha256": f"{ordinal:064x}",
        "source_bytes": 1000,
        "source_format": "mp3",
        "opus_bytes": 500,
        "duration_seconds": 90.0,
        "status": "ok",
        "selected": True,
        "inclusion_probability": 1.0,
    }


def judgement(archive: str, ordinal: int, category: str, score: float) -> dict[str, Any]:
    return {
        "archive": archive,
        "ordinal": ordinal,
        "category": category,
        "flagged": score >= 0.5,
        "score": score,
        "threshold": 0.5,
        "truncated": False,
        "answer": "logits",
        "status": "ok",
    }

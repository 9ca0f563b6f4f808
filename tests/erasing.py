"""Two loaded archives that share a content, to be erased."""

import json
from typing import Any

import pyarrow.parquet as pq
from place import Place, judgement, member

from earmark import configuration
from earmark.record.database import connect
from earmark.record.erasure import (
    Found,
    clip_in_archive,
    erase,
    find,
)
from earmark.record.load import load_archive
from earmark.tables import (
    CLASSES,
    MANIFEST,
    TRANSCRIPTS,
    write_table,
)
from earmark.watch.report import gather, write_report

DATE = "2026-11-02"
#: The content of clip 1 of a.tar, of clip 4 of a.tar and of clip 0 of b.tar.
SECRET = "5ec3e7" + 58 * "0"
WORDS = "a secret that nobody should know"
#: What the review desk keeps of clips, and who opened them.
REVIEWS = (
    *("review_decisions", "review_claims", "second_reviews", "review_waiting", "review_access"),
    *("review_begun", "review_drafts", "review_sample"),
)


class Erasing:
    """Two archives, three of whose clips are one content."""

    def __init__(self, place: Place, conninfo: str) -> None:
        self.place, self.volume, self.conninfo = place, place.volume, conninfo
        place.use(conninfo)
        self.load("a.tar", [f"{n:064x}" if n not in (1, 4) else SECRET for n in range(5)])
        self.load("b.tar", [SECRET, 64 * "b"])
        self.report()

    def report(self) -> None:
        config = configuration.read(self.place.file)
        write_report(config, gather(config))

    def load(self, archive: str, contents: list[str]) -> None:
        """Have an archive of some contents done and loaded."""
        self.make(archive, contents)
        receipt = self.volume.receipt(DATE, archive)
        load_archive(*self.files, receipt, self.conninfo, archive, DATE, "large-v2", "2026-11")
        fetched = self.volume.incoming(archive)
        fetched.parent.mkdir(exist_ok=True)
        fetched.write_text(WORDS)

    def make(self, archive: str, contents: list[str]) -> None:
        """Write the tables and audio of an archive of some contents."""
        members, heard, judged = [], [], []
        first: dict[str, int] = {}
        for ordinal, sha in enumerate(contents):
            row = member(archive, ordinal, DATE) | {"source_sha256": sha, "encoded_at": None}
            row["member"] = f"{WORDS}.mp3" if sha == SECRET else f"{ordinal}.mp3"
            if sha in first:
                row |= {"duplicate_of": first[sha], "opus_path": None}
            else:
                first[sha] = ordinal
                text = WORDS if sha == SECRET else f"clip {ordinal}"
                heard.append(
                    {"archive": archive, "ordinal": ordinal, "text": text, "status": "ok",
                     "segments": [{"start": 0.0, "end": 1.0, "text": text, "avg_logprob": -0.1}]}
                )  # fmt: skip
                judged.append(judgement(archive, ordinal, "scams", 0.9) | {"raw_response": text})
                opus = self.volume.root / row["opus_path"]
                opus.parent.mkdir(parents=True, exist_ok=True)
                opus.write_bytes(text.encode())
            members.append(row)
        self.files = (
            self.volume.manifest(DATE, archive),
            self.volume.transcripts("large-v2", DATE, archive),
            self.volume.classes("2026-11", DATE, archive),
        )
        write_table(self.files[0], MANIFEST, members, {"archive_status": "ok"})
        write_table(self.files[1], TRANSCRIPTS, heard, {"model": "large-v2"})
        write_table(self.files[2], CLASSES, judged, {"policy_sha256": json.dumps({"scams": "0"})})

    def find(self, archive: str = "a.tar", ordinal: int = 1) -> tuple[str | None, Found]:
        sha256, known = clip_in_archive(self.volume, archive, ordinal)
        return sha256, find(self.volume, self.conninfo, sha256, known)

    def erase(self) -> list[str]:
        return list(erase(self.volume, self.conninfo, *self.find()))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with connect(self.conninfo) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def traces(self, words: str) -> list[str]:
        """Where a text still is, in any file of the volume or row of the database."""
        found = []
        for path in self.volume.root.rglob("*"):
            if not path.is_file() or "state/postgres" in str(path):
                continue
            said = path.read_bytes()
            if path.suffix == ".parquet":
                rows = pq.read_table(path, partitioning=None).to_pylist()
                said = json.dumps(rows, default=str).encode()
            if words.encode() in said:
                found.append(str(path.relative_to(self.volume.root)))
        for table in ("audio_files", "transcripts", "classifications", "ra_queue", *REVIEWS):
            if self.rows(f"SELECT FROM {table} t WHERE t::text LIKE '%{words}%'"):
                found.append(table)
        return found

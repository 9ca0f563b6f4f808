"""Where every file lies below ``volume.root``.

The rules of the workflow take their patterns from here too: ``{archive}`` and ``{date}`` are
as good as names.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from earmark.settings import Settings

#: What an archive's name may be: it becomes part of paths, of a wildcard and of log lines.
ARCHIVE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@ -]{0,199}")


#: The stages that an archive goes through, in order, as their rules are called.
STAGES = (
    "fetch_archive",
    "unpack_archive",
    "encode_opus",
    "transcribe_audio",
    "classify_transcripts",
    "load_pg",
)


@dataclass(frozen=True)
class Volume:
    """The files of one archive on the volume.

    Attributes:
        root: The folder that ``volume.root`` names.
    """

    root: Path

    @classmethod
    def of(cls, settings: Settings) -> "Volume":
        """The volume that ``volume.root`` names."""
        return cls(Path(settings.volume.root))

    def incoming(self, archive: str) -> Path:
        """The fetched archive."""
        return self.root / "incoming" / archive

    def unpacked(self, archive: str) -> Path:
        """Folder of the extracted members, there only while they are encoded."""
        return self.root / "unpacked" / archive

    def audio(self, date: str, archive: str) -> Path:
        """Folder of the archive's Opus files."""
        return self.root / "audio" / f"date={date}" / archive

    def table(self, name: str, date: str, archive: str, **partitions: str) -> Path:
        """Parquet file of one archive in a table of :data:`earmark.tables.TABLES`."""
        folders = (f"{key}={value}" for key, value in (partitions | {"date": date}).items())
        return self.root.joinpath(name, *folders, f"{archive}.parquet")

    def manifest(self, date: str, archive: str) -> Path:
        """Parquet file with one row per member."""
        return self.table("manifests", date, archive)

    def transcripts(self, asr: str, date: str, archive: str) -> Path:
        """Parquet file with one row per transcribed clip."""
        return self.table("transcripts", date, archive, asr=asr)

    def classes(self, policy_set: str, date: str, archive: str) -> Path:
        """Parquet file with one row per clip and policy category."""
        return self.table("classes", date, archive, policy=policy_set)

    def receipt(self, date: str, archive: str) -> Path:
        """JSON file that says the archive is in the database."""
        return self.root / "processed" / f"date={date}" / f"{archive}.json"

    def report(self, date: str) -> Path:
        """The page of the daily report."""
        return self.root / "reports" / date / "index.html"

    @property
    def reports_lock(self) -> Path:
        """Held while the queue is written beside a report, or a clip is erased from there."""
        return self.state / "reports.lock"

    def quarantine(self, archive: str) -> Path:
        """JSON file that keeps the archive from being tried again."""
        return self.root / "failed" / f"{archive}.json"

    def attempts(self, archive: str) -> Path:
        """JSON file of the attempts at the archive's stages that have not succeeded."""
        return self.state / "attempts" / f"{archive}.json"

    def log(self, stage: str, archive: str, date: str = "") -> Path:
        """Log of one stage of one archive."""
        return self.root / "logs" / stage / (f"date={date}" if date else "") / f"{archive}.log"

    @property
    def state(self) -> Path:
        """Folder for what Earmark remembers: catalogue, locks, embedded database."""
        return self.root / "state"

    def entry(self, archive: str) -> Path:
        """JSON file that describes a pending archive at the source."""
        return self.state / "archives" / f"{archive}.json"

    def redo(self, archive: str) -> Path:
        """JSON file that says from which stage on an archive is to be done again."""
        return self.state / "redo" / f"{archive}.json"

    @property
    def catalogue_lock(self) -> Path:
        """Held while the catalogue and the entries are written."""
        return self.state / "catalogue.lock"

    @property
    def cuts(self) -> Path:
        """Folder with a file for each archive that loose files were put into."""
        return self.state / "cuts"

    @property
    def cuts_lock(self) -> Path:
        """Held while loose files are put into archives."""
        return self.state / "cuts.lock"

    @property
    def transfers(self) -> Path:
        """Folder of the archives that are being fetched."""
        return self.state / "transfers"

    def transfer(self, archive: str, token: str) -> Path:
        """What has come of an archive so far; the token is that of the archive's lock."""
        return self.transfers / f"{archive}.{token}"

    @property
    def checkpoints(self) -> Path:
        """Folder of the rows that long stages have made and not finished with."""
        return self.state / "parts"

    def checkpoint(self, archive: str, stage: str) -> Path:
        """Folder of what one stage of an archive has made so far."""
        return self.checkpoints / f"{archive}.{stage}"

    def selection(self, date: str) -> Path:
        """JSON file that says with what probability clips of a date's archives were drawn."""
        return self.state / "selection" / f"date={date}.json"

    @property
    def selection_lock(self) -> Path:
        """Held while such a probability is fixed."""
        return self.state / "selection.lock"

    def deduplication(self, asr: str) -> Path:
        """Folder that says where contents have been transcribed."""
        return self.state / "contents" / f"asr={asr}"

    @property
    def deduplication_lock(self) -> Path:
        """Held while something is added there."""
        return self.state / "contents.lock"

    @property
    def evaluations(self) -> Path:
        """Folder of what policy sets and models were found to be worth."""
        return self.state / "evaluations"

    @property
    def evaluation_scores(self) -> Path:
        """Folder of the scores that evaluations asked for."""
        return self.evaluations / "scores"

    @property
    def erased(self) -> Path:
        """Folder with a file for each content that was erased, named by its SHA-256."""
        return self.state / "erased"

    @property
    def forgetting(self) -> Path:
        """File that is there while the database may hold what was erased in pages and logs."""
        return self.state / "forgetting"

    @property
    def spilled(self) -> Path:
        """Folder with a folder for each query that may not fit into memory."""
        return self.state / "analysis"

    @property
    def transfers_lock(self) -> Path:
        """Held while it is decided whether there is room for one more transfer."""
        return self.state / "transfers.lock"

    @property
    def cycle_lock(self) -> Path:
        """Held by the one ``earmark cycle`` of this volume, and by the driver it started."""
        return self.state / "cycle.lock"

    @property
    def runs(self) -> Path:
        """Folder of the configurations that the latest cycles ran with."""
        return self.state / "runs"

    @property
    def driver_lock(self) -> Path:
        """Held by the one process that schedules jobs on this volume."""
        return self.state / "driver.lock"

    @property
    def locks(self) -> Path:
        """Folder of the locks on archives."""
        return self.state / "locks"

    def archive_lock(self, archive: str) -> Path:
        """Held by the one process that works on an archive."""
        return self.locks / f"{archive}.lock"

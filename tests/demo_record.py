"""The demo's clips as a record to review: made by the stages of the workflow, inside this process.

A run of the demo takes minutes, most of them to start a process for each stage of each archive.
Nothing here is about that: it is the same code on the same archives with the same models.
"""

from pathlib import Path

from demo_clips import DEMO, EXPECTED, QUICK

from earmark import REPOSITORY
from earmark.ingest.encode import encode_archive
from earmark.ingest.unpack import unpack_archive
from earmark.policy.classify import classify_archive
from earmark.policy.policies import load_policies
from earmark.record.load import load_archive
from earmark.settings import ClassifySettings, EncodeSettings
from earmark.speech.transcribe import transcribe_archive
from earmark.volume import Volume

DATE = "2026-11-02"
ARCHIVES = [name for name, facts in EXPECTED["archives"].items() if facts["status"] == "ok"]
POLICIES = load_policies(REPOSITORY / "config/policies", ["scams", "violent-threats", "harassment"])
CLASSIFIER = ClassifySettings(
    model=str(DEMO / "models/gemma-demo"), adapter=str(DEMO / "models/cope-demo"),
    device="cpu", quantization=None, dtype="float32", threads=1,
)  # fmt: skip


def make(root: Path) -> None:
    """Unpack, encode, transcribe and classify the demo's archives into a volume."""
    volume = Volume(root)
    for archive in ARCHIVES:
        unpacked, manifest = volume.unpacked(archive), volume.manifest(DATE, archive)
        unpack_archive(DEMO / "archives" / archive, unpacked)
        encode_archive(
            unpacked, volume.audio(DATE, archive), manifest, archive, root,
            EncodeSettings(workers=1),
        )  # fmt: skip
        transcripts = volume.transcripts("demo", DATE, archive)
        transcribe_archive(
            manifest, transcripts, root, QUICK, volume.checkpoint(archive, "transcribe_audio")
        )
        classify_archive(
            transcripts, volume.classes("demo", DATE, archive), POLICIES, CLASSIFIER, "demo",
            volume.checkpoint(archive, "classify_transcripts"),
        )  # fmt: skip


def load(root: Path, conninfo: str) -> None:
    """Load them into a database; every clip that nothing flagged is a control."""
    volume = Volume(root)
    for archive in ARCHIVES:
        load_archive(
            volume.manifest(DATE, archive),
            volume.transcripts("demo", DATE, archive),
            volume.classes("demo", DATE, archive),
            volume.receipt(DATE, archive),
            conninfo,
            archive,
            DATE,
            "demo",
            "demo",
            control_fraction=1.0,
            policy_texts=[policy.text for policy in POLICIES],
        )

"""Encode one archive's members to Opus and write its manifest."""

from pathlib import Path

from earmark.ingest.encode import encode_archive
from earmark.record.erasure import Erased
from earmark.driver.stages import stage
from earmark.ingest.media import EncodeSettings
from earmark.disk_space import DiskSpaceLimits, work_when_there_is_space_to_encode
from earmark.ingest.selection import Selection, SelectionSettings
from earmark.volume import Volume

archive, date = snakemake.wildcards.archive, snakemake.wildcards.date
volume = Volume(Path(snakemake.config["volume"]["root"]))
selection = SelectionSettings(**snakemake.config["selection"])
room = DiskSpaceLimits(**snakemake.config["room"])


def encode():
    encode_archive(
        Path(snakemake.input.folder),
        audio_folder=volume.audio(date, archive),
        manifest=Path(snakemake.output.manifest),
        archive=archive,
        volume_root=volume.root,
        settings=EncodeSettings(**snakemake.config["encode"] | {"workers": snakemake.threads}),
        selection=Selection(selection, volume, date),
        erased=Erased(volume),
    )


with stage("encode_opus", archive, volume, Path(snakemake.log[0])) as lock:
    work_when_there_is_space_to_encode(encode, volume.root, room, lock.renew)

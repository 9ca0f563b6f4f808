"""Encode one archive's members to Opus and write its manifest."""

from pathlib import Path

from msgspec.structs import replace

from earmark.configuration import resolve
from earmark.disk_space import work_when_there_is_space_to_encode
from earmark.driver.stages import stage
from earmark.ingest.encode import encode_archive
from earmark.ingest.selection import Selection
from earmark.ingest.unpack import is_unpacked, unpack_archive
from earmark.record.erasure import Erased
from earmark.volume import Volume

archive, date = snakemake.wildcards.archive, snakemake.wildcards.date
settings = resolve(snakemake.config)
volume = Volume.of(settings)


def encode():
    unpacked = Path(snakemake.input.folder)
    if not is_unpacked(unpacked):
        unpack_archive(volume.incoming(archive), unpacked, settings.unpack)
    encode_archive(
        unpacked,
        audio_folder=volume.audio(date, archive),
        manifest=Path(snakemake.output.manifest),
        archive=archive,
        volume_root=volume.root,
        settings=replace(settings.encode, workers=snakemake.threads),
        selection=Selection(settings.selection, volume, date),
        erased=Erased(volume),
    )


with stage("encode_opus", archive, volume, Path(snakemake.log[0])) as lock:
    work_when_there_is_space_to_encode(encode, volume.root, settings.room, lock.renew)

"""Extract the members of one archive under names of our own."""

from pathlib import Path

from earmark.configuration import resolve
from earmark.disk_space import work_when_there_is_space_to_encode
from earmark.driver.stages import stage
from earmark.ingest.unpack import unpack_archive
from earmark.volume import Volume

settings = resolve(snakemake.config)
volume = Volume.of(settings)


def unpack():
    unpack_archive(
        Path(snakemake.input.archive),
        destination=Path(snakemake.output.folder),
        limits=settings.unpack,
    )


with stage("unpack_archive", snakemake.wildcards.archive, volume, Path(snakemake.log[0])) as lock:
    needed = Path(snakemake.input.archive).stat().st_size
    work_when_there_is_space_to_encode(unpack, volume.root, settings.room, lock.renew, needed)

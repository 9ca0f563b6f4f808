"""Extract the members of one archive under names of our own."""

from pathlib import Path

from earmark.ingest.unpack import UnpackLimits, unpack_archive
from earmark.driver.stages import stage
from earmark.disk_space import DiskSpaceLimits, work_when_there_is_space_to_encode
from earmark.volume import Volume

volume = Volume(Path(snakemake.config["volume"]["root"]))
room = DiskSpaceLimits(**snakemake.config["room"])


def unpack():
    unpack_archive(
        Path(snakemake.input.archive),
        destination=Path(snakemake.output.folder),
        limits=UnpackLimits(**snakemake.config["unpack"]),
    )


with stage("unpack_archive", snakemake.wildcards.archive, volume, Path(snakemake.log[0])) as lock:
    needed = Path(snakemake.input.archive).stat().st_size
    work_when_there_is_space_to_encode(unpack, volume.root, room, lock.renew, needed)

"""Extract the members of one archive under names of our own."""

from pathlib import Path

from earmark.archive import UnpackLimits, unpack_archive
from earmark.logs import stage
from earmark.volume import Volume

volume = Volume(Path(snakemake.config["volume"]["root"]))

with stage("unpack_archive", snakemake.wildcards.archive, volume, Path(snakemake.log[0])):
    unpack_archive(
        Path(snakemake.input.archive),
        destination=Path(snakemake.output.folder),
        limits=UnpackLimits(**snakemake.config["unpack"]),
    )

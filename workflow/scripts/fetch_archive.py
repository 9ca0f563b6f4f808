"""Bring one archive from the source to the volume."""

from pathlib import Path

from earmark.logs import stage
from earmark.transfer import fetch_archive
from earmark.volume import Volume

archive = snakemake.wildcards.archive
volume = Volume(Path(snakemake.config["volume"]["root"]))

with stage("fetch_archive", archive, volume, Path(snakemake.log[0])):
    fetch_archive(
        archive,
        source=Path(snakemake.config["source"]["directory"]),
        target=Path(snakemake.output[0]),
        volume=volume,
    )

"""Bring one archive from the source to the volume."""

from pathlib import Path

from earmark.logs import stage
from earmark.transfer import fetch_archive
from earmark.volume import Volume

volume = Volume(Path(snakemake.config["volume"]["root"]))

with stage("fetch_archive", snakemake.wildcards.archive, volume, Path(snakemake.log[0])):
    fetch_archive(
        Path(snakemake.input.entry),
        source=Path(snakemake.config["source"]["directory"]),
        target=Path(snakemake.output.archive),
    )

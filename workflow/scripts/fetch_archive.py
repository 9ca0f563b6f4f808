"""Bring one archive from the source to the volume."""

from pathlib import Path

from earmark.configuration import resolve
from earmark.driver.stages import stage
from earmark.ingest.fetch import fetch_archive
from earmark.ingest.source import source_of
from earmark.volume import Volume

settings = resolve(snakemake.config)
archive = snakemake.wildcards.archive
volume = Volume.of(settings)
# It ends by itself before it is given up.
lease_seconds = 1.1 * settings.transfer.timeout_minutes * 60

with stage("fetch_archive", archive, volume, Path(snakemake.log[0]), lease_seconds) as lock:
    fetch_archive(
        Path(snakemake.input.entry),
        source=source_of(settings),
        volume=volume,
        settings=settings.transfer,
        limits=settings.room,
        lock=lock,
        verify=settings.source.verify,
    )

"""Bring one archive from the source to the volume."""

from pathlib import Path

from earmark.driver.stages import stage
from earmark.disk_space import DiskSpaceLimits
from earmark.ingest.source import source_of
from earmark.ingest.fetch import TransferSettings, fetch_archive
from earmark.volume import Volume

config = snakemake.config
archive = snakemake.wildcards.archive
volume = Volume(Path(config["volume"]["root"]))
settings = TransferSettings(config["transfer"]["timeout_minutes"], config["source"]["verify"])
lease_seconds = 1.1 * settings.timeout_minutes * 60  # it ends by itself before it is given up

with stage("fetch_archive", archive, volume, Path(snakemake.log[0]), lease_seconds) as lock:
    fetch_archive(
        Path(snakemake.input.entry),
        source=source_of(config),
        volume=volume,
        settings=settings,
        limits=DiskSpaceLimits(**config["room"]),
        lock=lock,
    )

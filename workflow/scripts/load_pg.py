"""Load one archive into PostgreSQL, leave the receipt, and let the fetched archive go."""

from pathlib import Path

from earmark import checkpoints
from earmark.configuration import resolve
from earmark.driver.damage import forget_damaged
from earmark.driver.stages import stage
from earmark.ingest.catalogue import modified_ns
from earmark.names import policy_texts
from earmark.record.database import connection_string
from earmark.record.erasure import withhold
from earmark.record.load import load_archive
from earmark.volume import Volume

archive, date = snakemake.wildcards.archive, snakemake.wildcards.date
settings = resolve(snakemake.config)
volume = Volume.of(settings)

with stage("load_pg", archive, volume, Path(snakemake.log[0])) as lock:
    withhold(volume, archive, date)
    forget_damaged(volume, archive, date)
    load_archive(
        manifest=Path(snakemake.input.manifest),
        transcripts=Path(snakemake.input.transcripts),
        classes=Path(snakemake.input.classes),
        receipt=Path(snakemake.output.receipt),
        conninfo=connection_string(settings.database.url, volume.root),
        archive=archive,
        date=date,
        asr=settings.asr.name,
        policy=settings.classify.policy,
        policy_texts=policy_texts(volume, settings.classify.policy),
        control_fraction=settings.queue.control_fraction,
        patience_seconds=settings.database.patience_minutes * 60,
        waiting=lock.renew,
        order=settings.source.order,
        modified_ns=modified_ns(volume, archive, date),
    )
    checkpoints.remove(volume, archive)
    if settings.retention.archives == "delete":
        volume.incoming(archive).unlink(missing_ok=True)

"""Load one archive into PostgreSQL, leave the receipt, and let the fetched archive go."""

from pathlib import Path

from earmark import checkpoints
from earmark.record.database import connection_string
from earmark.record.erasure import withhold
from earmark.record.load import load_archive
from earmark.names import policy_texts
from earmark.driver.stages import stage
from earmark.volume import Volume

archive, date = snakemake.wildcards.archive, snakemake.wildcards.date
volume = Volume(Path(snakemake.config["volume"]["root"]))

with stage("load_pg", archive, volume, Path(snakemake.log[0])) as lock:
    withhold(volume, archive, date)
    load_archive(
        manifest=Path(snakemake.input.manifest),
        transcripts=Path(snakemake.input.transcripts),
        classes=Path(snakemake.input.classes),
        receipt=Path(snakemake.output.receipt),
        conninfo=connection_string(snakemake.config["database"]["url"], volume.root),
        archive=archive,
        date=date,
        asr=snakemake.config["asr"]["name"],
        policy=snakemake.config["classify"]["policy"],
        policy_texts=policy_texts(volume, snakemake.config["classify"]["policy"]),
        control_fraction=snakemake.config["queue"]["control_fraction"],
        patience_seconds=snakemake.config["database"]["patience_minutes"] * 60,
        waiting=lock.renew,
        order=snakemake.config["source"]["order"],
    )
    checkpoints.remove(volume, archive)
    if snakemake.config["retention"]["archives"] == "delete":
        volume.incoming(archive).unlink(missing_ok=True)

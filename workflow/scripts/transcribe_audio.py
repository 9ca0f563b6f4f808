"""Transcribe the clips of one archive."""

from pathlib import Path

from earmark.contents import Contents
from earmark.erasure import withhold
from earmark.stages import stage
from earmark.names import asr_name
from earmark.recognition import AsrSettings
from earmark.speech import transcribe_archive
from earmark.volume import Volume

archive, date = snakemake.wildcards.archive, snakemake.wildcards.date
volume = Volume(Path(snakemake.config["volume"]["root"]))
name = asr_name(snakemake.config, volume)

with stage("transcribe_audio", archive, volume, Path(snakemake.log[0])):
    name.check()
    withhold(volume, archive, date)
    transcribe_archive(
        Path(snakemake.input.manifest),
        output=Path(snakemake.output.transcripts),
        volume_root=volume.root,
        settings=AsrSettings(**snakemake.config["asr"] | {"threads": snakemake.threads}),
        parts=volume.parts_of(archive, "transcribe_audio"),
        contents=Contents(volume, name.name, date),
    )
    name.bind()

"""Transcribe the clips of one archive."""

from pathlib import Path

from msgspec.structs import replace

from earmark.configuration import resolve
from earmark.driver.stages import stage
from earmark.names import asr_name
from earmark.record.erasure import withhold
from earmark.speech.decoding import DECODING_FACTS
from earmark.speech.deduplication import DeduplicationIndex
from earmark.speech.transcribe import transcribe_archive
from earmark.volume import Volume

archive, date = snakemake.wildcards.archive, snakemake.wildcards.date
settings = resolve(snakemake.config)
volume = Volume.of(settings)
name = asr_name(settings, volume, DECODING_FACTS)

with stage("transcribe_audio", archive, volume, Path(snakemake.log[0])):
    name.check()
    withhold(volume, archive, date)
    transcribe_archive(
        Path(snakemake.input.manifest),
        output=Path(snakemake.output.transcripts),
        volume_root=volume.root,
        settings=replace(settings.asr, threads=snakemake.threads),
        checkpoint=volume.checkpoint(archive, "transcribe_audio"),
        index=DeduplicationIndex(volume, name.name, date),
    )
    name.bind()

"""Classify the transcripts of one archive against the written policies."""

from pathlib import Path

from msgspec.structs import replace

from earmark.configuration import resolve
from earmark.driver.stages import stage
from earmark.names import as_bound, policy_set_name
from earmark.policy.classify import classify_archive
from earmark.policy.policies import load_policies, prompt_sha256, texts_of
from earmark.policy.quantization import chosen
from earmark.policy.screen import with_screen
from earmark.volume import Volume

archive = snakemake.wildcards.archive
settings = resolve(snakemake.config)
volume = Volume.of(settings)
classify = replace(settings.classify, threads=snakemake.threads)

with stage("classify_transcripts", archive, volume, Path(snakemake.log[0])):
    classify = chosen(as_bound(classify, volume))
    settings = replace(settings, classify=classify)
    policies = load_policies(Path(classify.policies), classify.categories)
    prompt = prompt_sha256(classify.answer)
    texts = texts_of(with_screen(policies, classify))
    name = policy_set_name(settings, volume, texts, prompt)
    name.check()
    classify_archive(
        Path(snakemake.input.transcripts),
        output=Path(snakemake.output.classes),
        policies=policies,
        settings=classify,
        policy_name=classify.policy,
        checkpoint=volume.checkpoint(archive, "classify_transcripts"),
        manifest=Path(snakemake.input.manifest),
    )
    name.bind()

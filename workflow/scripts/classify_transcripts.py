"""Classify the transcripts of one archive against the written policies."""

from pathlib import Path

from earmark.classifier import ClassifySettings
from earmark.classify import classify_archive
from earmark.stages import stage
from earmark.names import policy_name
from earmark.policy import load_policies
from earmark.volume import Volume

archive = snakemake.wildcards.archive
volume = Volume(Path(snakemake.config["volume"]["root"]))
settings = snakemake.config["classify"] | {"threads": snakemake.threads}
policy = settings.pop("policy")
folder, categories = Path(settings.pop("policies")), settings.pop("categories")

with stage("classify_transcripts", archive, volume, Path(snakemake.log[0])):
    policies = load_policies(folder, categories)
    name = policy_name(snakemake.config, volume, policies)
    name.check()
    classify_archive(
        Path(snakemake.input.transcripts),
        output=Path(snakemake.output.classes),
        policies=policies,
        settings=ClassifySettings(**settings),
        policy_name=policy,
        parts=volume.parts_of(archive, "classify_transcripts"),
    )
    name.bind()

"""Classify the transcripts of one archive against the written policies."""

from pathlib import Path

from earmark.classify import ClassifySettings, classify_archive
from earmark.logs import stage
from earmark.policy import load_policies
from earmark.volume import Volume

volume = Volume(Path(snakemake.config["volume"]["root"]))
config = dict(snakemake.config["classify"])
policy_name = config.pop("policy")
policies = load_policies(Path(config.pop("policies")), config.pop("categories"))

with stage("classify_transcripts", snakemake.wildcards.archive, volume, Path(snakemake.log[0])):
    classify_archive(
        Path(snakemake.input.transcripts),
        output=Path(snakemake.output.classes),
        policies=policies,
        settings=ClassifySettings(**config),
        policy_name=policy_name,
    )

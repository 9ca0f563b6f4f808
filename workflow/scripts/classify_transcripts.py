"""Classify the transcripts of one archive against the written policies."""

from pathlib import Path

from earmark.policy.classifier import ClassifySettings
from earmark.policy.classify import classify_archive
from earmark.driver.stages import stage
from earmark.names import policy_set_name
from earmark.policy.policies import load_policies, prompt_sha256, texts_of
from earmark.volume import Volume

archive = snakemake.wildcards.archive
volume = Volume(Path(snakemake.config["volume"]["root"]))
settings = snakemake.config["classify"] | {"threads": snakemake.threads}
policy = settings.pop("policy")
folder, categories = Path(settings.pop("policies")), settings.pop("categories")

with stage("classify_transcripts", archive, volume, Path(snakemake.log[0])):
    policies = load_policies(folder, categories)
    name = policy_set_name(
        snakemake.config, volume, texts_of(policies), prompt_sha256(settings["answer"])
    )
    name.check()
    classify_archive(
        Path(snakemake.input.transcripts),
        output=Path(snakemake.output.classes),
        policies=policies,
        settings=ClassifySettings(**settings),
        policy_name=policy,
        checkpoint=volume.checkpoint(archive, "classify_transcripts"),
    )
    name.bind()

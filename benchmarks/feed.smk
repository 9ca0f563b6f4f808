# The stages of the workflow with `sleep` in the place of work, for benchmarks/feed.py. Driver,
# feed, profile and SLURM are the real ones. How long an archive holds a GPU stands in its name:
# feed_{number}_{seconds of transcription}_{seconds of classification}.tar


include: "../workflow/rules/common.smk"
include: "../workflow/rules/driver.smk"


rule all:
    default_target: True
    input:
        lambda wildcards: receipts_of(explained(work.pending)),


def seconds(archive, stage):
    return archive.removesuffix(".tar").split("_")[
        {"transcribe": 2, "classify": 3}[stage]
    ]


rule fetch_archive:
    input:
        volume.entry("{archive}"),
    output:
        volume.incoming("{archive}"),
    priority: lambda wildcards: urgency(wildcards.archive)
    threads: 0
    resources:
        transfers=1,
        cpus_per_task=1,
    shell:
        "sleep 1; touch {output}"


rule unpack_archive:
    input:
        volume.incoming("{archive}"),
    output:
        temp(directory(volume.unpacked("{archive}"))),
    priority: lambda wildcards: 1 + urgency(wildcards.archive)
    shell:
        "sleep 1; mkdir {output}"


rule encode_opus:
    input:
        volume.unpacked("{archive}"),
    output:
        volume.manifest("{date}", "{archive}"),
    priority: lambda wildcards: 2 + urgency(wildcards.archive)
    shell:
        "sleep 2; touch {output}"


rule transcribe_audio:
    input:
        volume.manifest("{date}", "{archive}"),
    output:
        volume.transcripts(settings.asr.name, "{date}", "{archive}"),
    priority: lambda wildcards: 3 + gpu_urgency(wildcards.archive)
    params:
        seconds=lambda wildcards: seconds(wildcards.archive, "transcribe"),
    shell:
        "sleep {params.seconds}; touch {output}"


rule classify_transcripts:
    input:
        volume.transcripts(settings.asr.name, "{date}", "{archive}"),
    output:
        volume.classes(settings.classify.policy, "{date}", "{archive}"),
    priority: lambda wildcards: 4 + gpu_urgency(wildcards.archive)
    params:
        seconds=lambda wildcards: seconds(wildcards.archive, "classify"),
    shell:
        "sleep {params.seconds}; touch {output}"


rule load_pg:
    input:
        entry=volume.entry("{archive}"),
        classes=volume.classes(settings.classify.policy, "{date}", "{archive}"),
    output:
        volume.receipt("{date}", "{archive}"),
    priority: lambda wildcards: 5 + urgency(wildcards.archive)
    shell:
        "cp {input.entry} {output}"

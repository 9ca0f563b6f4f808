# Requires  the archive's transcripts, its manifest and the written policies
# Produces  classes/policy={policy}/date={date}/{archive}.parquet, one row per clip and category


rule classify_transcripts:
    input:
        # For the hashes of its contents alone, which transcripts are never older than.
        manifest=ancient(volume.manifest("{date}", "{archive}")),
        transcripts=volume.transcripts(settings.asr.name, "{date}", "{archive}"),
    output:
        classes=volume.classes(settings.classify.policy, "{date}", "{archive}"),
    log:
        volume.log("classify_transcripts", "{archive}", "{date}"),
    priority: lambda wildcards: 4 + gpu_urgency(wildcards.archive)
    threads: settings.classify.threads
    resources:
        gpu=int(settings.classify.device == "cuda"),
    script:
        "../scripts/classify_transcripts.py"

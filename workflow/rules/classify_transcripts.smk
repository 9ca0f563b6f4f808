# Requires  the archive's transcripts and the written policies
# Produces  classes/policy={policy}/date={date}/{archive}.parquet, one row per clip and category


rule classify_transcripts:
    input:
        transcripts=volume.transcripts(config["asr"]["name"], "{date}", "{archive}"),
    output:
        classes=volume.classes(config["classify"]["policy"], "{date}", "{archive}"),
    log:
        volume.log("classify_transcripts", "{archive}", "{date}"),
    priority: lambda wildcards: 4 + gpu_urgency(wildcards.archive)
    threads: config["classify"]["threads"]
    resources:
        gpu=int(config["classify"]["device"] == "cuda"),
    script:
        "../scripts/classify_transcripts.py"

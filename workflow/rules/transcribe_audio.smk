# Requires  the archive's manifest and the Opus files it names
# Produces  transcripts/asr={asr}/date={date}/{archive}.parquet, one row per transcribed clip


rule transcribe_audio:
    input:
        manifest=volume.manifest("{date}", "{archive}"),
    output:
        transcripts=volume.transcripts(config["asr"]["name"], "{date}", "{archive}"),
    log:
        volume.log("transcribe_audio", "{archive}", "{date}"),
    priority: lambda wildcards: 3 + gpu_urgency(wildcards.archive)
    threads: config["asr"]["threads"]
    resources:
        gpu=int(config["asr"]["device"] == "cuda"),
    script:
        "../scripts/transcribe_audio.py"

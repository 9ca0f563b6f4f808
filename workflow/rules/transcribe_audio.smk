# Requires  the archive's manifest and the Opus files it names
# Produces  transcripts/asr={asr}/date={date}/{archive}.parquet, one row per transcribed clip


rule transcribe_audio:
    input:
        manifest=volume.manifest("{date}", "{archive}"),
    output:
        transcripts=volume.transcripts(settings.asr.name, "{date}", "{archive}"),
    log:
        volume.log("transcribe_audio", "{archive}", "{date}"),
    priority: lambda wildcards: 3 + gpu_urgency(wildcards.archive)
    threads: settings.asr.threads
    resources:
        gpu=int(settings.asr.device == "cuda"),
    script:
        "../scripts/transcribe_audio.py"

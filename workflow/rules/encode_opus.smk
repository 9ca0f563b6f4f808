# Requires  unpacked/{archive}/
# Produces  manifests/date={date}/{archive}.parquet, one row per member, and the Opus files it
#           names in audio/date={date}/{archive}/ (no output of the rule: retention may delete
#           audio without the archive being encoded again)


rule encode_opus:
    input:
        folder=volume.unpacked("{archive}"),
    output:
        manifest=volume.manifest("{date}", "{archive}"),
    log:
        volume.log("encode_opus", "{archive}", "{date}"),
    priority: lambda wildcards: 2 + urgency(wildcards.archive)
    threads: settings.encode.workers
    script:
        "../scripts/encode_opus.py"

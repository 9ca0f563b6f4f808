# Requires  the archive's manifest, transcripts and classes, and a migrated database
# Produces  processed/date={date}/{archive}.json, the receipt, after the rows are committed


rule load_pg:
    input:
        manifest=volume.manifest("{date}", "{archive}"),
        transcripts=volume.transcripts(settings.asr.name, "{date}", "{archive}"),
        classes=volume.classes(settings.classify.policy, "{date}", "{archive}"),
    output:
        receipt=volume.receipt("{date}", "{archive}"),
    log:
        volume.log("load_pg", "{archive}", "{date}"),
    priority: lambda wildcards: 5 + urgency(wildcards.archive)
    script:
        "../scripts/load_pg.py"

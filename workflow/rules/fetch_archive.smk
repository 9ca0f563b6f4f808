# Requires  state/archives/{archive}.json, which says what the archive at the source is
# Produces  incoming/{archive}, whole and of that size


rule fetch_archive:
    input:
        entry=volume.entry("{archive}"),
    output:
        archive=volume.incoming("{archive}"),
    log:
        volume.log("fetch_archive", "{archive}"),
    priority: 0
    conda:
        "../envs/earmark.yaml"
    script:
        "../scripts/fetch_archive.py"

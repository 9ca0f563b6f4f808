# Requires  the archive at the source, as the catalogue (state/catalogue.json) describes it
# Produces  incoming/{archive}, whole, with the size and the time of change it has there


rule fetch_archive:
    output:
        volume.incoming("{archive}"),
    log:
        volume.log("fetch_archive", "{archive}"),
    priority: 0
    conda:
        "../envs/earmark.yaml"
    script:
        "../scripts/fetch_archive.py"

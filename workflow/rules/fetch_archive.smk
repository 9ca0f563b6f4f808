# Requires  state/archives/{archive}.json, which says what the archive at the source is
# Produces  incoming/{archive}, whole and of that size, as soon as there is room for it


rule fetch_archive:
    input:
        entry=volume.entry("{archive}"),
    output:
        archive=volume.incoming("{archive}"),
    log:
        volume.log("fetch_archive", "{archive}"),
    priority: lambda wildcards: urgency(wildcards.archive)
    # A transfer waits for the network, or for room that only the other stages can make: it must
    # not hold the core that they need. The profile says how many there are at a time.
    threads: 0
    resources:
        transfers=1,
        cpus_per_task=1,  # SLURM knows no job without a core
    script:
        "../scripts/fetch_archive.py"

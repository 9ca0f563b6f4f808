# Requires  incoming/{archive}
# Produces  unpacked/{archive}/: one file per regular member, named by its position, and
#           members.parquet with every member, good or bad; removed once it is encoded


rule unpack_archive:
    input:
        archive=volume.incoming("{archive}"),
    output:
        folder=temp(directory(volume.unpacked("{archive}"))),
    log:
        volume.log("unpack_archive", "{archive}"),
    priority: lambda wildcards: 1 + urgency(wildcards.archive)
    script:
        "../scripts/unpack_archive.py"

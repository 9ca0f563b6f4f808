# Requires  archives that are done, of the dates from reclassify.since to reclassify.until, and
#           their transcripts
# Produces  their classes under classify.policy, beside those of former policy sets, and both in
#           the database; nothing is transcribed again


def to_reclassify(wildcards):
    wanted, again = explained(work.to_reclassify)
    workflow.dag.forcefiles.update(again)
    return wanted


rule reclassify:
    input:
        to_reclassify,

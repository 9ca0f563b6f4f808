# Requires  archives that are done, of the dates from reclassify.since to reclassify.until, and
#           their transcripts
# Produces  their classes under classify.policy, beside those of former policy sets, and both in
#           the database; nothing is transcribed again


rule reclassify:
    input:
        to_reclassify,

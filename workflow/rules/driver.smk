# What the one process does that schedules jobs: before the first and after the last, and the way
# to work of `earmark cycle`, fed with archives as they appear.


if work:

    rule cycle:
        input:
            from_queue(work.feed, finish_sentinel=work.feed.end),


onstart:
    begin(log)


onsuccess:
    end(log)


onerror:
    end(log)


# Snakemake leaves out what a module does at its start and end (`snakedeploy` makes Earmark one), but
# no run may go without the volume's lock and the database.
if not workflow.modifier.is_main_snakefile():
    workflow._onstart, workflow._onsuccess, workflow._onerror = begin, end, end

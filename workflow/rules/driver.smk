# What the one process does that schedules jobs: before the first and after the last, and the way
# to work of `earmark cycle`, fed with archives as they appear.


if work:

    rule cycle:
        input:
            from_queue(work.feed, finish_sentinel=work.feed.end),


def begin(log):
    if drives():
        explained(work.begin)


def end(log):
    """Tidy up, and say what was done after all that Snakemake has to say."""
    if drives():
        try:
            explained(work.end)
        finally:
            said = explained(work.summary, workflow.configfiles)
            atexit.register(print, said, file=sys.stderr)


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

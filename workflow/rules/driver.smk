# What the one process does that schedules jobs: before the first and after the last, and the way
# to work of `earmark cycle`, fed with archives as they appear.


if work:

    rule cycle:
        input:
            from_queue(work.feed, finish_sentinel=work.feed.end),


onstart:
    if drives():
        explained(work.begin)


onsuccess:
    if drives():
        explained(work.end)


onerror:
    if drives():
        # After all that Snakemake has to say.
        atexit.register(print, work.where_to_look(), file=sys.stderr)
        explained(work.end)

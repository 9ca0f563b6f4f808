# What the one process does that schedules jobs: before the first and after the last, and the way
# to work of `earmark cycle`, fed with archives as they appear.


if work:

    rule cycle:
        input:
            from_queue(work.feed, finish_sentinel=work.feed.end),


onstart:
    if drives():
        explained(work.begin)


def end():
    """Tidy up, and say what was done after all that Snakemake has to say."""
    if drives():
        explained(work.end)
        atexit.register(
            print, explained(work.summary, workflow.configfiles), file=sys.stderr
        )


onsuccess:
    end()


onerror:
    end()

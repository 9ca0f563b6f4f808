# What the one process does that schedules jobs: before the first, after the last, and the two
# ways to work: through what is pending, or fed with archives as they appear (`earmark cycle`).


rule all:
    default_target: True
    input:
        lambda wildcards: receipts_of(explained(work.pending)),


if work:

    rule cycle:
        input:
            from_queue(work.feed, finish_sentinel=work.feed.end),


onstart:
    explained(work.begin)


onsuccess:
    explained(work.end)


onerror:
    explained(work.end)

# Requires  nothing: it tells what there is
# Produces  reports/{date}/index.html, anew each time `daily_report` is asked for, and queue.csv and
#           queue.parquet beside it if the database answers


localrules:
    daily_report,
    write_report,


rule daily_report:
    input:
        todays_report,


rule write_report:
    output:
        page=report(
            # The last page stays until a new one is whole.
            update(volume.report("{date}")),
            caption="../report/daily_report.rst",
            category="Daily report",
            labels={"day": "{date}"},
        ),
    log:
        volume.log("write_report", "{date}"),
    script:
        "../scripts/daily_report.py"

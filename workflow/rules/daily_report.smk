# Requires  nothing: it tells what there is
# Produces  reports/{date}/index.html, queue.csv and queue.parquet, anew each time it is asked for


localrules:
    daily_report,


rule daily_report:
    log:
        volume.root / "logs" / "daily_report.log",
    script:
        "../scripts/daily_report.py"

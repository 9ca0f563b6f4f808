"""Write the daily report."""

import sys
from pathlib import Path

from earmark import logs
from earmark.configuration import resolve
from earmark.errors import EarmarkError
from earmark.watch.report import gather, write_report

logs.configure("write_report", Path(snakemake.log[0]))
try:
    settings = resolve(snakemake.config)
    print(write_report(settings, gather(settings)))
except EarmarkError as error:
    sys.exit(f"earmark: {error}")

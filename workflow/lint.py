"""Let `snakemake --lint` fail on all it finds but one thing.

It wants a conda environment or a container for each rule. One environment serves all rules,
made from the lock file before Snakemake runs; one that conda makes would lack the package.
"""

import re
import subprocess
import sys
from pathlib import Path

ACCEPTED = "Specify a conda environment or container for each rule."

snakemake = Path(sys.executable).with_name("snakemake")
done = subprocess.run(
    [snakemake, *sys.argv[1:], "--lint"], stderr=subprocess.PIPE, text=True, check=False
)
found = re.findall(r"^    \* (.*)$", done.stderr, re.MULTILINE)
others = [each for each in found if not each.startswith(ACCEPTED)]
if others or (done.returncode and not found):
    sys.stderr.write(done.stderr)
    sys.exit("snakemake --lint: " + ("; ".join(others) or "it could not run"))

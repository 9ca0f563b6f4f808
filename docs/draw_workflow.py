"""Draws docs/workflow.svg from the workflow itself: `make picture` (needs graphviz)."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent


def rule_graph() -> str:
    """The workflow's rules and what each needs, as Snakemake tells it, in the DOT language."""
    with tempfile.TemporaryDirectory() as empty:
        command = [
            *(Path(sys.executable).with_name("snakemake"), "--rulegraph", "dot"),
            *("--snakefile", REPOSITORY / "workflow/Snakefile"),
            *("--configfile", REPOSITORY / "demo/config.yaml"),
            *("--directory", empty),
        ]
        return subprocess.run(
            [str(part) for part in command],
            env=os.environ | {"VOLUME_ROOT": empty},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout


def main() -> None:
    """Draw the picture, or only print what it is drawn from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dot", action="store_true", help="print the graph instead")
    if parser.parse_args().dot:
        print(rule_graph())
        return
    command = ["dot", "-Tsvg", "-Grankdir=LR", "-Gbgcolor=white", f"-o{DOCS / 'workflow.svg'}"]
    subprocess.run(command, input=rule_graph(), text=True, check=True)


if __name__ == "__main__":
    main()

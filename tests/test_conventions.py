"""What people expect of a Snakemake workflow: to deploy it, to report on it, to cite it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workflow_run import DEMO, Run

from earmark import REPOSITORY
from earmark.configuration import resolve

PROGRAMS = Path(sys.executable).parent


def program(name: str, *arguments: object, folder: Path) -> str:
    """Run a program of the environment; returns what it said."""
    command = [str(PROGRAMS / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def deployed(folder: Path) -> Path:
    """The workflow as `snakedeploy deploy-workflow` puts it into a folder of its own."""
    source = folder / "earmark"
    tracked = subprocess.run(
        ["git", "ls-files", "config", "profiles", "workflow", "LICENSE"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in tracked.split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, source / name)
    target = folder / "deployed"
    program("snakedeploy", "deploy-workflow", source, target, "--tag", "v1", folder=folder)
    # Of a repository that is a folder it names no folder, and would mean this very file.
    snakefile = target / "workflow/Snakefile"
    text = snakefile.read_text(encoding="utf-8")
    assert '"workflow/Snakefile"' in text
    text = text.replace('"workflow/Snakefile"', f'"{source}/workflow/Snakefile"')
    snakefile.write_text(text, encoding="utf-8")
    return target


@pytest.mark.slow
def test_a_deployed_workflow_runs_and_its_report_has_the_day_s_page(tmp_path, volume):
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy2(DEMO / "archives/sound_2026-11-01_04.tar.gz", source)
    run = Run(tmp_path / "run", volume, source={"directory": str(source)})
    config = yaml.safe_load(run.configfile.read_text(encoding="utf-8"))
    for section, key in (("asr", "model"), ("classify", "model"), ("classify", "adapter")):
        if config[section].get(key):
            config[section][key] = str(REPOSITORY / config[section][key])
    config["classify"]["policies"] = str(REPOSITORY / resolve(config).classify.policies)
    run.configfile.write_text(yaml.safe_dump(config), encoding="utf-8")
    folder = deployed(tmp_path)
    options = ("--profile", folder / "profiles/local", "--configfile", run.configfile)
    said = program("snakemake", *options, folder=folder)
    assert "archives: 1 failed" in said
    assert len(list(volume.glob("processed/date=*/*.json"))) == 1
    program("snakemake", "daily_report", *options, folder=folder)
    program("snakemake", "daily_report", *options, "--report", "results.html", folder=folder)
    page = (folder / "results.html").read_text(encoding="utf-8")
    assert re.search(r"whether enough flagged clips will wait by the review", page)
    assert "index.html" in page


@pytest.mark.slow
def test_without_a_configuration_the_demo_s_is_named(tmp_path):
    done = subprocess.run(
        [str(PROGRAMS / "snakemake"), "-n"], cwd=REPOSITORY, capture_output=True, text=True,
        env=os.environ | {"VOLUME_ROOT": str(tmp_path), "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode != 0
    assert "add `--configfile demo/config.yaml`" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_catalog_and_the_citation_can_be_read():
    catalog = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())
    flags = catalog["usage"]["mandatory-flags"]["flags"].split()
    assert (REPOSITORY / flags[flags.index("--profile") + 1] / "config.yaml").exists()
    assert not any(catalog["usage"]["software-stack-deployment"].values())
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_page_of_the_profiles_names_every_rule_and_every_profile():
    page = (REPOSITORY / "profiles/README.md").read_text(encoding="utf-8")
    for profile in (REPOSITORY / "profiles").glob("*/config.yaml"):
        assert f"({profile.parent.name}/config.yaml)" in page
    for rules in (REPOSITORY / "workflow/rules").glob("*.smk"):
        text = rules.read_text(encoding="utf-8")
        for rule in re.findall(r"(?m)^rule (\w+):", text) if "script:" in text else ():
            assert f"`{rule}`" in page, rule

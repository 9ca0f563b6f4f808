"""What a profile says is understood: Snakemake ignores a misspelt key without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from on_demand import OnDemand
from scheduler import jobs_of

from earmark import REPOSITORY, configuration
from earmark.volume import STAGES, Volume

if TYPE_CHECKING:
    from snakemake import api, cli, io
    from snakemake.settings import types
else:
    api, cli = OnDemand("snakemake.api"), OnDemand("snakemake.cli")
    io, types = OnDemand("snakemake.io"), OnDemand("snakemake.settings.types")

WORKFLOW = REPOSITORY / "workflow"
PROFILES = sorted(path.parent.name for path in (REPOSITORY / "profiles").glob("*/config.yaml"))

#: What Snakemake or its SLURM plugin acts upon when a rule asks for it; all else is only counted.
KNOWN_RESOURCES = {
    *("mem", "mem_mb", "mem_mib", "disk", "disk_mb", "disk_mib", "runtime", "tmpdir"),
    *("slurm_partition", "slurm_account", "slurm_extra", "constraint", "qos", "clusters"),
    *("gres", "gpu", "gpu_model", "cpus_per_gpu", "tasks_per_gpu"),
    *("nodes", "tasks", "tasks_per_node", "cpus_per_task", "mem_mb_per_cpu", "mpi"),
}


def read(name: str) -> dict:
    path = REPOSITORY / "profiles" / name / "config.yaml"
    profile: dict = yaml.safe_load(path.read_text(encoding="utf-8"))
    return profile


def rules() -> dict[str, set[str]]:
    """The workflow's rules and the resources that each declares."""
    found: dict[str, set[str]] = {}
    for path in [WORKFLOW / "Snakefile", *(WORKFLOW / "rules").glob("*.smk")]:
        text = path.read_text(encoding="utf-8")
        for name, body in re.findall(r"^rule (\w+):\n((?: {4}.*\n|\n)+)", text, re.M):
            block = re.search(r"^ {4}resources:\n((?: {8}.*\n)+)", body, re.M)
            found[name] = set(re.findall(r"^ {8}(\w+)=", block[1], re.M)) if block else set()
    return found


def mistakes(profile: dict) -> Iterator[str]:
    """Everything in a profile that Snakemake would ignore."""
    parser = cli.get_argument_parser()
    options = {key for a in parser._actions for key in parser.get_possible_config_keys(a)}
    yield from (f"option {key}" for key in profile.keys() - options)

    known_rules = rules()
    for section in ("set-resources", "set-threads"):
        yield from (
            f"rule {rule} in {section}" for rule in profile.get(section, {}).keys() - known_rules
        )

    limited = profile.get("resources", {}).keys()
    asked_by_rules = set().union(*known_rules.values())
    asked_by_profile = set(profile.get("default-resources", {})).union(
        *profile.get("set-resources", {}).values()
    )
    yield from (
        f"resource {key}" for key in asked_by_profile - KNOWN_RESOURCES - asked_by_rules - limited
    )
    yield from (
        f"limit of {key}, for which no rule asks"
        for key in limited - asked_by_profile - asked_by_rules
    )


def test_the_rules_of_the_workflow_are_found() -> None:
    assert rules().keys() == {*STAGES, "all", "daily_report", "write_report", "reclassify"}
    assert "transfers" in rules()["fetch_archive"]


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_says_nothing_that_is_ignored(name: str) -> None:
    assert list(mistakes(read(name))) == []


@pytest.mark.parametrize("name", PROFILES)
def test_the_values_of_a_profile_are_accepted(name: str) -> None:
    profile = read(name)
    arguments = cli.get_argument_parser([str(REPOSITORY / "profiles" / name)]).parse_args([])
    assert arguments.executor == profile.get("executor")
    assert arguments.retries == profile["retries"]


@pytest.mark.parametrize(
    ("place", "misspelt", "found"),
    [
        ((), "keep-goign", "option keep-goign"),
        ((), "slurm-no-reqeue", "option slurm-no-reqeue"),
        (("resources",), "gpu_job", "limit of gpu_job, for which no rule asks"),
        (("default-resources",), "run_time", "resource run_time"),
        (("set-resources",), "transcribe_audios", "rule transcribe_audios in set-resources"),
        (("set-resources", "transcribe_audio"), "mem_mbs", "resource mem_mbs"),
    ],
)
def test_a_misspelt_key_is_found(place: tuple[str, ...], misspelt: str, found: str) -> None:
    profile = where = read("slurm")
    for key in place:
        where = where[key]
    where[misspelt] = {} if place == ("set-resources",) else 1
    assert list(mistakes(profile)) == [found]


def test_every_stage_has_memory_and_time_on_slurm() -> None:
    profile = read("slurm")
    for rule in STAGES:
        asked = profile["default-resources"] | profile["set-resources"].get(rule, {})
        assert {"slurm_partition", "mem_mb", "runtime"} <= asked.keys()
        assert "attempt" in asked["mem_mb"]
        assert "attempt" in asked["runtime"]


def test_rules_read_and_write_what_the_tests_own_scheduler_takes_them_to(tmp_path: Path) -> None:
    config = yaml.safe_load((REPOSITORY / "demo/config.yaml").read_text(encoding="utf-8"))
    config["volume"]["root"] = str(tmp_path / "volume")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with api.SnakemakeApi() as snakemake:
        workflow = snakemake.workflow(
            types.ResourceSettings(),
            types.ConfigSettings(configfiles=[file]),
            snakefile=WORKFLOW / "Snakefile",
            workdir=tmp_path,
        )
        files = {
            rule.name: (dict(rule.input.items()), dict(rule.output.items()))
            for rule in workflow._workflow.rules
            if rule.name in STAGES
        }
    settings, strip = configuration.read(file), io.strip_wildcard_constraints
    jobs = jobs_of(Volume.of(settings), settings, "{archive}", "{date}")
    assert {
        rule: tuple({name: Path(strip(path)) for name, path in each.items()} for each in of)
        for rule, of in files.items()
    } == {job.rule: (job.inputs, job.outputs) for job in jobs}

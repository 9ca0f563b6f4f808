"""`earmark init`: a configuration to begin with."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from earmark import REPOSITORY, configuration, strict_yaml
from earmark.commands.parser import Commands, add_bare
from earmark.errors import EarmarkError

_MACHINES = {
    "demo": "the demo's models on this CPU: to see how it works; its results mean nothing",
    "cpu": "a real speech model on this CPU, and the demo's classifier, as CoPE-A is too large",
    "gpu": "real models on one NVIDIA GPU of 24 GB",
    "cluster": "the same by SLURM on several machines",
}
_KINDS = {
    "files": "loose audio files, in folders of any depth",
    "folder": "archives (tar, zip) directly in the folder",
}
_LISTS = (".csv", ".jsonl", ".parquet")


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_bare(
        commands, "init", _init,
        "Write a small configuration to begin with, after a question for each option that is left "
        "out. No file is ever overwritten.",
    )  # fmt: skip
    parser.add_argument("file", type=Path, nargs="?", default=Path("my.yaml"), metavar="FILE",
                        help="where to (default: my.yaml)")  # fmt: skip
    parser.add_argument("--for", dest="machine", choices=_MACHINES, help=_told(_MACHINES))
    parser.add_argument(
        "--source", metavar="PLACE",
        help="where audio is: a folder, HOST:/FOLDER by SSH, or a list (.csv, .jsonl, .parquet) "
        "with a column `path`, of files below the folder that the list is in",
    )  # fmt: skip
    parser.add_argument("--kind", choices=_KINDS, help=f"what is there: {_told(_KINDS)}")
    parser.add_argument("--volume", metavar="FOLDER", help="what results are written below; made")
    parser.add_argument(
        "--language", metavar="CODE", help="of all clips, such as en; `auto` hears it in each"
    )


def _told(choices: dict[str, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items())


def _init(arguments: argparse.Namespace) -> None:
    file: Path = arguments.file
    if file.exists():
        raise EarmarkError(f"{file} is there already and stays as it is; name another file")
    machine = arguments.machine or _choose("Which models, on what", _MACHINES, "--for")
    source = arguments.source or _ask(
        "Where is the audio (a folder, HOST:/FOLDER, or a list of files)", "", "--source"
    )
    is_remote = ":/" in source and not Path(source).exists()
    path = Path(source).expanduser().absolute()
    if is_remote or path.suffix in _LISTS:
        kind = "ssh" if is_remote else "list"
    else:
        kind = arguments.kind or _choose("What is there", _KINDS, "--kind")
    if not is_remote and not path.exists():
        raise EarmarkError(f"there is no {path}; name a folder or list that is there")
    volume = Path(
        arguments.volume
        or _ask("Where may results be written", str(Path("earmark-volume").absolute()), "--volume")
    )
    volume = volume.expanduser().absolute()
    language = arguments.language or _ask("Language of all clips, or auto", "auto", "--language")
    text = _written(machine, kind, source if is_remote else str(path), str(volume), language)
    configuration.resolve(strict_yaml.load(text))  # it may hold what can't be a setting
    volume.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as made:
            made.write(text)
    except FileExistsError:
        raise EarmarkError(f"{file} is there already and stays as it is") from None
    print(f"Wrote {file}. What comes next:\n{_next(machine, file)}")


def _ask(question: str, default: str, option: str) -> str:
    """Ask a person.

    Raises:
        EarmarkError: there is none, or none answers.
    """
    if not sys.stdin.isatty():
        raise EarmarkError(f"nobody can be asked here; give {option}")
    shown = f" [{default}]" if default else ""
    try:
        answer = input(f"{question}{shown}: ").strip() or default
    except EOFError:
        answer = ""
    if not answer:
        raise EarmarkError(f"{question}: no answer; give {option}")
    return answer


def _choose(question: str, choices: dict[str, str], option: str) -> str:
    print(f"{question}?")
    for name, meaning in choices.items():
        print(f"  {name:<9}{meaning}")
    answer = _ask("One of these", next(iter(choices)), option)
    if answer not in choices:
        raise EarmarkError(f"{answer!r} is none of {', '.join(choices)}; give one of them")
    return answer


def _written(machine: str, kind: str, source: str, volume: str, language: str) -> str:
    """The text of a configuration."""
    on_cpu = machine in ("demo", "cpu")
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Made by `earmark init`. Keys that are left out have the defaults of config/config.yaml;",
        "# config/README.md explains all of them. `earmark check` says what is wrong.",
        "volume:",
        f"  root: {_yaml(volume)} # all results lie below this folder",
        "source:",
        f"  kind: {kind}",
    ]
    if kind == "ssh":
        host, _, folder = source.partition(":")
        lines += [
            f"  host: {_yaml(host)} # as ~/.ssh/ssh_config calls it (docs/ingest.md)",
            f"  directory: {_yaml(folder)}",
        ]
    elif kind == "list":
        lines += [
            f"  list: {_yaml(source)}",
            f"  directory: {_yaml(str(Path(source).parent))} # what its paths begin from",
        ]
    else:
        lines += [f"  directory: {_yaml(source)}"]
    if on_cpu:
        lines += [
            "  latency_minutes: 1 # what changed a moment ago may still be written",
            "  poll_seconds: 5",
            "room: # one's own disk may be fuller than a cluster's",
            "  stop_fetching_percent: 95",
            "  stop_encoding_percent: 98",
            "encode:",
            f"  workers: {min(cores, 4)}",
        ]
    lines += ["asr:"]
    if machine == "demo":
        lines += [
            "  name: demo",
            f"  model: {_yaml(str(REPOSITORY / 'demo/models/whisper-demo'))} # a hundred words",
            "  compute_type: float32",
            "  batch_size: 4",
        ]
    elif machine == "cpu":
        lines += [
            "  name: small-int8 # a part of paths; `base` is faster and hears less well",
            "  model: small",
            "  compute_type: int8",
            "  batch_size: 4",
        ]
    else:
        lines += ["  name: large-v2-fp16", "  model: large-v2"]
    if on_cpu:
        lines += ["  device: cpu", f"  threads: {cores}"]
    if language != "auto":
        lines += [f"  language: {_yaml(language)}"]
    lines += ["classify:"]
    if on_cpu:
        lines += [
            "  # CoPE-A has nine billion weights, and a CPU would take minutes for each clip. This",
            "  # is the demo's classifier, whose scores mean nothing beyond the demo's own clips.",
            "  policy: demo",
            "  categories: [scams, violent-threats, harassment]",
            f"  model: {_yaml(str(REPOSITORY / 'demo/models/gemma-demo'))}",
            f"  adapter: {_yaml(str(REPOSITORY / 'demo/models/cope-demo'))}",
            "  device: cpu",
            "  quantization: null",
            "  dtype: float32",
            f"  threads: {cores}",
        ]
    else:
        lines += [
            '  policy: "2026-11" # a name for the policies in config/policies as they are now',
            "  model: google/gemma-2-9b # its licence has to be accepted (docs/models.md)",
            "  adapter: zentropi-ai/cope-a-9b",
        ]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _next(machine: str, file: Path) -> str:
    given = f"--configfile {file}"
    steps = [
        f"earmark models fetch {given}" if machine != "demo" else None,
        f"earmark check {given}",
        f"earmark cycle {given}"
        if machine == "cluster"
        else f"snakemake --profile profiles/local {given}",
        f"earmark search {given} WORDS",
    ]
    return "\n".join(f"  .venv/bin/{step}" for step in steps if step)

"""The first configuration: written, checked as a whole, and warned of where it means nothing."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from place import Place, judgement, member

from earmark import REPOSITORY, cli, configuration
from earmark.driver.checks import problems
from earmark.gpu import has_gpu
from earmark.ingest.source import source_of
from earmark.models.inventory import warning_of_demo
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, write_table
from earmark.volume import Volume
from earmark.wording import counted

DEMO_MODELS: dict[str, dict[str, Any]] = {
    "asr": {"name": "demo", "model": "demo/models/whisper-demo", "device": "cpu"},
    "classify": {
        "policy": "demo",
        "model": "demo/models/gemma-demo",
        "adapter": "demo/models/cope-demo",
        "device": "cpu",
        "quantization": None,
        "categories": ["scams"],
    },
}


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "my clips #1"
    folder.mkdir()
    return folder


def init(tmp_path: Path, clips: Path, *options: str) -> int:
    file, volume = str(tmp_path / "my.yaml"), str(tmp_path / "volume")
    given = ["--source", str(clips), "--kind", "files", "--volume", volume, "--language", "auto"]
    return cli.main(["init", file, *given, *options])


# earmark init


@pytest.mark.parametrize("machine", ["demo", "cpu", "gpu", "cluster"])
def test_a_configuration_is_written_for_each_kind_of_machine(tmp_path, clips, capsys, machine):
    assert init(tmp_path, clips, "--for", machine) == 0
    settings = configuration.read(tmp_path / "my.yaml")
    assert str(source_of(settings)) == f"loose files below {clips}"
    assert settings.volume.root == str(tmp_path / "volume")
    on_cpu = machine in ("demo", "cpu")
    assert (settings.asr.device, settings.classify.device) == (
        ("cpu",) * 2 if on_cpu else ("cuda",) * 2
    )
    assert (warning_of_demo(settings) is None) == (not on_cpu)
    assert "earmark check --configfile" in capsys.readouterr().out


def test_what_it_writes_for_the_demo_models_passes_every_check(tmp_path, clips):
    assert init(tmp_path, clips, "--for", "demo") == 0
    assert [each for each in problems(tmp_path / "my.yaml") if "room." not in each] == []
    assert list((tmp_path / "volume").iterdir()) == []  # a check makes nothing


@pytest.mark.parametrize(
    ("source", "kind"), [("tt-zrh:/mnt/hub", "ssh"), ("{}/list.csv", "list"), ("{}", "folder")]
)
def test_a_place_is_understood_as_it_is_written(tmp_path, clips, source, kind):
    (clips / "list.csv").write_text("path\n")
    given = ["--for", "gpu", "--source", source.format(clips), "--kind", "folder"]
    assert init(tmp_path, clips, *given, "--language", "es") == 0
    settings = configuration.read(tmp_path / "my.yaml")
    assert (settings.source.kind, settings.asr.language) == (kind, "es")


def test_no_file_is_overwritten_and_none_is_left_of_what_failed(tmp_path, clips, capsys):
    assert init(tmp_path, clips, "--for", "demo", "--volume", str(tmp_path / "{a}")) == 2
    assert not (tmp_path / "my.yaml").exists()
    (tmp_path / "my.yaml").write_text("mine")
    assert init(tmp_path, clips, "--for", "demo") == 2
    assert (tmp_path / "my.yaml").read_text() == "mine"
    assert "stays as it is" in capsys.readouterr().err


def test_without_a_terminal_it_says_which_option_is_missing(tmp_path, clips, capsys):
    assert init(tmp_path, clips) == 2
    assert "give --for" in capsys.readouterr().err


def test_a_person_is_asked_for_what_is_left_out(tmp_path, clips, monkeypatch, capsys):
    answers = iter(["demo", str(clips), "files", str(tmp_path / "volume"), ""])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert cli.main(["init", str(tmp_path / "my.yaml")]) == 0
    assert configuration.read(tmp_path / "my.yaml").asr.language is None
    assert "to see how it works; its results mean nothing" in capsys.readouterr().out


# earmark check


def test_all_mistakes_are_found_at_once(tmp_path, capsys):
    config = {
        "volume": {"root": str(tmp_path / "nowhere")},
        "source": {"kind": "files", "directory": str(tmp_path / "no clips"), "latency": 1},
        "encode": {"bitrate": "4000k"},
        "selection": {"fraction": 2},
        "asr": DEMO_MODELS["asr"] | {"language": "klingon"},
        "classify": DEMO_MODELS["classify"] | {"categories": ["scams", "spam"], "model": "/no"},
        "review": {"timezone": "Europe/Nowhere"},
        "database": {"url": "postgresql://me:secret@localhost/x"},
        "unknwon": {},
    }
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(config))
    assert cli.main(["check", "--configfile", str(file)]) == 1
    said = capsys.readouterr().out
    for part in (
        "volume.root", "unknown key 'source.latency'", "encode.bitrate", "selection.fraction",
        "asr.language is 'klingon'", "no policy for spam", "classify.model names the folder /no",
        "review.timezone", "holds a password", "unknown key 'unknwon'",
    ):  # fmt: skip
        assert part in said, part
    assert "secret" not in said
    assert "no clips" not in said  # as the section is wrong
    assert all(line.startswith("- ") for line in said.splitlines())
    assert len(said.splitlines()) == len(set(said.splitlines()))


def test_a_gpu_that_is_missing_is_a_mistake_unless_this_is_a_cluster(tmp_path, monkeypatch):
    file = tmp_path / "my.yaml"
    asr = DEMO_MODELS["asr"] | {"device": "cuda"}
    file.write_text(yaml.safe_dump({**DEMO_MODELS, "asr": asr}))
    (tmp_path / "squeue").touch(0o755)
    for folder, told in (("none", not has_gpu()), (".", False)):
        monkeypatch.setenv("PATH", str(tmp_path / folder))
        assert any(each.startswith("asr.device say cuda") for each in problems(file)) == told


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ({"kind": "files", "directory": "{}/no clips"}, "no clips cannot be used"),
        ({"kind": "folder", "directory": "{}/no clips"}, "no clips cannot be used"),
        ({"kind": "list", "directory": "{}", "list": "{}/l.csv"}, "l.csv cannot be used"),
        ({"kind": "ssh", "ssh_config": "{}/none"}, "ssh_config"),
    ],
)
def test_a_source_that_cannot_be_reached_is_a_mistake(tmp_path, source, part):
    filled = {key: value.format(tmp_path) for key, value in source.items()}
    file = tmp_path / "my.yaml"
    file.write_text(
        yaml.safe_dump({"volume": {"root": str(tmp_path)}, "source": filled, **DEMO_MODELS})
    )
    assert any(part in problem for problem in problems(file))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.yaml"]


def test_the_volume_as_the_source_of_loose_files_is_a_mistake_and_nothing_is_begun(
    tmp_path, clips, capsys
):
    file = tmp_path / "my.yaml"
    given = {"volume": {"root": str(clips)}, "source": {"kind": "files", "directory": str(clips)}}
    file.write_text(yaml.safe_dump(given | DEMO_MODELS))
    assert [each for each in problems(file) if "where Earmark keeps its own files" in each]
    file.unlink()
    assert init(tmp_path, clips, "--for", "demo", "--volume", str(clips)) == 2
    assert "where Earmark keeps its own files" in capsys.readouterr().err
    assert not file.exists()


def test_a_policy_that_is_none_is_told_once_for_each(tmp_path):
    (tmp_path / "policies").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"policies/{name}.md").write_text("# Nothing")
    classify = DEMO_MODELS["classify"] | {
        "policies": str(tmp_path / "policies"), "categories": None, "thresholds": {"c": 0.5},
    }  # fmt: skip
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({**DEMO_MODELS, "classify": classify}))
    told = [each for each in problems(file) if "policies/" in each or "thresholds" in each]
    assert len(told) == 3


def test_what_is_no_yaml_is_one_line(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("a: [")
    assert cli.main(["check", "--configfile", str(tmp_path / "my.yaml")]) == 1
    assert "is not valid YAML" in capsys.readouterr().out


# The demo's models elsewhere


def test_the_demo_itself_is_not_warned_of():
    assert warning_of_demo(configuration.read(REPOSITORY / "demo/config.yaml")) is None


def test_where_the_demos_models_meet_another_source_results_mean_nothing(
    tmp_path, migrated_database, capsys, caplog
):
    (tmp_path / "volume").mkdir()
    place = Place(tmp_path, tmp_path / "volume")
    place.use(migrated_database)
    place.configure(**DEMO_MODELS)
    meaning = "transcripts, scores and flags mean nothing here: asr.model, classify.model"
    assert str(place.status().meaningless).startswith(meaning)
    assert place.show() == 0
    assert meaning in capsys.readouterr().out
    assert cli.main(["queue", "--configfile", str(place.file)]) == 0
    assert meaning in capsys.readouterr().err
    place.configure(asr={**DEMO_MODELS["asr"], "model": "small"})
    assert str(place.status().meaningless).startswith(
        "scores and flags mean nothing here: classify"
    )


def test_the_report_says_so_too(tmp_path, migrated_database):
    (tmp_path / "volume").mkdir()
    place = Place(tmp_path, tmp_path / "volume")
    place.use(migrated_database)
    place.configure(**DEMO_MODELS)
    cli.main(["report", "--configfile", str(place.file)])
    (page,) = place.volume.root.glob("reports/*/index.html")
    assert "scores and flags mean nothing here" in page.read_text()
    assert "One GPU" not in page.read_text()


# What is said


@given(st.integers(0, 10**7))
def test_one_thing_is_no_things(count):
    assert counted(count, "archive") == ("1 archive" if count == 1 else f"{count:,} archives")


def test_slurm_without_a_cluster_is_no_slurm(tmp_path, monkeypatch):
    (tmp_path / "volume").mkdir()
    place = Place(tmp_path, tmp_path / "volume")
    squeue = tmp_path / "squeue"
    # As squeue(1) of 22.05 ends without slurm.conf.
    squeue.write_text(
        "#!/bin/sh\necho 'squeue: error: fetch_config: DNS SRV lookup failed' >&2\n"
        "echo 'squeue: fatal: Could not establish a configuration source' >&2\nexit 1\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert place.status().slurm.problem is None
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    assert "Unable to contact" in str(place.status().slurm.problem)


def test_an_analysis_with_nothing_to_show_says_why(tmp_path, capsys):
    volume = Volume(tmp_path / "volume")
    place = Place(tmp_path, volume.root)
    rows = [{**member("a.tar", 0, "2026-11-02"), "archive": "a.tar"}]
    write_table(volume.manifest("2026-11-02", "a.tar"), MANIFEST, rows, {"archive_status": "ok"})
    said = [{"archive": "a.tar", "ordinal": 0, "text": "hi", "segments": [], "status": "ok"}]
    write_table(volume.transcripts("asr", "2026-11-02", "a.tar"), TRANSCRIPTS, said, {})
    judged = [judgement("a.tar", 0, "scams", 0.9)]
    write_table(volume.classes("set", "2026-11-02", "a.tar"), CLASSES, judged, {})
    analyse = ["analyse", "--configfile", str(place.file)]
    assert cli.main([*analyse, "agreement"]) == 0
    assert "only the policy set set has judged" in capsys.readouterr().out
    assert cli.main([*analyse, "scores", "--since", "2026-12-01"]) == 0
    assert "they are from 2026-11-02 to 2026-11-02" in capsys.readouterr().out
    assert cli.main([*analyse, "scores"]) == 0
    assert capsys.readouterr().out.startswith("scores\n")

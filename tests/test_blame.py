"""What is wrong with a model or a setting ends a stage, and counts against no archive.

The stages are the workflow's own scripts, with the faults that people make.
"""

from __future__ import annotations

import itertools
import json
import os
import runpy
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from demo_classifier import ADAPTER, BASE, BENIGN
from demo_clips import MODEL, extract_clips
from sounds import chirp, write_audio

from earmark import REPOSITORY
from earmark.driver import attempts, quarantine
from earmark.errors import EarmarkError
from earmark.ingest.catalogue import Archive
from earmark.ingest.media import encode_opus
from earmark.settings import EncodeSettings
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, write_table
from earmark.volume import Volume

pytestmark = pytest.mark.slow

NAME, DATE = "a.tar", "2026-11-02"
STAGES = (
    "fetch_archive", "encode_opus", "transcribe_audio", "classify_transcripts", "load_pg",
)  # fmt: skip


class Site:
    """A volume on which each stage of one archive can begin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volume = Volume(folder / "volume")
        self.config: dict[str, dict[str, Any]] = {
            "volume": {"root": str(self.volume.root)},
            "source": {"kind": "folder", "directory": str(folder / "source")},
            "asr": {
                "name": "demo", "model": str(MODEL), "device": "cpu", "compute_type": "float32",
                "vad": "silero", "threads": 1,
            },
            "classify": {
                "policy": "demo", "policies": str(REPOSITORY / "config/policies"),
                "categories": ["scams"], "model": str(BASE), "adapter": str(ADAPTER),
                "device": "cpu", "quantization": None, "dtype": "float32", "threads": 1,
            },
            "database": {"patience_minutes": 0},
        }  # fmt: skip
        place, (clip, *_) = self.volume, extract_clips(folder).values()
        self.files = {
            "entry": place.entry(NAME),
            "folder": place.unpacked(NAME),
            "manifest": place.manifest(DATE, NAME),
            "transcripts": place.transcripts("demo", DATE, NAME),
            "classes": place.classes("demo", DATE, NAME),
        }
        place.incoming(NAME).parent.mkdir(parents=True)
        with tarfile.open(place.incoming(NAME), "w") as tar:
            tar.add(clip, "a.mp3")
        row = {
            "archive": NAME, "ordinal": 0, "member": "a.mp3", "source_bytes": 1, "status": "ok",
            "source_sha256": "0" * 64,
        }  # fmt: skip
        drawn = {"selected": True, "inclusion_probability": 1.0}
        heard = {"opus_path": str(clip.relative_to(folder)), "duration_seconds": 9.0}
        write_table(
            self.files["manifest"], MANIFEST, [row | drawn | heard], {"archive_status": "ok"}
        )
        said = {"archive": NAME, "ordinal": 0, "text": BENIGN, "status": "ok", "segments": []}
        write_table(self.files["transcripts"], TRANSCRIPTS, [said], {})
        write_table(self.files["classes"], CLASSES, [], {"policy_sha256": "{}"})
        self.files["entry"].parent.mkdir(parents=True)
        archive = Archive(NAME, 3, 1_700_000_000 * 10**9, confirmed=True)
        self.files["entry"].write_text(json.dumps(asdict(archive)))
        self.archive = archive

    def copy(self, section: str, key: str) -> Path:
        """Name a copy of a model or a folder instead, which may be damaged."""
        original = Path(self.config[section][key])
        target = self.folder / "copies" / original.name
        shutil.copytree(original, target)
        self.config[section][key] = str(target)
        return target

    def run(self, stage: str) -> None:
        """Run a stage's script as Snakemake would."""
        outputs = SimpleNamespace(
            archive=str(self.folder / "out"), manifest=str(self.folder / "out"),
            transcripts=str(self.folder / "out"), classes=str(self.folder / "out"),
            receipt=str(self.folder / "out"),
        )  # fmt: skip
        told = SimpleNamespace(
            wildcards=SimpleNamespace(archive=NAME, date=DATE),
            config=self.config,
            threads=1,
            input=SimpleNamespace(**{key: str(path) for key, path in self.files.items()}),
            output=outputs,
            log=[str(self.volume.log(stage, NAME, DATE))],
        )
        script = REPOSITORY / "workflow/scripts" / f"{stage}.py"
        runpy.run_path(str(script), init_globals={"snakemake": told})


def no_policies(site: Site) -> None:
    site.config["classify"]["policies"] = "/nowhere"


def damaged_examples(site: Site) -> None:
    (site.copy("classify", "policies") / "examples.yaml").write_text("scams: {flagged: yes}")


def wrong_examples(site: Site) -> None:
    file = site.copy("classify", "policies") / "examples.yaml"
    file.write_text(file.read_text().replace("please send me your bank password today", BENIGN))


def a_policy_that_is_too_long(site: Site) -> None:
    site.config["classify"]["max_tokens"] = 256


def no_adapter(site: Site) -> None:
    site.config["classify"]["adapter"] = "/nowhere"


def half_the_weights(site: Site) -> None:
    file = site.copy("classify", "model") / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def no_tokenizer(site: Site) -> None:
    (site.copy("classify", "model") / "tokenizer.json").unlink()


def a_damaged_tokenizer(site: Site) -> None:
    (site.copy("classify", "model") / "tokenizer.json").write_text("{}")


def a_damaged_speech_tokenizer(site: Site) -> None:
    (site.copy("asr", "model") / "tokenizer.json").write_text("{}")


def no_vocabulary(site: Site) -> None:
    (site.copy("asr", "model") / "vocabulary.json").unlink()


def no_configuration(site: Site) -> None:
    """CTranslate2 would load it, and suppress nothing."""
    (site.copy("asr", "model") / "config.json").write_text("{}")


def a_name_that_stood_for_something_else(site: Site) -> None:
    record = site.volume.state / "asr" / "demo.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"model": "another"}))


def an_unknown_language(site: Site) -> None:
    site.config["asr"]["language"] = "tlh"


def no_detector(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(vad: str, device: str) -> None:
        raise RuntimeError("PytorchStreamReader failed")

    monkeypatch.setattr("earmark.speech.preparation.load_detector", broken)


def a_broken_installation(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the processes that encode need."""
    (site.folder / "broken").mkdir()
    (site.folder / "broken" / "av.py").write_text("raise ImportError('libavcodec.so.61: missing')")
    monkeypatch.setenv("PYTHONPATH", str(site.folder / "broken"))


def no_database_address(site: Site) -> None:
    site.config["database"]["url"] = "mysql//"


def a_password_in_the_configuration(site: Site) -> None:
    site.config["database"]["url"] = "postgresql://ann:secret@localhost/x"


def a_database_that_is_away(site: Site) -> None:
    site.config["database"]["url"] = "postgresql://ann@127.0.0.1:1/x"


def no_ssh_configuration(site: Site) -> None:
    site.config["source"] = {"kind": "ssh", "ssh_config": "/nowhere", "directory": "/x"}


def no_source(site: Site) -> None:
    pass  # Site made none


@pytest.mark.parametrize(
    ("stage", "fault", "words"),
    [
        ("fetch_archive", no_source, "cannot be used (No such file or directory)"),
        ("fetch_archive", no_ssh_configuration, "source.ssh_config names /nowhere"),
        ("encode_opus", a_broken_installation, "can't start (exit status 1)"),
        ("transcribe_audio", a_damaged_speech_tokenizer, "cannot be loaded (Model missing"),
        ("transcribe_audio", no_vocabulary, "holds no vocabulary.json"),
        ("transcribe_audio", no_configuration, "it lacks lang_ids, suppress_ids"),
        ("transcribe_audio", a_name_that_stood_for_something_else, "choose a new asr.name"),
        ("transcribe_audio", an_unknown_language, "asr.language"),
        ("transcribe_audio", no_detector, "asr.vad 'silero', which comes with"),
        ("classify_transcripts", no_policies, "no folder of policies at /nowhere"),
        ("classify_transcripts", damaged_examples, "examples.yaml can't be read"),
        ("classify_transcripts", wrong_examples, "fails its self-check: by policy scams"),
        ("classify_transcripts", a_policy_that_is_too_long, "policy scams fills "),
        ("classify_transcripts", no_adapter, "classify.adapter names the folder /nowhere"),
        ("classify_transcripts", half_the_weights, "model.safetensors can't be loaded"),
        ("classify_transcripts", no_tokenizer, "holds no tokenizer"),
        ("classify_transcripts", a_damaged_tokenizer, "can't be loaded"),
        ("load_pg", no_database_address, "database.url"),
        ("load_pg", a_password_in_the_configuration, "holds a password"),
        ("load_pg", a_database_that_is_away, "can't reach"),
    ],
)
def test_a_fault_of_the_set_up_ends_a_stage_and_counts_against_no_archive(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    fault: Callable[..., None],
    words: str,
) -> None:
    site = Site(tmp_path)
    fault(*[site, monkeypatch][: fault.__code__.co_argcount])
    with pytest.raises(SystemExit) as ended:
        site.run(stage)
    assert ended.value.code == 2
    (failure,) = attempts.failures(site.volume, NAME)
    assert words in (failure.reason or "")
    assert not failure.counts
    assert quarantine.give_up(site.volume, [site.archive], max_attempts=1) == []
    said = site.volume.log(stage, NAME, DATE).read_text()
    assert "Traceback" not in said


def test_a_missing_library_counts_against_no_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "faster_whisper", None)
    with pytest.raises(ImportError):
        site.run("transcribe_audio")
    (failure,) = attempts.failures(site.volume, NAME)
    assert not failure.counts


def test_what_an_archive_brings_still_counts(tmp_path: Path) -> None:
    """Without it, the tests above could not fail."""
    site = Site(tmp_path)
    site.files["manifest"].write_bytes(b"no Parquet")
    with pytest.raises(SystemExit):
        site.run("transcribe_audio")
    (failure,) = attempts.failures(site.volume, NAME)
    assert failure.counts


def test_no_settings_of_encoding_that_are_accepted_make_it_fail(tmp_path: Path) -> None:
    source = write_audio(tmp_path / "a.mp3", chirp(0.2, seed=1))
    tried = 0
    for bitrate, channels, application, vbr, complexity in itertools.product(
        ["6k", "12k", "256k", "512k"], [1, 2], ["voip", "audio", "lowdelay"],
        ["off", "on", "constrained"], [0, 10],
    ):  # fmt: skip
        try:
            options = {
                "bitrate": bitrate, "channels": channels, "application": application, "vbr": vbr,
                "complexity": complexity,
            }  # fmt: skip
            settings = msgspec.convert(options, EncodeSettings)
        except EarmarkError:
            continue
        tried += 1
        assert encode_opus(source, tmp_path / "a.opus", settings).opus_bytes > 0
    assert tried == (3 + 4) * 3 * 3 * 2  # 512k for one channel is refused

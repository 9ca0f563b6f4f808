"""Whisper models whose files don't go together, found before a clip is blamed for it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from demo_clips import MODEL, QUICK
from msgspec.structs import replace
from on_demand import OnDemand

from earmark.errors import SetupError
from earmark.models.inventory import inspect_all
from earmark.models.whisper_files import check_whisper
from earmark.settings import ClassifySettings, Settings
from earmark.speech.recognition import Recogniser

faster_whisper = OnDemand("faster_whisper")

ADAPTER = MODEL.parent / "cope-demo"
CLASSIFY = ClassifySettings(model=str(MODEL.parent / "gemma-demo"), adapter=str(ADAPTER))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(MODEL, tmp_path / "whisper")
    return tmp_path / "whisper"


def say(folder: Path, mels: object) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": mels}))


def widen(folder: Path) -> None:
    """Write 128 mel bands into the shape of the first layer, as large-v3 has them."""
    content = (folder / "model.bin").read_bytes()
    name = b"encoder/conv1/weight\0"
    at = content.index(name) + len(name) + 1 + 4
    assert content[at : at + 4] == (80).to_bytes(4, "little")
    (folder / "model.bin").write_bytes(
        content[:at] + (128).to_bytes(4, "little") + content[at + 4 :]
    )


def cut(folder: Path) -> None:
    size = (folder / "model.bin").stat().st_size
    os.truncate(folder / "model.bin", size - 200_000)


def rename(folder: Path) -> None:
    content = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(content.replace(b"encoder/conv1", b"encoder/layer"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: say(folder, 128), "takes in 80 mel bands, and .* says 128; put the file"),
        (lambda folder: say(folder, "80"), "can't be read .feature_size is '80'"),
        (lambda folder: say(folder, None), "can't be read .feature_size is None"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{"), "can't be read"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("[]"), "can't be read"),
        (widen, "takes in 128 mel bands, and .* says 80"),
        (cut, "can't be read as a model for CTranslate2 .it is cut short"),
        (rename, "is not a Whisper model; choose another one"),
        (lambda folder: (folder / "model.bin").write_bytes(b""), "can't be read as a model"),
    ],
)
def test_a_model_whose_files_do_not_go_together_is_refused_before_it_is_loaded(
    model: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(model)
    with pytest.raises(SetupError, match=rf"asr\.model: .*{reason}"):
        Recogniser(replace(QUICK, model=str(model)))
    settings = Settings(asr=replace(QUICK, model=str(model)), classify=CLASSIFY)
    told, *others = inspect_all(settings, by_size=True)
    assert told.key == "asr.model"
    assert told.problem is not None
    assert [each.problem for each in others] == [None, None]


def test_a_model_of_128_mel_bands_wants_a_file_that_says_so(model: Path) -> None:
    widen(model)
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(SetupError, match=r"128 mel bands, and .*preprocessor_config\.json is miss"):
        check_whisper(model)
    say(model, 128)
    check_whisper(model)


def test_the_library_itself_loads_such_a_model_and_fails_at_the_first_clip(model: Path) -> None:
    say(model, 128)
    loaded = faster_whisper.WhisperModel(str(model), device="cpu", compute_type="float32")
    segments, _ = loaded.transcribe(np.zeros(16_000, np.float32), language="en")
    with pytest.raises(ValueError, match="Invalid input features shape"):
        list(segments)


@pytest.mark.parametrize("version", [3, 7])
def test_a_format_that_is_not_known_is_left_to_the_library(model: Path, version: int) -> None:
    content = (model / "model.bin").read_bytes()
    (model / "model.bin").write_bytes(version.to_bytes(4, "little") + content[4:])
    check_whisper(model)


def test_a_model_without_the_file_takes_in_eighty(model: Path) -> None:
    (model / "preprocessor_config.json").unlink()
    assert Recogniser(replace(QUICK, model=str(model))).mels == 80

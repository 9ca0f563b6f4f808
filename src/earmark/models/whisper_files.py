"""What the files of a Whisper model for CTranslate2 tell before it is loaded.

The model does not say at load how many mel bands it takes in: one that gets others fails at
every clip, as if the archives were to blame.
"""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from earmark.errors import SetupError

#: Mel bands of the spectrograms where no ``preprocessor_config.json`` says otherwise.
_DEFAULT_MELS = 80
#: Mel bands that WhisperX has filters for.
_MELS = (80, 128)
#: Versions of CTranslate2's format that lay out their weights alike; what another one holds
#: shows when it is loaded.
_FORMATS = (4, 5, 6)
#: The weights of the encoder's first layer, shape [width, mels, 3].
_FIRST_LAYER = "encoder/conv1/weight"


def check_whisper(folder: Path) -> None:
    """Check that a model takes in the spectrograms that its folder asks for.

    Raises:
        SetupError: ``model.bin`` is cut short or no Whisper model, its mel bands are not those
            of ``preprocessor_config.json``, or a file is missing or empty of what CTranslate2
            would do without.
    """
    _check_config(folder / "config.json")
    if not any(folder.glob("vocabulary.*")):
        raise SetupError(f"asr.model: {folder} holds no vocabulary.json; put it there")
    file = folder / "model.bin"
    try:
        with file.open("rb") as model:
            if _number(model, "I") not in _FORMATS:
                return
            shapes = dict(_variables(model))
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise SetupError(
            f"asr.model: {file} can't be read as a model for CTranslate2 ({error}); put the whole "
            "file there again"
        ) from error
    if len(shapes.get(_FIRST_LAYER, ())) != 3:
        raise SetupError(f"asr.model: {file} is not a Whisper model; choose another one")
    check_mels(folder, shapes[_FIRST_LAYER][1])


def _check_config(path: Path) -> None:
    """CTranslate2 loads a model without its configuration, and then suppresses no token."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        lacking = sorted({"lang_ids", "suppress_ids"} - set(found))
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except (OSError, ValueError, TypeError) as error:
        raise SetupError(
            f"asr.model: {path} can't be read ({error}); put the file there that belongs to the "
            "model"
        ) from error


def check_mels(folder: Path, taken: int) -> int:
    """Check that a model's folder asks for as many mel bands as the model takes in.

    Args:
        folder: The model's.
        taken: Mel bands that the model takes in.

    Returns:
        The same number.

    Raises:
        SetupError: it does not, or no such spectrogram can be made.
    """
    given = mels_of(folder)
    if given != taken:
        config = folder / "preprocessor_config.json"
        said = f"{config} says {given}" if config.is_file() else f"{config} is missing"
        raise SetupError(
            f"asr.model: the model in {folder} takes in {taken} mel bands, and {said}; put the "
            "file there that belongs to the model (its key feature_size is the number)"
        )
    if taken not in _MELS:
        raise SetupError(
            f"asr.model: the model in {folder} takes in {taken} mel bands; Earmark makes "
            f"spectrograms of {' or '.join(map(str, _MELS))}: choose another model"
        )
    return taken


def mels_of(folder: Path) -> int:
    """Mel bands of the spectrograms that a model's folder asks for.

    Raises:
        SetupError: ``preprocessor_config.json`` says nothing that can be understood.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return _DEFAULT_MELS
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        mels = found.get("feature_size", _DEFAULT_MELS)
        if type(mels) is not int:
            raise ValueError(f"feature_size is {mels!r}")
    except (OSError, ValueError, AttributeError) as error:
        raise SetupError(
            f"asr.model: {path} can't be read ({error}); put it there again"
        ) from error
    return int(mels)


def _variables(model: BinaryIO) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each of a model's weights; the weights themselves are skipped.

    Source: CTranslate2, ``Model::load`` in ``src/models/model.cc``.

    Args:
        model: Read up to the version of its format.

    Raises:
        EOFError: the file ends within them.
    """
    size = os.fstat(model.fileno()).st_size
    _text(model)  # kind of model
    _number(model, "I")  # its revision
    for _ in range(_number(model, "I")):
        name = _text(model)
        shape = tuple(_number(model, "I") for _ in range(_number(model, "B")))
        _number(model, "B")  # type
        if model.seek(_number(model, "I"), os.SEEK_CUR) > size:
            raise EOFError("it is cut short")
        yield name, shape


def _number(model: BinaryIO, kind: str) -> int:
    layout = struct.Struct(f"<{kind}")
    return int(layout.unpack(model.read(layout.size))[0])


def _text(model: BinaryIO) -> str:
    return model.read(_number(model, "H")).rstrip(b"\0").decode()

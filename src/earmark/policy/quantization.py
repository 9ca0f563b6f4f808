"""How a model's weights are kept where the configuration leaves it to the GPU (``auto``)."""

import logging
from pathlib import Path

from msgspec.structs import replace

from earmark.gpu import free_bytes
from earmark.models.classifier_files import weights_count
from earmark.models.inventory import find_classifier
from earmark.settings import ClassifySettings

logger = logging.getLogger(__name__)

#: What a pass takes beside the weights: the policy's keys and values, and a batch's scores and
#: states.  Gemma 2 9B in bfloat16 used 20.6 GB at the most, of which 18.5 are weights
#: (benchmarks/README.md); a batch that needs more is halved.
ROOM_BYTES = 3e9
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def chosen(settings: ClassifySettings) -> ClassifySettings:
    """The settings with ``auto`` replaced by what fits the machine.

    On a GPU that is no quantization where the weights fit with room for the work, which is more
    than twice as fast (the adapter goes into the weights), and 8 bits otherwise; on a CPU, where
    8 bits are no faster, none.

    Raises:
        SetupError: the model is not there.
    """
    if settings.quantization != "auto":
        return settings
    if settings.device == "cpu":
        logger.info("classify.quantization: auto is none on a CPU")
        return replace(settings, quantization=None)
    base, _ = find_classifier(settings)
    needed = weights_count(Path(base.folder)) * _BYTES[settings.dtype] + ROOM_BYTES
    free = free_bytes()
    fits = needed <= free
    logger.info(
        "classify.quantization: auto is %s: %s without quantization would need %.1f GB of the "
        "GPU's memory, and %.1f GB are free",
        "none" if fits else "8bit", settings.model, needed / 1e9, free / 1e9,
    )  # fmt: skip
    return replace(settings, quantization=None if fits else "8bit")

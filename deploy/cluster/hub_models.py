"""Print the model hub's names of the models in a configuration, one a line.

Folders are left out: who names one puts it there.  Which of the hub's models a Whisper name such
as ``large-v2`` stands for is asked of faster-whisper, which loads it.
"""

import sys
from pathlib import Path

from earmark.configuration import Config, is_folder, read


def hub_models(config: Config) -> list[str]:
    """The names of the models that a run would look for at the hub.

    Args:
        config: A configuration that :func:`earmark.configuration.resolve` returned.
    """
    names = [config["classify"]["model"], config["classify"]["adapter"]]
    if not is_folder(whisper := config["asr"]["model"]):
        from faster_whisper.utils import _MODELS  # slow

        names.insert(0, _MODELS.get(whisper, whisper))
    return [name for name in names if name is not None and not is_folder(name)]


if __name__ == "__main__":
    print("\n".join(hub_models(read(Path(sys.argv[1])))))

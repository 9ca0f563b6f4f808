"""Whether the models that the configuration names are there, without loading them.

Loading them imports PyTorch, which takes seconds; whoever only schedules jobs should not wait
for that.
"""

from pathlib import Path

from earmark.configuration import Config, is_folder
from earmark.errors import EarmarkError


def check_models(config: Config) -> None:
    """Check the folders of all models in a configuration.

    Args:
        config: A configuration that :func:`earmark.configuration.resolve` returned.

    Raises:
        EarmarkError: see :func:`check_model`.
    """
    check_model("asr.model", config["asr"]["model"], "model.bin")
    check_model("classify.model", config["classify"]["model"], "config.json")
    if config["classify"]["adapter"] is not None:
        check_model("classify.adapter", config["classify"]["adapter"], "adapter_config.json")


def check_model(key: str, model: str, file: str) -> None:
    """Check that a model named by a folder is there; a name on the model hub passes.

    Args:
        key: The configuration's key, for the message.
        model: Its value.
        file: The file that every such model has.

    Raises:
        EarmarkError: it is not there; a library would take the path for a name on the hub.
    """
    if is_folder(model) and not (Path(model) / file).is_file():
        raise EarmarkError(
            f"{key} names the folder {model}, which is missing or holds no {file}; "
            "correct the path or put the model there"
        )

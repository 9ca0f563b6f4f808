"""Brings models from the Hugging Face hub, checked against the hub's own checksums.

All of it happens through ``huggingface_hub``: its cache, its resuming, its token (``HF_TOKEN``,
which never appears in what is said here).
"""

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import partial as with_arguments
from pathlib import Path, PurePosixPath
from typing import TypeVar

# Xet, the hub's protocol of blocks, begins an interrupted file anew; plain HTTP resumes it.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

import requests
from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented
from requests.exceptions import ChunkedEncodingError
from rich.filesize import decimal

from earmark.errors import EarmarkError
from earmark.models.inventory import Model
from earmark.models.snapshots import File, Snapshot
from earmark.progress import watch_file

logger = logging.getLogger(__name__)

#: The same weights for other programs, which nothing here loads.
OTHER_FORMATS = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.tflite", "*.pth")
#: How often a file that arrives damaged is fetched, ...
_ATTEMPTS = 2
#: ... how often in a row a connection may break without having brought a byte, and the pause then.
_BREAKS = 3
_PAUSE_SECONDS = 1.0
_HEXADECIMAL = re.compile("[0-9a-f]{40,64}")

T = TypeVar("T")


def fetch(models: Sequence[Model]) -> list[Snapshot]:
    """Bring models onto this machine, as far as they aren't there and whole.

    All are looked up before the first is brought, and what the hub refuses is told of all of
    them, as a licence to accept may take its time.  A pinned model that is whole isn't even
    looked up.  What an interrupted call left is taken up where it ended; until a model is whole,
    what was fetched of it before stays in use.

    Args:
        models: Models of the hub.

    Returns:
        What there is now, in their order.

    Raises:
        EarmarkError: the hub can't be reached, refuses a model, or sends something else than it
            promised.
        OSError: there is no room, or no right to write.
    """
    snapshots = [_whole(model) for model in models]
    wanted = [model for model, here in zip(models, snapshots, strict=True) if here is None]
    found = iter(_look_up_all(wanted))
    for position, model in enumerate(models):
        if snapshots[position] is None:
            snapshots[position] = snapshot = next(found)
            for file in snapshot.files:
                _bring(model, snapshot, file)
            snapshot.record(unpinned=model.revision is None)
    return [snapshot for snapshot in snapshots if snapshot is not None]


def _whole(model: Model) -> Snapshot | None:
    """A pinned model that needs nothing."""
    snapshot = Snapshot.of(model.repository, model.revision) if model.revision else None
    return None if snapshot is None or any(snapshot.damage()) else snapshot


def _look_up_all(models: Sequence[Model]) -> list[Snapshot]:
    if models and constants.HF_HUB_OFFLINE:
        raise EarmarkError(
            "HF_HUB_OFFLINE forbids to ask the model hub; run this command with HF_HUB_OFFLINE=0"
        )
    disable_progress_bars()
    found, refusals = [], []
    for model in models:
        try:
            found.append(_ask(model, with_arguments(_look_up, model)))
        except EarmarkError as error:
            refusals.append(str(error))
    if refusals:
        raise EarmarkError("\n".join(refusals))
    return found


def _look_up(model: Model) -> Snapshot:
    api = HfApi()
    info = api.model_info(model.repository, revision=model.revision, files_metadata=True)
    api.auth_check(model.repository)  # a gated model's files are listed to everybody
    commit = str(info.sha)
    if not _HEXADECIMAL.fullmatch(commit):
        raise EarmarkError(f"{constants.ENDPOINT} names no commit of {model.repository}")
    files = tuple(
        _file(each)
        for each in info.siblings or ()
        if not any(fnmatch(each.rfilename, pattern) for pattern in OTHER_FORMATS)
    )
    for name in model.files:
        if name not in {file.name for file in files}:
            raise EarmarkError(
                f"{model.repository} has no {name}, so it is not what {model.key} wants; correct "
                f"{model.key}"
            )
    return Snapshot(model.repository, commit, files)


def _file(told: RepoSibling) -> File:
    """What the hub tells of one file; names and checksums become paths, so both are checked."""
    if told.lfs is not None:
        file = File(told.rfilename, told.lfs.size, "sha256", told.lfs.sha256)
    else:
        file = File(told.rfilename, told.size or 0, "git-sha1", told.blob_id or "")
    path = PurePosixPath(file.name)
    if path.is_absolute() or ".." in path.parts or not _HEXADECIMAL.fullmatch(file.checksum):
        raise EarmarkError(
            f"{constants.ENDPOINT} tells of a file {file.name!r} with the checksum "
            f"{file.checksum!r}, which can't be; unset HF_ENDPOINT to ask the hub itself"
        )
    return file


def _bring(model: Model, snapshot: Snapshot, file: File) -> None:
    """Bring one file unless it is there and right."""
    path = snapshot.folder / file.name
    blob = snapshot.folder.parents[1] / "blobs" / file.checksum
    partial = blob.with_name(f"{blob.name}.incomplete")

    def discard() -> None:
        if path.exists():  # a link to the blob, which other commits may share
            blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    found = file.damage(snapshot.folder)
    for _ in range(_ATTEMPTS):
        if found is None:
            return
        discard()
        if partial.exists() and partial.stat().st_size >= file.bytes:
            partial.unlink()  # the hub has no bytes after the last one, and would refuse
        with watch_file(partial, file.bytes, f"fetch {model.repository}/{file.name}", blob):
            _ask(model, with_arguments(_download, snapshot, file, partial))
        found = file.damage(snapshot.folder)
        if found is not None:
            logger.warning("%s: %s", model.repository, found)
    if found is not None:
        discard()
        raise EarmarkError(
            f"{model.repository}: {found}, although it was fetched anew; something between here "
            f"and {constants.ENDPOINT} changes it, or the disk does"
        )


def _download(snapshot: Snapshot, file: File, partial: Path) -> None:
    """Download a file; a connection that breaks is taken up as long as it brings something."""
    breaks = had = 0
    while True:
        try:
            hf_hub_download(snapshot.repository, file.name, revision=snapshot.commit)
            return
        except (requests.ConnectionError, requests.Timeout, ChunkedEncodingError) as error:
            has = partial.stat().st_size if partial.exists() else 0
            breaks = 1 if has > had else breaks + 1
            had = has
            if breaks >= _BREAKS:
                raise
            logger.warning(
                "%s: the connection broke at %s of %s of %s (%s); going on from there",
                snapshot.repository, decimal(has), decimal(file.bytes), file.name, error,
            )  # fmt: skip
            time.sleep(_PAUSE_SECONDS)


def _ask(model: Model, question: Callable[[], T]) -> T:
    """Ask the hub something; what it refuses is told with what to do about it."""
    page = f"{constants.ENDPOINT}/{model.repository}"
    token = "the account of the token" if get_token() else "an account"
    try:
        return question()
    except GatedRepoError as error:
        raise EarmarkError(
            f"{model.repository} ({model.key}) is gated: accept its licence on {page} with "
            f"{token}, wait until access is granted, and give a token of that account that may "
            "read gated models by the environment variable HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise EarmarkError(
            f"{model.repository} has no commit {model.revision}; correct {model.pin}, or set it "
            "to null to be told the newest one"
        ) from error
    except RepositoryNotFoundError as error:
        raise EarmarkError(
            f"{constants.ENDPOINT} shows no model {model.repository} to {token}; correct "
            f"{model.key}, or, if it is private or gated, give HF_TOKEN of an account that may "
            "see it"
        ) from error
    except (HfHubHTTPError, requests.RequestException) as error:
        # What the client says of a hub that it can't reach looks like an answer, without one.
        if error.response is None or isinstance(error, LocalEntryNotFoundError):
            cause = error.__cause__ or error
            raise EarmarkError(
                f"{model.repository} can't be fetched from {constants.ENDPOINT} "
                f"({' '.join(str(cause).split())}); run the command again, which goes on where "
                "this one ended"
            ) from error
        status = error.response.status_code
        advice = "; try again later; what was fetched stays"
        if status in (401, 403):
            advice = (
                "; HF_TOKEN is expired, or must not read this model (gated models want a token "
                f"with that right, and their licence accepted on {page})"
            )
        raise EarmarkError(
            f"{constants.ENDPOINT} answered {status} for {model.repository}{advice}"
        ) from error

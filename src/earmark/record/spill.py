"""Where DuckDB puts what does not fit into memory, texts and scores included."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from earmark import locks
from earmark.volume import Volume


@contextmanager
def room(volume: Volume) -> Iterator[str]:
    """A temporary folder on the volume; those of processes that were killed are removed.

    Whoever may only read the volume gets one where temporary files go by default.

    Raises:
        OSError: it can't be made.
    """
    with ExitStack() as stack:
        folder = volume.spilled
        if not os.access(folder if folder.exists() else volume.state, os.W_OK):
            yield stack.enter_context(TemporaryDirectory())
            return
        for other in abandoned(volume):
            shutil.rmtree(other, ignore_errors=True)
        with locks.exclusive(folder / ".lock", "analysis"):  # or it is taken for an abandoned one
            own = stack.enter_context(TemporaryDirectory(dir=folder))
            stack.enter_context(locks.exclusive(Path(own) / ".lock", "analysis"))
        yield own


def abandoned(volume: Volume) -> list[Path]:
    """The folders of processes that were killed.

    Raises:
        OSError: the volume can't be read.
    """
    folder = volume.spilled
    if not folder.is_dir():
        return []
    with locks.exclusive(folder / ".lock", "analysis"):
        return [path for path in folder.glob("[!.]*") if not locks.is_held(path / ".lock")]

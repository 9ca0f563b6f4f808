"""What every stage and every command says while it works."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from earmark import logs


@pytest.fixture
def restored() -> Iterator[None]:
    root, speaker = logging.getLogger(), logging.getLogger("earmark")
    before = root.handlers[:], root.level
    # As in a job's process, where no command was called before; a handler of pytest's would give
    # the name on to where nothing but UTF-8 may go.
    speaker.handlers, speaker.propagate = [], True
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("restored")
def test_a_line_that_quotes_a_name_with_bytes_that_are_no_utf8_is_in_the_log(
    tmp_path: Path,
) -> None:
    logs.configure("fetch_archive@transfer", tmp_path / "a.log")
    logging.getLogger("earmark").error("%s is here already", "b\udcffd.tar")
    (line,) = (tmp_path / "a.log").read_text(encoding="utf-8").splitlines()
    assert line.endswith("| ERROR | fetch_archive@transfer | b\\udcffd.tar is here already")

"""How the tests stand beside each other: quick to collect, and none made of another's parts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from earmark import REPOSITORY

#: Modules that take a second or more to import.
HEAVY = {
    *("torch", "transformers", "peft", "whisperx", "ctranslate2", "faster_whisper", "matplotlib"),
    *("playwright", "pandas", "scipy", "fastapi", "snakemake"),
}

COLLECT = f"""
import json, sys
import pytest
status = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider"])
print()
print(json.dumps([int(status), sorted({HEAVY} & sys.modules.keys())]))
"""


@pytest.mark.slow
def test_collecting_the_tests_imports_nothing_that_takes_seconds() -> None:
    command = [sys.executable, "-c", COLLECT]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stdout[-2000:]


def test_no_test_file_imports_another() -> None:
    files = sorted(Path(__file__).parent.rglob("*.py"))
    importing = re.compile(r"^\s*(?:from|import) (?:tests\.)?test_\w+", re.MULTILINE)
    assert [file.name for file in files if importing.search(file.read_text("utf-8"))] == []

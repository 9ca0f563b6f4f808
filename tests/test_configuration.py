"""The configuration: defaults, the page that explains them, and errors a person can act on."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from config.write_reference import files, with_tables
from earmark import REPOSITORY
from earmark.configuration import DEFAULT_FILE, read, resolve
from earmark.errors import EarmarkError
from earmark.settings import Settings, schema

MINIMAL = {"volume": {"root": "/volume"}, "source": {"kind": "folder", "directory": "/source"}}
KEYS = [
    (section, key, rules)
    for section, body in schema()["properties"].items()
    for key, rules in body["properties"].items()
]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("file", files(), ids=lambda file: file.name)
def test_what_is_made_from_the_settings_says_what_they_say(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == files()[file], "run `make settings`"


def test_the_default_file_lists_every_key_with_its_default() -> None:
    defaults = yaml.safe_load(DEFAULT_FILE.read_text(encoding="utf-8"))
    assert defaults == json.loads(msgspec.json.encode(Settings()))


def test_the_page_about_the_configuration_has_every_key_with_its_default_and_no_other() -> None:
    page = (REPOSITORY / "config/README.md").read_text(encoding="utf-8")
    described = {}
    section = None
    for line in page.splitlines():
        if heading := re.fullmatch(r"## `(\w+)`", line):
            section = heading[1]
        elif section and (row := re.match(r"\| `(\w+)` \| `([^`]*)` \| \S+", line)):
            described[section, row[1]] = yaml.safe_load(row[2])
    assert described == {(section, key): rules["default"] for section, key, rules in KEYS}


def test_a_table_is_written_anew_and_what_stands_around_it_stays() -> None:
    row = "| `max_attempts` | `3` | "
    page = "# A\n\n| x | y |\n\n## `failure`\n\nSo it is.\n\n| key |\n|---|\n| old |\n\n## More\n"
    before, after = page.split("| key |\n|---|\n| old |\n")
    written = with_tables(page)
    assert written.startswith(f"{before}| key | default | meaning |\n|---|---|---|\n{row}")
    assert written.endswith(f"|\n{after}")
    assert with_tables(written) == written


def test_every_key_is_explained() -> None:
    assert [key for _, key, rules in KEYS if not rules["description"].endswith(".")] == []


def test_a_key_that_is_left_out_gets_its_default() -> None:
    settings = resolve(MINIMAL)
    assert settings.asr.model == "large-v2"
    assert settings.encode.bitrate == "48k"


@pytest.mark.parametrize("file", ["config/config.yaml", "demo/config.yaml"])
def test_the_configurations_that_ship_are_valid(file: str) -> None:
    assert read(REPOSITORY / file).volume.root


def test_resolving_twice_changes_nothing() -> None:
    settings = resolve(MINIMAL)
    assert resolve(msgspec.to_builtins(settings)) == settings


def test_volume_root_of_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLUME_ROOT", "/elsewhere")
    assert resolve(MINIMAL).volume.root == "/elsewhere"


def test_relative_paths_start_at_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"kind": "folder", "directory": "demo/archives"}
    settings = resolve({"volume": {"root": "here"}, "source": source})
    assert settings.volume.root == str(REPOSITORY / "here")
    assert settings.source.directory == str(REPOSITORY / "demo/archives")
    assert settings.classify.policies == str(REPOSITORY / "config/policies")


def test_a_folder_of_a_host_is_left_as_it_is_and_must_be_absolute() -> None:
    there = {"kind": "ssh", "directory": "/mnt/hub/export/sound"}
    assert resolve(MINIMAL | {"source": there}).source.directory == there["directory"]
    for folder in ("export", "-delete", "~/export"):
        with pytest.raises(EarmarkError, match=r"'source\.directory' is .* no absolute path"):
            resolve(MINIMAL | {"source": there | {"directory": folder}})


def test_the_host_of_the_first_design_is_the_default() -> None:
    source = resolve({}).source
    assert (source.kind, source.host) == ("ssh", "tt-zrh")
    assert source.directory == "/mnt/hub/export/sound"
    assert source.ssh_config == str(Path("~/.ssh/ssh_config").expanduser())


@pytest.mark.parametrize("host", ["-oProxyCommand=reboot", "a b", "$(reboot)", "a;b", ""])
def test_a_host_that_could_mean_something_else_is_refused(host: str) -> None:
    with pytest.raises(EarmarkError, match=r"source\.host"):
        resolve(MINIMAL | {"source": {"host": host}})


@pytest.mark.parametrize("name", ["large-v2", "Systran/faster-whisper-large-v2"])
def test_a_name_on_the_model_hub_is_not_taken_for_a_path(name: str) -> None:
    assert resolve(MINIMAL | {"asr": {"model": name}}).asr.model == name


def test_a_misspelt_key_is_refused_by_name_with_the_right_one() -> None:
    with pytest.raises(EarmarkError, match=r"unknown key 'asr\.modle'; did you mean 'asr\.model'"):
        resolve(MINIMAL | {"asr": {"modle": "large-v2"}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asr": {"batch_size": 0}}, r"'asr\.batch_size' is 0, .*minimum"),
        ({"encode": {"bitrate": "48"}}, r"'encode\.bitrate' is '48', .*match"),
        ({"asr": {"device": "gpu"}}, r"'asr\.device' is 'gpu', .*one of"),
        ({"selection": {"fraction": 0}}, r"'selection\.fraction' is 0, .*minimum"),
        ({"encode": {"channels": 3}}, r"'encode\.channels' is 3, .*one of \[1, 2\]"),
        ({"encode": {"bitrate": "1k"}}, r"'encode\.bitrate' is '1k'; expected 6k to 256k"),
        ({"review": {"alert_hours": [6, 6]}}, r"'review\.alert_hours' is \[6, 6\], .*non-unique"),
        ({"desk": {"port": 8400.0}}, r"'desk\.port' is wrong: Expected `int`, got `float`"),
        ({"selection": {"min_seconds": 9, "max_seconds": 8}}, r"max_seconds' is 8, .*less than"),
        ({"source": "folder"}, r"'source' is 'folder', .*type 'object'"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(change: dict, message: str) -> None:
    with pytest.raises(EarmarkError, match=message):
        resolve(MINIMAL | change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("asr:\n  batch_size: 8\n  batch_size: 16\n", "'batch_size' is given twice, in line 2 and"),
        ("asr: {beam_size: 2}\nasr:\n", "'asr' is given twice, in line 1 and in line 2"),
        ("desk:\n  port: 0100\n", "'0100' in line 2 is read as 64"),
        ("transfer:\n  timeout_minutes: 1:30\n", "'1:30' in line 2 is read as 90"),
        ("selection:\n  fraction: .nan\n", "'.nan' in line 2 is read as nan"),
        (
            "classify:\n  policy: 2026-11-01\n",
            "'2026-11-01' in line 2 is read as a date; put",
        ),
        (
            "asr:\n  language: no\n",
            "'asr.language' is False, .*; put it in quotes",
        ),
        ("asr:\n  name: 2.10\n", "'asr.name' is 2.1, .*; put it in quotes"),
    ],
)
def test_what_yaml_reads_differently_than_written_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(EarmarkError, match=message):
        read(write(tmp_path / "config.yaml", text))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_bound_lets_a_number_pass_that_is_none(value: float) -> None:
    """Also if Snakemake has read it."""
    for section, key in (("transfer", "timeout_minutes"), ("selection", "fraction")):
        with pytest.raises(EarmarkError, match=rf"'{section}\.{key}' is .*, which is no finite"):
            resolve(MINIMAL | {section: {key: value}})


@pytest.mark.parametrize("text", ["volume: [", "just a sentence", "- a\n- b\n", ""])
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "config.yaml", text)
    with pytest.raises(EarmarkError, match=re.escape(str(file))) as refused:
        read(file)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EarmarkError, match=r"cannot read the config .*nowhere\.yaml"):
        read(tmp_path / "nowhere.yaml")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(schema()["properties"])) | st.text(), anything))
def test_any_mapping_is_either_completed_or_refused_in_one_sentence(config: dict) -> None:
    try:
        resolve(config)
    except EarmarkError as error:
        explained = str(error)
    else:
        return
    assert explained.startswith("the config")


@given(st.sampled_from(KEYS), anything)
def test_any_value_of_any_key_is_either_accepted_or_refused_by_name(
    which: tuple[str, str, dict], value: object
) -> None:
    section, key, _ = which
    config: dict[str, Any] = {name: dict(body) for name, body in MINIMAL.items()}
    config.setdefault(section, {})[key] = value
    try:
        resolve(config)
    except EarmarkError as error:
        explained = str(error)
    else:
        return
    assert key in explained

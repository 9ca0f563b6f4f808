"""The earmark command: help, clear errors, tables for people and JSON for programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
import yaml

from earmark import cli, commands, locks
from earmark.volume import Volume

#: Those that are given a configuration.
COMMANDS = [each for each in commands.NAMES if each not in ("init", "models", "reviewer")]
#: What has to be named beside it.
OPERANDS = {
    "restore": ["folder"], "search": ["word"], "show": ["1"],
    "export": ["txt", "folder"], "gold-set": ["--out=file"],
}  # fmt: skip


@pytest.fixture
def configfile(volume: Path, tmp_path: Path) -> str:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.tar").write_bytes(b"tar")
    (source / "new\x1b[31m.tar").write_bytes(b"tar")
    os.utime(source / "a.tar", (1_793_534_400, 1_793_534_400))
    file = tmp_path / "config.yaml"
    config = {
        "volume": {"root": str(volume)},
        "source": {"kind": "folder", "directory": str(source), "poll_seconds": 0},
    }
    file.write_text(yaml.safe_dump(config))
    return str(file)


def earmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    return subprocess.run(["earmark", *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert "--configfile FILE" in capsys.readouterr().out


def test_the_command_alone_says_how_it_is_used() -> None:
    done = earmark()
    assert done.returncode == 2
    assert "usage: earmark" in done.stderr
    assert earmark("status", "--configfile", "nowhere").returncode == 2
    assert earmark("--version").stdout.startswith("earmark ")


@pytest.mark.parametrize("command", [each for each in COMMANDS if each != "check"])
def test_a_wrong_configuration_is_one_sentence_and_status_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operands = OPERANDS.get(command, [])
    assert cli.main([command, *operands, "--configfile", str(tmp_path / "nowhere.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("earmark: cannot read the config")
    assert said.count("\n") == 1


def test_discover_lists_each_archive_with_what_becomes_of_it(
    configfile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["discover", "--configfile", configfile, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["archive"]: row["state"].split(":")[0] for row in rows} == {
        "a.tar": "pending",
        "new\x1b[31m.tar": "refused",
    }


def test_no_control_character_of_a_name_reaches_the_terminal(
    configfile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["discover", "--configfile", configfile]) == 0
    assert "\x1b[31m" not in capsys.readouterr().out


def test_a_database_without_tables_says_to_migrate_and_migrating_twice_is_harmless(
    configfile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ["--configfile", configfile]
    assert cli.main(["queue", *file]) == 2
    assert "run the workflow first" in capsys.readouterr().err
    assert cli.main(["database", *file]) == 0
    capsys.readouterr()
    assert cli.main(["queue", *file]) == 2
    assert "run `earmark migrate`" in capsys.readouterr().err
    assert cli.main(["migrate", *file]) == 0
    assert "0001-tables" in capsys.readouterr().out
    assert cli.main(["migrate", *file]) == 0
    assert "up to date" in capsys.readouterr().out
    assert cli.main(["queue", *file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert cli.main(["health", *file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["flagged_count"] == 0


def test_the_database_can_be_used_at_the_address_that_is_printed_until_it_is_stopped(
    configfile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = earmark("database", "--configfile", configfile).stdout.strip()
    assert address.startswith("postgresql://")
    connection = psycopg2.connect(address)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 6 * 7")
        assert cursor.fetchall() == [(42,)]
    connection.close()
    assert "Stopped" in earmark("database", "--configfile", configfile, "--stop").stdout


def test_analyse_lists_its_queries_and_refuses_others(
    configfile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["analyse", "--configfile", configfile, "--json"]) == 0
    assert "flag_rate" in [row["query"] for row in json.loads(capsys.readouterr().out)]
    assert cli.main(["analyse", "--configfile", configfile, "nonsense"]) == 2
    assert "no query nonsense; known are" in capsys.readouterr().err


def test_analyse_refuses_what_is_no_date(configfile: str) -> None:
    done = earmark("analyse", "--configfile", configfile, "flag_rate", "--since", "yesterday")
    assert done.returncode == 2
    assert "'yesterday' is no date; write 2026-11-30" in done.stderr


def test_a_category_that_no_policy_has_is_refused(
    configfile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["queue", "--configfile", configfile, "--category", "spam"]) == 2
    assert "no category 'spam'; known are " in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_that_is_no_positive_number_is_refused(configfile: str, limit: str) -> None:
    done = earmark("queue", "--configfile", configfile, f"--limit={limit}")
    assert done.returncode == 2
    assert "is not a positive number" in done.stderr


def test_discover_says_by_its_status_that_the_source_did_not_answer(
    volume: Path, tmp_path: Path
) -> None:
    (tmp_path / "ssh_config").write_text("Host away\n  HostName 127.0.0.1\n  Port 1\n")
    source = {"kind": "ssh", "host": "away", "ssh_config": str(tmp_path / "ssh_config")}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"volume": {"root": str(volume)}, "source": source}))
    done = earmark("discover", "--configfile", str(file))
    assert done.returncode == 1
    assert "WARNING | earmark | away cannot be reached: " in done.stderr
    assert "going on with 0 known archives" in done.stderr
    assert done.stdout.startswith("0 archives, 0 pending")
    shown = earmark("status", "--configfile", str(file)).stdout
    assert "has never answered yet" in shown
    assert "not now: away cannot be reached" in shown


def test_status_tells_what_is_going_on(
    configfile: str, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["discover", "--configfile", configfile]) == 0
    place = Volume(volume)
    place.transfers.mkdir()
    with (
        locks.exclusive(place.archive_lock("b.tar"), "encode_opus") as waiting,
        locks.exclusive(place.archive_lock("a.tar"), "fetch_archive") as fetching,
    ):
        waiting.renew("for room, as 93 % are used")
        place.transfer("a.tar", fetching.holder.token).write_bytes(b"t")
        capsys.readouterr()
        assert cli.main(["status", "--configfile", configfile, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert cli.main(["status", "--configfile", configfile]) == 0
        shown = capsys.readouterr().out
    assert {state: n for state, n in told["archives"].items() if n} == {"pending": 1, "refused": 1}
    assert (told["problem"], told["driver"]) == (None, None)
    assert told["room"]["bytes_free"] > 0
    assert told["room"]["stopped"] == []
    first, second = told["running"]
    assert (first["archive"], first["stage"]) == ("a.tar", "fetch_archive")
    assert (first["fetched_bytes"], first["total_bytes"]) == (1, 3)
    assert (second["archive"], second["waits_for"]) == ("b.tar", "for room, as 93 % are used")
    assert "1 byte of 3 bytes" in shown
    assert "for room, as 93 % are used" in shown
    assert "2 stages at work" in shown


def test_status_says_what_a_full_volume_stops(
    tmp_path: Path, configfile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(Path(configfile).read_text())
    limits = {"stop_fetching_percent": 0.001, "stop_encoding_percent": 100}
    Path(configfile).write_text(yaml.safe_dump(config | {"room": limits}))
    assert cli.main(["status", "--configfile", configfile]) == 0
    assert "fetching waits for room" in capsys.readouterr().out


def test_clean_shows_what_it_would_remove_and_then_removes_just_that(
    configfile: str, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--configfile", configfile, "--json"]
    assert cli.main(["clean", *options]) == 2
    assert "run `earmark discover` first" in capsys.readouterr().err
    assert cli.main(["discover", *options]) == 0
    left = Volume(volume).unpacked("vanished.tar")
    left.mkdir(parents=True)
    (left / "000000").write_bytes(b"12345")
    capsys.readouterr()
    rows = [
        {
            "archive": "vanished.tar",
            "what": "unpacked, and not needed any more",
            "items": 1,
            "bytes": 5,
        }
    ]
    assert cli.main(["clean", "--dry-run", *options]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert left.exists()
    assert cli.main(["clean", *options]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert not left.exists()
    assert cli.main(["clean", *options[:2]]) == 0
    assert "Removed 0 things" in capsys.readouterr().out


def test_a_command_waits_for_no_library_of_another() -> None:
    called = "try: cli.main(['database', '--help'])\nexcept SystemExit: print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom earmark import cli\n{called}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "psycopg2" in said
    assert not {"duckdb", "matplotlib", "starlette", "prometheus_client"} & {*said}


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "\udcff.mp3"], ["search", "bank", "\udcff"], ["search", "there\udcff"],
        ["show", "there\udcff"], ["export", "srt", "\udcff"], ["redo", "\udcff"],
        ["erase", "\udcff.tar"], ["analyse", "\udcff"], ["init", "\udcff.yaml"],
        ["init", "--for", "cpu", "--kind", "files", "--volume", "v", "--language", "en",
         "--source", "there\udcff"],
    ],
)  # fmt: skip
def test_an_argument_that_is_no_text_is_refused_in_a_sentence(
    configfile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there\udcff").mkdir()
    given = [] if arguments[0] == "init" else ["--configfile", configfile]
    if "there\udcff" in arguments and given:
        assert cli.main(["database", *given]) == 0
        assert cli.main(["migrate", *given]) == 0
        capsys.readouterr()
    assert cli.main([*arguments, *given]) == 2
    said = capsys.readouterr().err
    assert "is no text, as it isn't UTF-8" in said
    assert "\\udcff" in said
    assert said.count("\n") == 1


def test_a_configuration_may_be_called_anything(
    configfile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Path(configfile).rename(f"{configfile}\udcff")
    assert cli.main(["discover", "--configfile", str(odd)]) == 0
    assert "pending" in capsys.readouterr().out
    assert cli.main(["discover", "--configfile", f"{odd}\udcff"]) == 2
    assert "is no text" in capsys.readouterr().err

"""The set-up of the cluster's machines, as far as one machine can try it."""

import configparser
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import desk_record
import httpx
import psycopg2
import pytest
import yaml
from desk_server import Browser, free_port, serving, write_config
from psycopg2.extensions import make_dsn

from earmark import REPOSITORY
from earmark.errors import SetupError
from earmark.record import database, embedded_server

CLUSTER = REPOSITORY / "deploy/cluster"
MACHINES = ("coordinator", "transfer", "worker")
SECRETS = ("etc/munge/munge.key", "var/lib/earmark/.pgpass")
PATH = {"PATH": os.environ["PATH"]}


def set_up(machine: str, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLUSTER / f"setup-{machine}", *options],
        env={**PATH, "EARMARK_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def bring_secrets(root: Path) -> None:
    """What a person copies from the coordinator."""
    for secret in SECRETS:
        path = root / secret
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a:b:c:d:e\n")


def everything_in(root: Path) -> dict[str, tuple[int, float, bytes]]:
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode,
            path.stat().st_mtime,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }


def environment(folder: Path, **changes: str) -> Path:
    """The cluster's environment file with other values."""
    text = (CLUSTER / "earmark.env").read_text()
    for name, value in changes.items():
        text, found = re.subn(rf"(?m)^{name}=.*$", f"{name}={value}", text)
        assert found == 1, name
    path = folder / "other.env"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a coordinator."""
    root = tmp_path_factory.mktemp("coordinator")
    result = set_up("coordinator", root)
    assert result.returncode == 0, result.stdout + result.stderr
    return root


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a worker."""
    root = tmp_path_factory.mktemp("worker")
    bring_secrets(root)
    result = set_up("worker", root)
    assert result.returncode == 0, result.stdout + result.stderr
    return root


@pytest.mark.parametrize("machine", MACHINES)
def test_checking_a_bare_machine_tells_what_is_missing_and_writes_nothing(
    machine: str, tmp_path: Path
) -> None:
    result = set_up(machine, tmp_path, "--check")
    assert result.returncode == 1
    assert re.search(r"(?m)^missing  /etc/slurm/slurm\.conf", result.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("machine", MACHINES)
def test_setting_up_twice_changes_nothing_the_second_time(machine: str, tmp_path: Path) -> None:
    bring_secrets(tmp_path)
    assert set_up(machine, tmp_path).returncode == 0
    before = everything_in(tmp_path)
    result = set_up(machine, tmp_path)
    assert result.returncode == 0
    assert re.findall(r"(?m)^(?!ok ).*$", result.stdout.rstrip()) == []
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("machine", MACHINES)
def test_checking_a_machine_that_is_set_up_finds_all_of_it(machine: str, tmp_path: Path) -> None:
    bring_secrets(tmp_path)
    set_up(machine, tmp_path)
    result = set_up(machine, tmp_path, "--check")
    assert result.returncode == 0
    assert "missing" not in result.stdout


@pytest.mark.parametrize(("started", "stale"), [(-60, True), (60, False)])
def test_a_daemon_is_older_than_a_file_that_was_brought_since_whatever_time_the_file_has(
    tmp_path: Path, started: float, stale: bool
) -> None:
    key = tmp_path / "munge.key"
    key.write_text("another machine's")
    os.utime(key, (0, 0))  # as `tar --extract --preserve-permissions` leaves it
    microseconds = int((time.clock_gettime(time.CLOCK_BOOTTIME) + started) * 1e6)
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\necho {microseconds}\n")
    (tmp_path / "systemctl").chmod(0o755)
    asked = f"set -- ; . {CLUSTER}/steps.sh; is_newer munge.service {key} {tmp_path}/none"
    done = subprocess.run(
        ["bash", "-c", asked], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False
    )
    assert (done.returncode == 0) is stale


@pytest.mark.parametrize(
    ("machine", "daemons"),
    [
        ("coordinator", ["munge", "slurmctld", "postgresql@", "caddy"]),
        ("transfer", ["munge", "slurmd"]),
        ("worker", ["munge", "slurmd"]),
    ],
)
def test_a_daemon_that_ends_by_itself_is_started_again_however_often(
    machine: str, daemons: list[str], tmp_path: Path
) -> None:
    bring_secrets(tmp_path)
    set_up(machine, tmp_path)
    for daemon in daemons:
        unit = configparser.ConfigParser(strict=False)
        unit.read(tmp_path / f"etc/systemd/system/{daemon}.service.d/earmark-restart.conf")
        assert unit["Service"]["Restart"] == "on-failure"
        assert unit["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("machine", MACHINES)
def test_a_volume_that_something_else_shares_is_neither_exported_nor_mounted(
    machine: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    bring_secrets(root)
    done = set_up(machine, root, "--env", str(environment(tmp_path, VOLUME_SHARE="other")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (root / "etc/fstab").exists()
    assert not (root / "etc/exports.d").exists()
    by_nfs = str(environment(tmp_path, VOLUME_SHARE="nfs"))
    assert set_up(machine, root, "--env", by_nfs).returncode == 0
    assert "/mnt/data" in (root / "etc/fstab").read_text()
    (root / "etc/fstab").write_text((root / "etc/fstab").read_text() + "/dev/sda1 / ext4\n")
    done = set_up(machine, root, "--env", str(environment(tmp_path, VOLUME_SHARE="other")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (root / "etc/fstab").read_text() == "/dev/sda1 / ext4\n"
    assert not (root / "etc/exports.d/earmark.exports").exists()
    done = set_up(machine, root, "--env", str(environment(tmp_path, VOLUME_SHARE="smb")))
    assert done.returncode == 2
    assert "VOLUME_SHARE is nfs or other" in done.stderr


@pytest.mark.needs("root")
@pytest.mark.parametrize("machine", MACHINES)
def test_checking_this_machine_looks_at_users_daemons_and_devices_too(machine: str) -> None:
    result = subprocess.run(
        [CLUSTER / f"setup-{machine}", "--check", "--env", CLUSTER / "earmark.env"],
        env=PATH,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert re.search(r"(?m)^(ok|missing) +user earmark with number 5500", result.stdout)
    assert re.search(r"(?m)^(ok|missing) +munge\.service runs", result.stdout)
    assert "command not found" not in result.stderr
    assert "unbound variable" not in result.stderr


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_script_is_for_can_be_asked(machine: str, tmp_path: Path) -> None:
    result = set_up(machine, tmp_path, "--help")
    assert result.returncode == 0
    assert "--check" in result.stdout


def test_a_file_that_somebody_edited_or_opened_is_put_right(worker: Path, tmp_path: Path) -> None:
    shutil.copytree(worker, tmp_path, dirs_exist_ok=True)
    conf, key = tmp_path / "etc/slurm/cgroup.conf", tmp_path / SECRETS[0]
    conf.write_text("ConstrainDevices=no\n")
    key.chmod(0o644)
    assert set_up("worker", tmp_path, "--check").returncode == 1
    assert set_up("worker", tmp_path).returncode == 0
    assert conf.read_bytes() == (CLUSTER / "cgroup.conf").read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize("machine", ["transfer", "worker"])
def test_a_node_without_the_secrets_says_where_they_are(machine: str, tmp_path: Path) -> None:
    result = set_up(machine, tmp_path)
    assert result.returncode == 1
    for secret in SECRETS:
        assert f"missing  /{secret}: copy it from coordinator" in result.stdout
        assert not (tmp_path / secret).exists()


def test_secrets_are_made_once_readable_by_their_owner_alone_and_never_shown(
    tmp_path: Path,
) -> None:
    first = set_up("coordinator", tmp_path)
    made = {secret: (tmp_path / secret).read_bytes() for secret in SECRETS}
    second = set_up("coordinator", tmp_path)
    assert {secret: (tmp_path / secret).read_bytes() for secret in SECRETS} == made
    for secret in SECRETS:
        assert stat.S_IMODE((tmp_path / secret).stat().st_mode) == 0o600
    *address, password = made[SECRETS[1]].decode().strip().split(":")
    assert address == ["10.0.0.1", "5432", "audio_pipeline", "pipeline"]
    assert re.fullmatch("[0-9a-f]{48}", password)
    assert password not in first.stdout + first.stderr + second.stdout + second.stderr
    elsewhere = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".pgpass"]
    assert elsewhere
    assert all(password.encode() not in path.read_bytes() for path in elsewhere)


def test_every_other_file_is_readable_and_writable_by_its_owner_alone(coordinator: Path) -> None:
    special = {
        "etc/postgresql/15/main/pg_hba.conf": 0o640,
        "etc/postgresql/15/main/pg_ident.conf": 0o640,
        "usr/local/bin/earmark": 0o755,
    }
    for path in coordinator.rglob("*"):
        name = str(path.relative_to(coordinator))
        if path.is_file() and name not in SECRETS:
            expected = special.get(name, 0o644)
            assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"WORKERS": '"worker1=10.0.0.3 worker2"'}, "'worker2' is no machine"),
        ({"WORKERS": '"worker1=10.0.0.3 worker2=10.0.0.3"'}, "stands there twice"),
        ({"WORKERS": '""'}, "lacks WORKERS"),
        ({"TRANSFER": "transfer=host.example.org"}, "is no machine"),
        ({"VOLUME_ROOT": "data"}, "expected an absolute path"),
        ({"EARMARK_HOME": "/home/earmark"}, "hides people's homes"),
        ({"POSTGRES_USER": "x;y"}, "line "),
        ({"POSTGRES_USER": '"a b"'}, "expected a plain name"),
        ({"EARMARK_TRIGGER": "both"}, "systemd or cron"),
        ({"REVIEW_HOST": "a/b"}, "expected a host's name"),
        ({"REVIEW_TLS": "off"}, "expected internal, a mail address, or"),
        ({"HF_HOME": "$(touch /tmp/x)"}, "expected NAME=value"),
        ({"HF_HUB_OFFLINE": "1\nPOSTGRES_PASSWORD=abc"}, "no secret may stand in this file"),
        ({"HF_HUB_OFFLINE": "1\nHF_TOKEN=abc"}, "no secret may stand in this file"),
    ],
)
def test_an_environment_file_that_is_wrong_is_refused_before_anything_is_written(
    changes: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    env = environment(tmp_path, **changes)
    result = set_up("coordinator", root, "--env", str(env))
    assert result.returncode == 2
    assert complaint in result.stderr
    assert list(root.iterdir()) == []


def test_bash_and_the_scripts_read_the_same_from_the_environment_file(tmp_path: Path) -> None:
    lines = [
        line
        for line in (CLUSTER / "earmark.env").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    sourced = subprocess.run(
        ["bash", "-c", f"set -a; . {CLUSTER}/earmark.env; env --null"],
        env=PATH,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for line in lines:
        name, value = line.split("=", 1)
        assert f"{name}={value.strip(chr(34))}" in sourced


def test_a_further_worker_is_a_further_entry(tmp_path: Path) -> None:
    four = '"worker1=10.0.0.3 worker2=10.0.0.4 worker3=10.0.0.5 worker4=10.0.0.6"'
    root = tmp_path / "root"
    set_up("coordinator", root, "--env", str(environment(tmp_path, WORKERS=four)))
    slurm = (root / "etc/slurm/slurm.conf").read_text()
    assert re.search(r"(?m)^NodeName=worker4 NodeAddr=10\.0\.0\.6 .*Gres=gpu:l4:1$", slurm)
    assert len(re.findall(r"Nodes=worker1,worker2,worker3,worker4 ", slurm)) == 2
    assert "10.0.0.6(" in (root / "etc/exports.d/earmark.exports").read_text()
    assert "10.0.0.6/32" in (root / "etc/postgresql/15/main/pg_hba.conf").read_text()


def test_the_installed_environment_file_is_the_one_that_counts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    set_up("coordinator", root, "--env", str(environment(tmp_path, NODE_MEMORY_MB="60000")))
    set_up("coordinator", root)
    assert "RealMemory=60000" in (root / "etc/slurm/slurm.conf").read_text()


def test_only_the_chosen_trigger_is_installed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    cron, timer = root / "etc/cron.d/earmark", root / "etc/systemd/system/earmark-cycle.timer"
    set_up("coordinator", root)
    assert (cron.exists(), timer.exists()) == (False, True)
    by_cron = environment(tmp_path, EARMARK_TRIGGER="cron")
    assert set_up("coordinator", root, "--env", str(by_cron)).returncode == 0
    assert (cron.exists(), timer.exists()) == (True, False)


def test_nothing_is_left_to_fill_in(coordinator: Path, worker: Path) -> None:
    for path in [*coordinator.rglob("*"), *worker.rglob("*")]:
        if path.is_file() and path.name not in ("munge.key", ".pgpass"):
            assert not re.search(r"@[A-Z_]+@", path.read_text()), path


# --- the volume -------------------------------------------------------------------------------


def test_the_volume_is_exported_to_the_nodes_alone_and_only_while_it_is_mounted(
    coordinator: Path,
) -> None:
    lines = (coordinator / "etc/exports.d/earmark.exports").read_text().splitlines()
    (line,) = [line for line in lines if not line.startswith("#")]
    folder, *clients = line.split()
    found = [re.fullmatch(r"([0-9.]+)\(([a-z_=,]+)\)", client) for client in clients]
    assert folder == "/mnt/data"
    assert [match and match[1] for match in found] == [f"10.0.0.{n}" for n in range(2, 6)]
    for match in found:
        assert match
        options = set(match[2].split(","))
        assert {"sync", "root_squash", "no_subtree_check", "mountpoint"} <= options
        assert not {"async", "no_root_squash", "insecure"} & options


def test_nodes_mount_the_volume_so_that_locks_and_new_files_are_everybodys(worker: Path) -> None:
    (line,) = (worker / "etc/fstab").read_text().splitlines()
    source, folder, kind, text, dump, check = line.split()
    options = text.split(",")
    assert (source, folder, kind) == ("10.0.0.1:/mnt/data", "/mnt/data", "nfs")
    assert (dump, check) == ("0", "0")
    assert {"hard", "vers=4.2", "noatime", "lookupcache=positive", "_netdev"} <= set(options)
    assert not {"soft", "nolock", "local_lock=all"} & set(options)


def test_other_lines_of_fstab_stay_and_an_older_one_for_the_volume_goes(tmp_path: Path) -> None:
    table = tmp_path / "etc/fstab"
    table.parent.mkdir()
    table.write_text("# by hand\n/dev/vda1 / ext4 defaults 0 1\n/dev/sdb /mnt/data ext4 rw 0 2\n")
    set_up("worker", tmp_path)
    lines = table.read_text().splitlines()
    assert lines[:2] == ["# by hand", "/dev/vda1 / ext4 defaults 0 1"]
    assert len(lines) == 3
    assert lines[2].startswith("10.0.0.1:/mnt/data /mnt/data nfs ")


@pytest.mark.needs("systemd-analyze")
def test_systemd_makes_a_mount_of_the_line_in_fstab(worker: Path, tmp_path: Path) -> None:
    generator = Path("/usr/lib/systemd/system-generators/systemd-fstab-generator")
    subprocess.run(
        [generator, tmp_path, tmp_path, tmp_path],
        env={**PATH, "SYSTEMD_FSTAB": str(worker / "etc/fstab"), "SYSTEMD_IN_INITRD": "0"},
        capture_output=True,
        check=True,
    )
    unit = (tmp_path / "mnt-data.mount").read_text()
    assert "What=10.0.0.1:/mnt/data" in unit
    assert "Type=nfs" in unit
    assert (tmp_path / "mnt-data.automount").exists()


# --- PostgreSQL -------------------------------------------------------------------------------


def test_postgres_finds_no_fault_in_pg_hba_conf(coordinator: Path, volume: Path) -> None:
    folder = volume / "state/postgres"
    server = embedded_server.use(folder)
    for name in ("pg_hba.conf", "pg_ident.conf"):  # the views read them at every question
        rendered = (coordinator / "etc/postgresql/15/main" / name).read_text()
        (folder / "data" / name).write_text(rendered)
    connection = psycopg2.connect(server)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT type, database, user_name, address, auth_method, error FROM pg_hba_file_rules"
        )
        rules = cursor.fetchall()
        cursor.execute("SELECT map_name, sys_name, pg_username, error FROM pg_ident_file_mappings")
        assert cursor.fetchall() == [
            ("earmark", "earmark", "earmark_owner", None),
            ("earmark", "earmark-desk", "earmark_desk", None),
        ]
    connection.close()
    assert [rule[5] for rule in rules] == [None] * len(rules)
    network = [rule[:5] for rule in rules if rule[0] != "local"]
    assert network == [
        ("host", ["audio_pipeline"], ["pipeline"], address, "scram-sha-256")
        for address in ("127.0.0.1", *(f"10.0.0.{n}" for n in range(1, 6)))
    ] + [("host", ["audio_pipeline"], ["+earmark_analyst"], "127.0.0.1", "scram-sha-256")]


@contextmanager
def server_of(etc: Path, data: Path, port: int) -> Iterator[None]:
    """A server with files of the set-up, on data that an embedded server made.

    Whoever runs the tests takes the place of the service user and of the desk's.
    """
    programs = Path(str(embedded_server.PROGRAMS))
    identity = data.stat()
    shutil.copy(etc / "conf.d/earmark.conf", data)
    shutil.copy(etc / "pg_hba.conf", data)
    me = pwd.getpwuid(os.geteuid()).pw_name
    mapping = (etc / "pg_ident.conf").read_text()
    (data / "pg_ident.conf").write_text(re.sub(r"(?m)^(earmark\s+)\S+", rf"\1{me}", mapping))
    with (data / "postgresql.conf").open("a") as conf:
        conf.write("include 'earmark.conf'\nlisten_addresses = '127.0.0.1'\n")
        conf.write(f"port = {port}\nshared_buffers = 32MB\n")
    for name in ("earmark.conf", "pg_hba.conf", "pg_ident.conf"):
        os.chown(data / name, identity.st_uid, identity.st_gid)
    with (data / "log").open("ab") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data],
            stdout=log,
            stderr=log,
            cwd="/",
            env=PATH,
            user=identity.st_uid,
            group=identity.st_gid,
            extra_groups=[],
        )
    try:
        pidfile = data / "postmaster.pid"  # its last line says "ready"
        while not (pidfile.exists() and pidfile.read_text().rstrip().endswith("ready")):
            assert process.poll() is None, (data / "log").read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_each_role_gets_in_as_it_should_and_nobody_else_does(
    coordinator: Path, volume: Path
) -> None:
    folder = volume / "state/postgres"
    conninfo = embedded_server.use(folder)
    *_, password = (coordinator / SECRETS[1]).read_text().strip().split(":")
    sql = (CLUSTER / "database.sql").read_text()
    sql = sql.replace("@POSTGRES_USER@", "pipeline").replace("@POSTGRES_DB@", "audio_pipeline")
    people = (
        "CREATE ROLE alice LOGIN PASSWORD 'a' IN ROLE earmark_analyst;"
        "CREATE ROLE bob LOGIN PASSWORD 'b';"
        "CREATE ROLE carol LOGIN PASSWORD 'c' IN ROLE earmark_reviewer;"  # of an earlier set-up
    )
    earlier = (  # a set-up that had one role for everything
        "CREATE ROLE pipeline LOGIN; CREATE DATABASE audio_pipeline OWNER pipeline;\n"
        "\\connect audio_pipeline pipeline\nCREATE TABLE earlier ();\n\\connect - postgres\n"
    )
    for before, after in ((earlier, ""), ("", people)):  # making it again changes nothing
        subprocess.run(
            [Path(str(embedded_server.PROGRAMS)) / "psql", "-X", "-q", conninfo],
            input=f"{before}\\set password {password}\n{sql}{after}",
            text=True,
            check=True,
            capture_output=True,
        )
    embedded_server.stop(folder)
    port = free_port()
    with server_of(coordinator / "etc/postgresql/15/main", folder / "data", port):

        def at(**parameters: str) -> str:
            return make_dsn(port=port, **{"dbname": "audio_pipeline", **parameters})

        def tables(conninfo: str) -> list[tuple[str, ...]]:
            connection = psycopg2.connect(conninfo)
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT relname, relowner::regrole::text FROM pg_class c "
                    "WHERE relname IN ('earlier', 'archives') ORDER BY 1"
                )
                found = cursor.fetchall()
            connection.close()
            return found

        owner = at(host=str(folder / "data"), user="earmark_owner")
        assert tables(owner) == [("earlier", "earmark_owner")]
        database.migrate(owner)
        database.grant_roles(owner)
        everything = [("archives", "earmark_owner"), ("earlier", "earmark_owner")]
        assert tables(at(host="127.0.0.1", user="pipeline", password=password)) == everything
        assert tables(at(host="127.0.0.1", user="alice", password="a")) == everything
        desk = at(host=str(folder / "data"), user="earmark_desk")
        assert tables(desk) == everything
        with database.connect(desk) as connection:
            connection.cursor().execute("SELECT FROM reviewers")
        pipeline = at(host="127.0.0.1", user="pipeline", password=password)
        for forbidden in ("CREATE TABLE mine ()", "DROP TABLE archives"):
            with (
                pytest.raises(SetupError, match=r"must be owner|permission denied"),
                database.connect(pipeline) as connection,
            ):
                connection.cursor().execute(forbidden)
        for refused in (
            at(host="127.0.0.1", user="pipeline", password="guess"),
            at(host="127.0.0.1", user="pipeline", password=password, dbname="postgres"),
            at(host="127.0.0.1", user="postgres", password=password),
            at(host="127.0.0.1", user="earmark_owner", password=password),
            at(host="127.0.0.1", user="bob", password="b"),
            at(host="127.0.0.1", user="carol", password="c"),
            at(host="127.0.0.1", user="earmark_desk", password=password),
        ):
            with pytest.raises(psycopg2.OperationalError):
                psycopg2.connect(refused)
    assert password not in (folder / "data/log").read_text()


# --- SLURM ------------------------------------------------------------------------------------


#: A slurmd can't have what a machine without systemd and eight cores doesn't offer.
WITHOUT_CGROUPS = (
    (r"(?m)^ProctrackType=.*", "ProctrackType=proctrack/linuxproc"),
    (r"(?m)^TaskPlugin=.*", "TaskPlugin=task/none\nSlurmdParameters=config_overrides"),
    (r"(?m)^HealthCheckProgram=.*", ""),
)


@contextmanager
def controller_of(
    files: Path, folder: Path, changes: tuple[tuple[str, str], ...] = ()
) -> Iterator[dict[str, str]]:
    """A slurmctld that runs on the rendered files, with paths and ports of its own.

    Gives what its clients want in their environment.
    """
    shutil.copytree(files, folder, dirs_exist_ok=True)
    for state in ("ctld", "d"):
        (folder / "lib" / f"slurm{state}").mkdir(parents=True)
    conf = folder / "slurm.conf"
    text = conf.read_text()
    for old, new in (
        (r"(?m)^SlurmctldHost=.*", "SlurmctldHost=localhost(127.0.0.1)"),
        (r"(?m)^SlurmUser=.*", "SlurmUser=root"),
        (r"(?m)^AuthType=.*", "AuthType=auth/none\nCredType=cred/none"),
        (r"(?m)^SlurmctldPort=.*", f"SlurmctldPort={free_port()}"),
        (r"(?m)^SlurmdPort=.*", f"SlurmdPort={free_port()}"),
        (r"/var/lib/slurm", str(folder / "lib")),
        (r"/var/log/slurm|=/run", rf"={folder}"),
        (r"==", "="),
        (r"NodeAddr=\S+", "NodeAddr=127.0.0.1"),
        *changes,
    ):
        text, found = re.subn(old, new, text)
        assert found or old == "==", old
    conf.write_text(text)
    gres = folder / "gres.conf"
    gres.write_text(gres.read_text().replace("/dev/nvidia0", "/dev/null"))
    said = folder / "said"
    with said.open("wb") as log:
        process = subprocess.Popen(
            ["slurmctld", "-D", "-c", "-f", conf], stdout=log, stderr=log, env=PATH
        )
    environ = {**PATH, "SLURM_CONF": str(conf)}
    try:
        for _ in range(100):
            ping = subprocess.run(["scontrol", "ping"], env=environ, capture_output=True, text=True)
            if "is UP" in ping.stdout:
                break
            assert process.poll() is None, said.read_text()
            time.sleep(0.1)
        else:
            raise AssertionError(said.read_text())
        yield environ
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def node_of(environ: dict[str, str], name: str) -> Iterator[None]:
    """A slurmd that has registered with a controller."""
    said = Path(environ["SLURM_CONF"]).with_name(f"{name}.said")
    with said.open("wb") as log:
        process = subprocess.Popen(
            ["slurmd", "-D", "-N", name, "-f", environ["SLURM_CONF"]],
            stdout=log,
            stderr=log,
            env=PATH,
        )
    try:
        for _ in range(300):
            if asked(environ, "sinfo", "--noheader", "--nodes", name, "--format=%T").split()[0] in (
                "idle",
                "drained",
            ):
                break
            assert process.poll() is None, said.read_text()
            time.sleep(0.1)
        else:
            raise AssertionError(said.read_text())
        yield
    finally:
        process.terminate()
        process.wait(30)


def asked(environ: dict[str, str], *command: str) -> str:
    result = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, (command, result.stdout, result.stderr)
    return result.stdout


@pytest.mark.needs("root", "sinfo", "slurmctld")
def test_slurmctld_runs_on_the_rendered_files(coordinator: Path, tmp_path: Path) -> None:
    with controller_of(coordinator / "etc/slurm", tmp_path / "slurm") as environ:
        partitions = asked(environ, "sinfo", "--noheader", "--format=%R %D %c %N").splitlines()
        assert [" ".join(line.split()) for line in partitions] == [
            "transfer 1 8 transfer",
            "cpu 3 8 worker[1-3]",
            "gpu 3 8 worker[1-3]",
        ]
        node = asked(environ, "scontrol", "--oneliner", "show", "node", "worker2")
        assert "Gres=gpu:l4:1 " in node
        assert "RealMemory=30000 " in node
        assert "MemSpecLimit=2000 " in node
        settings = dict(
            re.findall(r"(?m)^(\S+)\s+= (.*)$", asked(environ, "scontrol", "show", "config"))
        )
        assert settings["MinJobAge"] == "3600 sec"
        assert settings["ProctrackType"] == "proctrack/cgroup"
        for limit in ("ConstrainCores", "ConstrainDevices", "ConstrainRAMSpace"):
            assert settings[limit] == "yes"
        said = (tmp_path / "slurm/said").read_text()
        assert not re.search(r"(?i)parsing error|unrecognized|invalid", said), said


@pytest.mark.needs("root", "sinfo", "slurmctld")
def test_jobs_without_a_gpu_leave_cores_for_the_job_with_one(
    coordinator: Path, tmp_path: Path
) -> None:
    with controller_of(coordinator / "etc/slurm", tmp_path / "slurm") as environ:
        assert "MaxCPUsPerNode=4" in asked(environ, "scontrol", "show", "partition", "cpu")
        assert "MaxCPUsPerNode=UNLIMITED" in asked(environ, "scontrol", "show", "partition", "gpu")


def test_no_stage_of_the_profile_asks_for_more_than_a_node_has(coordinator: Path) -> None:
    profile = yaml.safe_load((REPOSITORY / "profiles/slurm/config.yaml").read_text())
    slurm = (coordinator / "etc/slurm/slurm.conf").read_text()
    sizes = re.search(r"RealMemory=(\d+) MemSpecLimit=(\d+)", slurm)
    assert sizes
    node_memory = int(sizes[1]) - int(sizes[2])
    partitions = re.findall(r"(?m)^PartitionName=(\S+)", slurm)
    default = profile["default-resources"]
    for stage, resources in profile["set-resources"].items():
        wanted = default | resources
        assert wanted["slurm_partition"] in partitions, stage
        last = {"attempt": profile["retries"] + 1, "min": min}
        assert eval(str(wanted["mem_mb"]), last) <= node_memory, stage


@pytest.mark.needs("root", "sinfo", "slurmctld", "slurmd")
def test_slurmd_finds_the_gpu_of_a_worker_and_none_of_the_transfer_machine(
    coordinator: Path, tmp_path: Path
) -> None:
    with controller_of(coordinator / "etc/slurm", tmp_path / "slurm") as environ:
        conf = environ["SLURM_CONF"]
        for name, expected in (("worker1", True), ("transfer", False)):
            result = subprocess.run(
                ["slurmd", "-G", "-N", name, "-f", conf],
                env=environ,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert ("Name=gpu Type=l4 Count=1" in result.stdout + result.stderr) is expected


@pytest.mark.needs("root", "sinfo", "slurmctld", "slurmd")
def test_a_sick_node_is_drained_and_taken_back_when_it_is_well(
    coordinator: Path, tmp_path: Path
) -> None:
    volume, programs = tmp_path / "volume", tmp_path / "bin"
    env = environment(
        tmp_path,
        VOLUME_ROOT=str(volume),
        WORKERS='"worker1=10.0.0.3 worker2=10.0.0.4"',
        EARMARK_USER="root",
    )
    programs.mkdir()
    for program, text in (
        ("hostname", "echo worker1"),
        ("findmnt", "exit 0"),
        ("nvidia-smi", f"cat {tmp_path}/gpus"),
    ):
        (programs / program).write_text(f"#!/bin/sh\n{text}\n")
        (programs / program).chmod(0o755)
    with ExitStack() as stack:
        environ = stack.enter_context(
            controller_of(coordinator / "etc/slurm", tmp_path / "slurm", WITHOUT_CGROUPS)
        )
        environ |= {"PATH": f"{programs}:{environ['PATH']}", "EARMARK_ENV": str(env)}

        def examine() -> str:
            asked(environ, str(CLUSTER / "node-health"))
            return asked(environ, "scontrol", "--oneliner", "show", "node", "worker1")

        gpus = tmp_path / "gpus"
        gpus.write_text("GPU 0: NVIDIA L4 (UUID: GPU-0)\n")
        stack.enter_context(node_of(environ, "worker1"))
        assert "Reason=earmark-health: " + f"{volume} does not answer" in examine()
        volume.mkdir()
        assert "DRAIN" not in examine()
        gpus.write_text("Unable to determine the device handle for GPU0\n")
        state = examine()
        assert "DRAIN" in state
        assert "Reason=earmark-health: nvidia-smi does not list one GPU" in state
        gpus.write_text("GPU 0: NVIDIA L4 (UUID: GPU-0)\n")
        assert "DRAIN" not in examine()
        asked(environ, "scontrol", "update", "NodeName=worker1", "State=DRAIN", "Reason=fan")
        assert "DRAIN" in examine()  # a person's drain is a person's to end


# --- the review desk --------------------------------------------------------------------------


def test_the_desk_runs_as_a_user_of_its_own_and_writes_nowhere(coordinator: Path) -> None:
    path = coordinator / "etc/systemd/system/earmark-review.service"
    service = read_unit(path)["Service"]
    assert (service["User"], service["SupplementaryGroups"]) == ("earmark-desk", "earmark")
    assert "POSTGRES_USER=earmark_desk" in path.read_text()
    assert service["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in service
    assert service["NoNewPrivileges"] == service["PrivateTmp"] == "yes"
    assert (service["IPAddressDeny"], service["IPAddressAllow"]) == ("any", "localhost")


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_desks_unit(coordinator: Path, tmp_path: Path) -> None:
    unit = coordinator / "etc/systemd/system/earmark-review.service"
    text = unit.read_text().replace("/mnt/data/earmark/.venv/bin/earmark", sys.executable)
    (tmp_path / unit.name).write_text(text)
    assert complaints(tmp_path / unit.name) == []


def test_without_a_name_there_is_no_desk_and_one_that_was_there_goes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    unit, caddy = root / "etc/systemd/system/earmark-review.service", root / "etc/caddy/Caddyfile"
    set_up("coordinator", root)
    assert (unit.exists(), caddy.exists()) == (True, True)
    nameless = environment(tmp_path, REVIEW_HOST="")
    assert set_up("coordinator", root, "--env", str(nameless)).returncode == 0
    assert not unit.exists()


def test_an_environment_file_of_before_the_desk_will_do(tmp_path: Path) -> None:
    env = tmp_path / "earlier.env"
    text = (CLUSTER / "earmark.env").read_text()
    env.write_text(re.sub(r"(?m)^REVIEW_\w+=.*\n", "", text))
    assert set_up("coordinator", tmp_path / "root", "--env", str(env)).returncode == 0


def test_accounts_are_made_by_the_schemas_owner(coordinator: Path, tmp_path: Path) -> None:
    script = (coordinator / "usr/local/bin/earmark").read_text()
    (tmp_path / "earmark.env").write_text("POSTGRES_HOST=10.0.0.1\nPOSTGRES_USER=pipeline\n")
    for old, new in (
        ("!= earmark ", "!= $(id --user --name) "),
        ("/etc/earmark/earmark.env", str(tmp_path / "earmark.env")),
        ("cd /mnt/data/earmark", f"cd {tmp_path}"),
        ("exec /mnt/data/earmark/.venv/bin/earmark", "exec env"),
    ):
        assert old in script
        script = script.replace(old, new)

    def whom(*arguments: str) -> list[str]:
        told = subprocess.run(
            ["bash", "-c", script.replace('"$@"\n', "\n"), "earmark", *arguments],
            env=PATH, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        return sorted(line for line in told if line.startswith("POSTGRES_"))

    owner = ["POSTGRES_HOST=/var/run/postgresql", "POSTGRES_USER=earmark_owner"]
    assert whom("reviewer", "add", "ada") == whom("migrate") == owner
    assert whom("status") == ["POSTGRES_HOST=10.0.0.1", "POSTGRES_USER=pipeline"]


@contextmanager
def caddy(files: Path, folder: Path, upstream: str) -> Iterator[tuple[int, int]]:
    """A Caddy that runs on the rendered file, in front of a desk; gives its ports for TLS and not.

    Args:
        files: What the set-up wrote.
        folder: For its certificates.
        upstream: Address and port of the desk.
    """
    tls, plain = free_port(), free_port()
    text = (files / "etc/caddy/Caddyfile").read_text()
    ports = f"admin off\n\thttps_port {tls}\n\thttp_port {plain}\n"
    for old, new in (("admin off\n", ports), ("127.0.0.1:8400", upstream)):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file = folder / "Caddyfile"
    file.write_text(text)
    said = folder / "said"
    with said.open("wb") as log:
        process = subprocess.Popen(
            ["caddy", "run", "--config", file, "--adapter", "caddyfile"],
            env={**PATH, "HOME": str(folder), "XDG_DATA_HOME": str(folder)}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        for _ in range(200):
            certificates = list(folder.glob("caddy/certificates/local/*/*.crt"))
            if certificates and "serving initial configuration" in said.read_text():
                break
            assert process.poll() is None, said.read_text()
            time.sleep(0.05)
        else:
            raise AssertionError(said.read_text())
        yield tls, plain
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.needs("caddy")
def test_caddy_takes_every_kind_of_certificate(tmp_path: Path) -> None:
    for tls in ("internal", "it@example.org", '"/etc/caddy/cert.pem /etc/caddy/key.pem"'):
        root = tmp_path / "root"
        env = environment(tmp_path, REVIEW_HOST="review.example.org", REVIEW_TLS=tls)
        assert set_up("coordinator", root, "--env", str(env)).returncode == 0
        file = root / "etc/caddy/Caddyfile"
        adapted = subprocess.run(
            ["caddy", "adapt", "--config", file, "--adapter", "caddyfile"],
            env=PATH, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert adapted.returncode == 0, adapted.stderr
        assert "not formatted" not in adapted.stderr
        assert tls.strip('"').split()[0] in adapted.stdout


@pytest.mark.needs("caddy")
def test_people_reach_the_desk_by_tls_alone(
    migrated_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk_record.fill(migrated_database, flagged=2)
    desk_record.join(migrated_database, "ada")
    sound = tmp_path / "audio/date=2026-11-02/sound_01.tar/000001.opus"
    sound.parent.mkdir(parents=True)
    sound.write_bytes(bytes(range(256)) * 8)
    env = environment(tmp_path, REVIEW_HOST="localhost")
    assert set_up("coordinator", tmp_path / "root", "--env", str(env)).returncode == 0
    config = write_config(tmp_path, migrated_database, second_review_fraction=0)
    with (
        serving(config) as server,
        caddy(tmp_path / "root", tmp_path, server.url.removeprefix("http://")) as (tls, plain),
    ):
        monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/caddy/pki/authorities/local/root.crt")
        sent_on = httpx.get(f"http://localhost:{plain}/sign-in")
        assert sent_on.status_code == 308
        assert sent_on.headers["location"] == "https://localhost/sign-in"
        browser = Browser(f"https://localhost:{tls}")
        browser.headers.update({"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http"})
        assert browser.sign_in("ada", "a wrong password").status_code == 401
        assert database_rows(migrated_database, "SELECT name, address FROM sign_in_failures") == [
            ("ada", "127.0.0.1")  # not what the browser claims
        ]
        assert browser.sign_in("ada").status_code == 303
        assert "__Host-earmark" in browser.cookies
        page = browser.get("/")
        assert page.headers["strict-transport-security"] == "max-age=31536000"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert browser.submit("/claim").headers["location"].startswith("/items/1")
        part = browser.get("/items/1/audio", headers={"Range": "bytes=256-259"})
        assert (part.status_code, part.content) == (206, bytes(range(4)))
        assert part.headers["content-range"] == "bytes 256-259/2048"


def database_rows(conninfo: str, sql: str) -> list[tuple[object, ...]]:
    with database.connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


# --- what starts the cycles -------------------------------------------------------------------


def units(root: Path) -> list[Path]:
    return sorted((root / "etc/systemd/system").glob("earmark-cycle.*"))


def read_unit(path: Path) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore # its names have capitals
    unit.read_string(path.read_text())
    return unit


def test_the_service_runs_a_cycle_as_the_service_user_and_may_write_to_little(
    coordinator: Path,
) -> None:
    service, timer = map(read_unit, units(coordinator))
    (command,) = [
        line
        for line in units(coordinator)[0].read_text().splitlines()
        if line.startswith("ExecStart=")
    ]
    assert command == (
        "ExecStart=/mnt/data/earmark/.venv/bin/earmark cycle "
        "--configfile /mnt/data/config/earmark.yaml"
    )
    assert service["Service"]["User"] == "earmark"
    assert service["Service"]["SuccessExitStatus"] == "3"
    assert service["Service"]["KillMode"] == "mixed"
    assert service["Service"]["ProtectSystem"] == "strict"
    assert service["Service"]["NoNewPrivileges"] == "yes"
    assert service["Unit"]["AssertPathIsMountPoint"] == "/mnt/data"
    assert timer["Timer"]["OnCalendar"] == "minutely"


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_units(coordinator: Path, tmp_path: Path) -> None:
    for unit in units(coordinator):
        text = unit.read_text().replace("/mnt/data/earmark/.venv/bin/earmark", sys.executable)
        (tmp_path / unit.name).write_text(text)
    assert complaints(*sorted(tmp_path.glob("earmark-cycle.*"))) == []


def complaints(*units: Path) -> list[str]:
    """What systemd has to say about units."""
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [line for line in result.stderr.splitlines() if "earmark-" in line] or (
        [result.stderr] if result.returncode else []
    )


def test_cron_does_what_the_service_does(tmp_path: Path) -> None:
    root = tmp_path / "root"
    env = environment(tmp_path, EARMARK_TRIGGER="cron")
    set_up("coordinator", root, "--env", str(env))
    lines = (root / "etc/cron.d/earmark").read_text().splitlines()
    jobs = [line.split(maxsplit=6) for line in lines if re.match(r"[*0-9]", line)]
    assert [job[:5] for job in jobs] == [["*/5", "*", "*", "*", "*"], ["0", "*", "*", "*", "*"]]
    for (*_, user, command), what in zip(jobs, ("cycle", "report --alert"), strict=True):
        assert user == "earmark"
        assert "%" not in command  # cron would take it for a new line
        assert f"earmark {what} --configfile /mnt/data/config/earmark.yaml" in command
        subprocess.run(["bash", "-n", "-c", command], check=True)


# --- the page ---------------------------------------------------------------------------------


def test_the_page_names_every_variable_and_file_of_the_set_up() -> None:
    page = (REPOSITORY / "docs/deploy.md").read_text()
    for path in CLUSTER.iterdir():
        if not path.name.startswith("__"):
            assert path.name in page, path.name


def test_every_variable_of_the_environment_file_is_used() -> None:
    names = re.findall(r"(?m)^([A-Z_]+)=", (CLUSTER / "earmark.env").read_text())
    texts = "".join(
        path.read_text() for path in CLUSTER.iterdir() if path.is_file() and path.suffix != ".env"
    )
    assert [name for name in names if name not in texts and name != "HF_HUB_OFFLINE"] == []

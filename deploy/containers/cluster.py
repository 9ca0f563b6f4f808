#!/usr/bin/env python3
"""The five machines of docs/deploy.md as containers on this one, set up by that page's commands.

Each is a Debian or Ubuntu with its own systemd, network address and file system (systemd-nspawn
over an overlay). What one machine can't have is replaced: the volume is a folder that all five have
mounted (VOLUME_SHARE=other), the workers' L4 is a device that does nothing and an `nvidia-smi` that
names it, and the models and archives are the demo's. All else is as the page says: its blocks of
commands are read from it and run where the comment above each block says.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/deploy.md"
STATE = Path(os.environ.get("EARMARK_CONTAINERS", "/var/lib/earmark-containers"))
BRIDGE = "earmark0"
MACHINES = {
    "coordinator": "10.77.0.1",
    "transfer": "10.77.0.2",
    "worker1": "10.77.0.3",
    "worker2": "10.77.0.4",
    "worker3": "10.77.0.5",
}
NODES = [name for name in MACHINES if name != "coordinator"]
RELEASES = {
    "bookworm": "http://deb.debian.org/debian",
    "trixie": "http://deb.debian.org/debian",
    "noble": "http://archive.ubuntu.com/ubuntu",
}
#: What a provider's image has, too.
PACKAGES = "ca-certificates,dbus,iproute2,openssh-server,sudo,systemd,systemd-sysv"
#: Where docs/deploy.md has root clone the repository.
CLONE = "/opt/earmark"
#: What a container has no part in: its clock is this machine's, and nothing is fetched by SSH.
NOT_HERE = ("the clock is synchronised", "/.ssh/ssh_config")
#: What is to come back by itself, by the names of processes.
DAEMONS = [
    ("coordinator", "slurmctld"),
    ("coordinator", "postgres"),
    ("coordinator", "munged"),
    ("coordinator", "caddy"),
    ("transfer", "slurmd"),
    ("worker1", "slurmd"),
]
NVIDIA_SMI = """#!/bin/sh
case "$*" in
  *query-gpu=name*) echo NVIDIA L4 ;;
  *query-gpu=driver_version*) echo 550.54.15 ;;
  *query-gpu=persistence_mode*) echo Enabled ;;
  *list-gpus*) echo "GPU 0: NVIDIA L4 (UUID: GPU-0)" ;;
esac
"""


def main() -> int:
    """Run one command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the five and set them up as docs/deploy.md says")
    up.add_argument("--release", choices=RELEASES, default="bookworm", help="(bookworm)")
    commands.add_parser(
        "demo", help="let them work through the demo's archives, and show the queue"
    )
    commands.add_parser("check", help="call each machine's set-up script with --check")
    commands.add_parser("faults", help="kill daemons, and see whether they come back")
    shell = commands.add_parser("shell", help="open a shell on a machine")
    shell.add_argument("machine", choices=MACHINES)
    commands.add_parser("down", help="stop the five and remove all but the downloaded system")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("cluster: run it as root")
    needed = ("debootstrap", "systemd-nspawn", "ip", "nft")
    if lacking := [program for program in needed if not shutil.which(program)]:
        sys.exit(
            f"cluster: {', '.join(lacking)} is missing; on Debian: "
            "apt install debootstrap systemd-container iproute2 nftables"
        )
    match arguments.command:
        case "up":
            start(arguments.release)
            set_up()
            return check()
        case "shell":
            command = [*inside(arguments.machine), "bash", "-l"]
            return subprocess.run(command, check=False).returncode
        case "down":
            down()
            return 0
    run: dict[str, Callable[[], int]] = {"check": check, "demo": demo, "faults": faults}
    return run[arguments.command]()


def start(release: str) -> None:
    """Boot five machines that nobody has set up."""
    base = STATE / release
    if not base.exists():
        print(f"getting {release}", flush=True)
        half = STATE / f"{release}.partial"
        subprocess.run(["rm", "-rf", half], check=True)
        half.mkdir(parents=True)
        _run(
            "debootstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            release,
            half,
            RELEASES[release],
        )
        half.rename(base)
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "address", "add", "10.77.0.254/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run(
        "nft", "add table ip earmark; "
        "add chain ip earmark out { type nat hook postrouting priority 100; }; "
        f"add rule ip earmark out ip saddr 10.77.0.0/24 oifname != {BRIDGE} masquerade",
    )  # fmt: skip
    (STATE / "volume").mkdir()
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", STATE / "key")
    for name in MACHINES:
        boot(name, base)
    for name in MACHINES:
        while ask(name, "systemctl is-system-running") not in ("running", "degraded"):
            time.sleep(1)


def boot(name: str, base: Path) -> None:
    """Start one machine over an empty layer of its own."""
    folder = STATE / "machines" / name
    root = folder / "root"
    for part in ("upper", "work", "root"):
        (folder / part).mkdir(parents=True)
    layers = f"lowerdir={base},upperdir={folder}/upper,workdir={folder}/work"
    _run("mount", "-t", "overlay", "overlay", "-o", layers, root)
    hosts = "".join(f"{address} {each}\n" for each, address in MACHINES.items())
    key = (STATE / "key.pub").read_text()
    files = {
        "etc/hostname": f"{name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n{hosts}",
        "etc/systemd/network/10-host0.network": "[Match]\nName=host0\n[Network]\n"
        f"Address={MACHINES[name]}/24\nGateway=10.77.0.254\n",
        "etc/ssh/ssh_config.d/new.conf": "Host *\n  StrictHostKeyChecking accept-new\n",
        "root/.ssh/authorized_keys": key,
        "root/.ssh/id_ed25519": (STATE / "key").read_text(),
        # As this machine has it: a network may have an authority of its own.
        "etc/ssl/certs/ca-certificates.crt": Path("/etc/ssl/certs/ca-certificates.crt").read_text(),
        # The clone is of a folder that belongs to somebody else.
        "etc/gitconfig": "[safe]\n  directory = *\n",
        "etc/pip.conf": "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n",
        "etc/uv/uv.toml": 'native-tls = true\nlink-mode = "copy"\n',
    }
    if name.startswith("worker"):
        files["usr/local/bin/nvidia-smi"] = NVIDIA_SMI
        files["usr/bin/nvidia-smi"] = NVIDIA_SMI
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o755 if path.endswith("nvidia-smi") else 0o644)
    (root / "root/.ssh/id_ed25519").chmod(0o600)
    _run("systemctl", f"--root={root}", "--quiet", "enable", "systemd-networkd", "ssh")
    binds = [f"--bind={STATE}/volume:/mnt/data", f"--bind-ro={REPOSITORY}:/repository"]
    if name.startswith("worker"):
        binds.append("--bind=/dev/null:/dev/nvidia0")
    with (folder / "console").open("w") as console:
        process = subprocess.Popen(
            [
                *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
                *(f"--machine=earmark-{name}", f"--hostname={name}", f"--directory={root}"),
                *(f"--network-bridge={BRIDGE}", "--resolv-conf=copy-host", *binds),
                *shlex.split(os.environ.get("EARMARK_NSPAWN_OPTIONS", "")),
            ],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
        )  # fmt: skip
    (folder / "pid").write_text(str(process.pid))
    while leader(name) is None:
        if process.poll() is not None:
            sys.exit(f"cluster: {name} did not start; see {folder / 'console'}")
        time.sleep(0.1)


def blocks() -> Iterator[tuple[list[str], list[str]]]:
    """The page's commands: on which machines, which lines."""
    found = re.finditer(
        r"^ *<!-- on ([a-z0-9, ]+) -->\n\n((?: {4,}.*\n)+)",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    for block in found:
        machines = [each for each in MACHINES if re.search(rf"\b{each}\b", block[1])]
        lines = textwrap.dedent(block[2]).strip()
        # A loop is one command.
        yield machines, [lines] if "; do\n" in lines else lines.splitlines()


def set_up() -> None:
    """Do what the page says, in its order, and edit what it says is to be edited."""
    for machines, lines in blocks():
        for machine in machines:
            for line in lines:
                line = line.replace("REPOSITORY", "/repository")
                print(f"{machine}# {line}", flush=True)
                # A set-up script says by its status that something is left to be done.
                call(machine, f"cd; {line}", input="none\n")
                if line.endswith(CLONE):
                    edit_environment()
                elif f"{CLONE}/deploy/cluster/setup-coordinator" in line:
                    configure()


def edit_environment() -> None:
    """Write into earmark.env what five containers are, where the page says to edit it."""
    changes = {
        "COORDINATOR": "coordinator=10.77.0.1",
        "TRANSFER": "transfer=10.77.0.2",
        "WORKERS": '"' + " ".join(f"{each}={MACHINES[each]}" for each in NODES[1:]) + '"',
        "POSTGRES_HOST": "10.77.0.1",
        "NODE_CPUS": "2", "NODE_MEMORY_MB": "8000", "NODE_RESERVED_MB": "500",
        "WORKER_CPUS_WITHOUT_GPU": "1",
        "VOLUME_SHARE": "other",
    }  # fmt: skip
    folder = f"{CLONE}/deploy/cluster"
    for name, value in changes.items():
        call("coordinator", f"sed -i 's|^{name}=.*|{name}={value}|' {folder}/earmark.env")
    if not has_control_groups():
        print("this machine has no control groups of version 2 to give: jobs run without limits")
        without = {"ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none"}
        for name, value in without.items():
            call("coordinator", f"sed -i 's|^{name}=.*|{name}={value}|' {folder}/slurm.conf")


def has_control_groups() -> bool:
    """Whether a container's SLURM can limit memory by control groups."""
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    return controllers.exists() and "memory" in controllers.read_text()


def configure() -> None:
    """The demo's configuration instead of that of an L4."""
    path = STATE / "volume/config/earmark.yaml"
    checkout = STATE / "volume/earmark"
    if not path.exists() or not (checkout / "demo").exists():
        return
    text = (checkout / "demo/config.yaml").read_text()
    text = text.replace("root: demo/volume", "root: /mnt/data")
    path.write_text(text.replace("demo/", "/mnt/data/earmark/demo/"))
    # Its models take less than those of an L4, and the machines of this cluster have less.
    call(
        "coordinator",
        "sed -i 's/mem_mb: min(.*/mem_mb: 6000/' /mnt/data/earmark/profiles/slurm/config.yaml",
    )


def check() -> int:
    """Tell what set-up still misses on each machine, by its own scripts; returns 0 if nothing."""
    found = {name: missing(name) for name in MACHINES}
    for name, items in found.items():
        print(f"{name}:", *(items or ["all is set up and runs"]), sep="\n  ")
    return int(any(found.values()))


def missing(name: str) -> list[str]:
    """What a machine's script finds missing, but for what no container can have."""
    script = "setup-worker" if name.startswith("worker") else f"setup-{name}"
    folder = f"{CLONE}/deploy/cluster" if name == "coordinator" else "~/cluster"
    said = ask(name, f"{folder}/{script} --check")
    return [
        line
        for line in said.splitlines()
        if not line.startswith("ok") and not any(each in line for each in NOT_HERE)
    ]


def demo() -> int:
    """Wait until the timer's cycle has done the demo's archives; returns 0 when all are done."""
    expected = {path.name for path in (REPOSITORY / "demo/archives").iterdir()}
    deadline = time.monotonic() + 3600
    told = ""
    while {path.stem for path in STATE.glob("volume/processed/date=*/[!.]*.json")} < expected:
        if time.monotonic() > deadline:
            print(
                ask("coordinator", "earmark status; sinfo; systemctl status earmark-cycle || true")
            )
            return 1
        now = ask("coordinator", "squeue --noheader --format='%T %N %k' | cut -c1-100")
        if now != told:
            print(now, flush=True)
            told = now
        time.sleep(5)
    print(ask("coordinator", "earmark queue; sinfo"))
    return 0


def faults() -> int:
    """Kill each kind of daemon; returns 0 if all are back within three minutes."""
    for name, daemon in DAEMONS:
        call(name, f"pkill --signal KILL --exact --oldest {daemon}")
        began = time.monotonic()
        while missing(name) and time.monotonic() - began < 180:
            time.sleep(1)
        print(
            f"{name}: {daemon} was killed, and {missing(name) or 'all is well again'}", flush=True
        )
    return check()


def down() -> None:
    """Stop and remove everything but the downloaded system."""
    for folder in sorted((STATE / "machines").glob("*")):
        if found := leader(folder.name):
            subprocess.run(["kill", "-KILL", found], check=False)
            time.sleep(0.5)
        subprocess.run(["umount", "--lazy", folder / "root"], check=False)
    for command in (f"ip link delete {BRIDGE}", "nft delete table ip earmark"):
        subprocess.run(command.split(), stderr=subprocess.DEVNULL, check=False)
    made = [STATE / each for each in ("machines", "volume", "key", "key.pub")]
    _run("rm", "-rf", "--one-file-system", *made)


def leader(name: str) -> str | None:
    """The process of a machine's systemd, as this machine numbers it; None if there is none."""
    try:
        pid = (STATE / "machines" / name / "pid").read_text()
        if f"--machine=earmark-{name}" not in Path(f"/proc/{pid}/cmdline").read_text():
            return None  # a process of another boot
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1]
    except (FileNotFoundError, IndexError):
        return None


def inside(name: str) -> list[str]:
    """The beginning of a command that runs on a machine, as root."""
    found = leader(name)
    if found is None:
        sys.exit(f"cluster: {name} does not run; start all five with `up`")
    return [
        *("nsenter", "--target", found, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"),
        *("--", "env", "--ignore-environment", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"),
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]


def call(name: str, line: str, input: str = "") -> None:
    """Run a line on a machine, and show what it says."""
    subprocess.run([*inside(name), "bash", "-c", line], input=input, text=True, check=False)


def ask(name: str, line: str) -> str:
    """Run a line on a machine; returns what it says."""
    done = subprocess.run(
        [*inside(name), "bash", "-c", line], capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip()


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    sys.exit(main())

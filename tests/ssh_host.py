"""A host that archives come from: a real sshd on loopback, behind a line that can be cut."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

ALIAS = "archive-host"


class Line:
    """A TCP relay to the host that counts what the host sends, and can be slow or cut.

    Attributes:
        port: Where it listens on 127.0.0.1.
        received: Bytes that came from the host so far.
        bytes_a_second: The line's speed; None for as fast as it goes.
        cut_after: The connections break once so many bytes have come; None for never.
    """

    def __init__(self, host_port: int) -> None:
        self._host_port = host_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.received = 0
        self.bytes_a_second: float | None = None
        self.cut_after: int | None = None
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections now."""
        while self._open:
            broken = self._open.pop()
            with contextlib.suppress(OSError):
                broken.shutdown(socket.SHUT_RDWR)
            broken.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return  # closed
            try:
                far = socket.create_connection(("127.0.0.1", self._host_port))
            except ConnectionRefusedError:
                near.close()
                continue
            self._open += [near, far]
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()
            threading.Thread(target=self._relay, args=(far, near, True), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, counted: bool = False) -> None:
        try:
            while data := source.recv(16 << 10):
                target.sendall(data)
                if not counted:
                    continue
                self.received += len(data)
                if self.bytes_a_second:
                    time.sleep(len(data) / self.bytes_a_second)
                if self.cut_after is not None and self.received >= self.cut_after:
                    self.cut()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class SshHost:
    """A running sshd with a folder of archives.

    Attributes:
        folder: Where archives appear on it.
        ssh_config: A client's configuration with the alias.
        line: Between the client and the host.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / "export" / "sound"
        self.folder.mkdir(parents=True)
        for name in ("host_key", "client_key"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)]
            subprocess.run(key, check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.line = Line(self._port)
        self.ssh_config = root / "ssh_config"
        self.ssh_config.write_text(
            f"Host {ALIAS}\n"
            "  HostName 127.0.0.1\n"
            f"  Port {self.line.port}\n"
            f"  User {getpass.getuser()}\n"
            f"  IdentityFile {root / 'client_key'}\n"
            "  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {root / 'known_hosts'}\n"
        )
        public = (root / "host_key.pub").read_text()
        (root / "known_hosts").write_text(f"[127.0.0.1]:{self.line.port} {public}")
        (root / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self._port}\n"
            f"HostKey {root / 'host_key'}\n"
            f"AuthorizedKeysFile {root / 'client_key.pub'}\n"
            "StrictModes no\nUsePAM no\nUseDNS no\nPermitRootLogin yes\nPidFile none\n"
        )
        self.start()

    def start(self, *settings: str) -> None:
        """Start sshd, with further settings (sshd_config(5)) if there are any."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd as root asks for it
        self._log = (self._root / "sshd.log").open("ab")
        self._sshd = subprocess.Popen(
            [_sshd(), "-D", "-e", "-f", self._root / "sshd_config", *settings],
            stderr=self._log,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self._sshd.poll() is None, (self._root / "sshd.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
            except ConnectionRefusedError:
                time.sleep(0.05)
            else:
                return
        raise TimeoutError("sshd did not start")

    def stop(self) -> None:
        """End the host, with all its connections."""
        self._sshd.kill()
        self._sshd.wait()
        self._log.close()
        self.line.cut()

    def close(self) -> None:
        self.stop()
        self.line.close()

    def put(self, name: str | bytes, content: bytes, age_seconds: float = 3600.0) -> Path:
        """Put a file into the folder that was last changed so long ago."""
        path = Path(os.fsdecode(os.fsencode(self.folder) + b"/" + os.fsencode(name)))
        path.write_bytes(content)
        changed = time.time_ns() - int(age_seconds * 1e9)
        os.utime(path, ns=(changed, changed))
        return path


def _sshd() -> str:
    """Where sshd is: it wants to be called by its full path, and /usr/sbin is not on every PATH."""
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert found, "sshd is missing (on Debian: apt install openssh-server)"
    return found

"""A real review desk, and people's browsers as far as they only send requests."""

import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from desk_record import PASSWORD
from psycopg2.extensions import parse_dsn

_ADDRESS = re.compile(r"the review desk is at (http://\S+)")


def write_config(
    folder: Path, conninfo: str, review: dict[str, Any] | None = None, **desk: Any
) -> Path:
    """Write a configuration for a desk over a database; its volume is the folder."""
    found = parse_dsn(conninfo)
    url = f"postgresql://{found['user']}@/{found['dbname']}?host={found['host']}"
    url += f"&port={found['port']}" if "port" in found else ""
    file = folder / "config.yaml"
    config = {
        "volume": {"root": str(folder)},
        "source": {"kind": "folder", "directory": str(folder)},
        "database": {"url": url},
        "review": review or {},
        "desk": {"port": 0, **desk},
    }
    file.write_text(yaml.safe_dump(config))
    return file


def free_port() -> int:
    """A port that nobody listens on now, for a desk that must come back at the same one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class Server:
    """The process ``earmark review``."""

    def __init__(self, configfile: Path) -> None:
        self.process = subprocess.Popen(
            [shutil.which("earmark") or "earmark", "review", "--configfile", str(configfile)],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            if found := _ADDRESS.search(line):
                self.url = found[1]
                # What nobody reads would fill the pipe, and the desk would wait.
                self._listener = threading.Thread(
                    target=self.said.extend, args=(self.process.stderr,), daemon=True
                )
                self._listener.start()
                return
        raise AssertionError("".join(self.said))

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self._ended()

    def stop(self) -> str:
        """End it as systemd would; returns what it said."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def _ended(self) -> str:
        self.process.wait(timeout=30)
        self._listener.join()
        return "".join(self.said)


@contextmanager
def serving(configfile: Path) -> Iterator[Server]:
    """Serve a desk for a while."""
    server = Server(configfile)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


class Browser(httpx.Client):
    """Sends what a browser would, for one person or nobody."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, headers={"Accept": "text/html"}, timeout=30, verify=False)
        self.csrf = ""

    def visit(self, path: str) -> httpx.Response:
        """Get a page, and remember what its forms would send along."""
        answer = self.get(path)
        if found := re.search(r'name="csrf" (?:value|content)="([0-9a-f]+)"', answer.text):
            self.csrf = found[1]
        return answer

    def submit(self, path: str, **fields: Any) -> httpx.Response:
        """Send a form of the page visited last."""
        return self.post(path, data={"csrf": self.csrf, **fields})

    def sign_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        """Sign in, and visit the first page."""
        self.visit("/sign-in")
        answer = self.submit("/sign-in", name=name, password=password)
        if answer.status_code == 303:
            self.visit("/")
        return answer

    def send_raw(self, target: str) -> bytes:
        """Get a target exactly as it is written, which a client would tidy up first."""
        address = (self.base_url.host, self.base_url.port or 80)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        with socket.create_connection(address) as connection:
            connection.sendall(
                f"GET {target} HTTP/1.1\r\nHost: desk\r\nCookie: {cookies}\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            return b"".join(iter(lambda: connection.recv(65536), b""))

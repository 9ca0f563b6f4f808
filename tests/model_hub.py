"""A model hub on this machine: the answers that huggingface_hub 0.36 asks for, over real HTTP.

Small files come from the hub itself, large ones (LFS) by a redirect to a store on another host
name, as from huggingface.co.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub.utils.sha import git_hash

#: Larger files are LFS files here.
SMALL = 10_000
COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_topsecretoftheperson"


@dataclass
class Hub:
    """What the hub has, how it misbehaves, and what it was asked.

    Attributes:
        models: Files of each model, by its name.
        commits: Newest commit of each model that has another than ``COMMIT``.
        gated: Models that only ``TOKEN`` may read.
        cut: So many bytes of each large file are sent before the connection ends ...
        stall: ... or before nothing more comes.
        flipped: Large files are sent with one bit changed, so many times.
        asked: Method, path, range and token of each request.
    """

    models: dict[str, dict[str, bytes]]
    commits: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: int | None = None
    stall: int | None = None
    flipped: int = 0
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    sent: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def commit(self, model: str) -> str:
        return self.commits.get(model, COMMIT)

    def ranges(self, model: str, name: str) -> list[str | None]:
        """The ranges of a large file that were asked for, None for all of it."""
        path = f"/store/{hashlib.sha256(self.models[model][name]).hexdigest()}"
        return [span for verb, at, span, _ in self.asked if at == path and verb == "GET"]


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder's files, as a model's."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Let the hub answer at ``hub.address`` during the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            token = self.headers["Authorization"]
            hub.asked.append((self.command, self.path, self.headers["Range"], token))
            path = urlsplit(self.path).path
            if found := re.fullmatch(r"/store/([0-9a-f]{64})", path):
                return self._store(found[1])
            found = re.fullmatch(
                r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+)|/auth-check)?", path
            )
            found = found or re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            model = found[1] if found else ""
            if model not in hub.models:
                return self._answer(401 if token is None else 404, {"X-Error-Code": "RepoNotFound"})
            if token is not None and token != f"Bearer {TOKEN}":
                message = "Invalid credentials in Authorization header"
                return self._answer(401, {"X-Error-Message": message})
            assert found
            is_listing = path.startswith("/api/") and not path.endswith("/auth-check")
            if model in hub.gated and token is None and not is_listing:
                return self._answer(401, {"X-Error-Code": "GatedRepo"})
            if path.endswith("/auth-check"):
                return self._answer(200, {}, b"{}")
            if found[2] not in (None, "main", hub.commit(model)):
                return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
            if is_listing:
                return self._answer(200, {}, json.dumps(self._listing(model)).encode())
            content = hub.models[model].get(found[3])
            if content is None:
                return self._answer(404, {"X-Error-Code": "EntryNotFound"})
            head = {"X-Repo-Commit": hub.commit(model)}
            if len(content) <= SMALL:
                return self._answer(200, head | {"ETag": f'"{git_hash(content)}"'}, content)
            sha256 = hashlib.sha256(content).hexdigest()
            return self._answer(
                302,
                head
                | {
                    "X-Linked-ETag": f'"{sha256}"',
                    "X-Linked-Size": str(len(content)),
                    "Location": hub.address.replace("127.0.0.1", "localhost") + f"/store/{sha256}",
                },
            )

        def _listing(self, model: str) -> dict[str, object]:
            siblings = []
            for name, content in hub.models[model].items():
                told: dict[str, object] = {"rfilename": name, "size": len(content)}
                told["blobId"] = git_hash(content)
                if len(content) > SMALL:
                    sha256 = hashlib.sha256(content).hexdigest()
                    told["blobId"] = git_hash(sha256.encode())  # of the pointer to the store
                    told["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
                siblings.append(told)
            return {"id": model, "sha": hub.commit(model), "siblings": siblings}

        def _store(self, sha256: str) -> None:
            contents = [c for files in hub.models.values() for c in files.values()]
            (content,) = {c for c in contents if hashlib.sha256(c).hexdigest() == sha256}
            size, first = len(content), 0
            if hub.flipped and self.command == "GET":
                hub.flipped -= 1
                content = bytes([content[0] ^ 1]) + content[1:]
            if span := self.headers["Range"]:
                first = int(span.removeprefix("bytes=").removesuffix("-"))
                assert first < size
            self.send_response(206 if span else 200)
            self.send_header("Content-Length", str(size - first))
            if span:
                self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
            self.end_headers()
            limit = hub.cut or hub.stall
            self.wfile.write(content[first : limit and first + limit])
            self.wfile.flush()
            if limit:
                hub.sent.set()
                if hub.stall:
                    time.sleep(30)
                hub.cut = hub.stall = None
                self.close_connection = True

        def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()

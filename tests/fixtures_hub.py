"""A stand-in of the Hugging Face hub's API: a repository in memory, as huggingface_hub speaks to it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

COMMIT = "0" * 39 + "1"


class Hub:
    """What the stand-in holds.

    Attributes:
        endpoint: Its address.
        token: The one token that may write.
        repos: Files of every repository, by path.
        stored: Large files, by the hash they are announced with.
        private: Repositories that were asked to be private.
        n_commits: Commits so far.
    """

    def __init__(self) -> None:
        self.endpoint, self.token, self.n_commits = "", "a-token", 0
        self.repos: dict[str, dict[str, bytes]] = {}
        self.stored: dict[str, bytes] = {}
        self.private: set[str] = set()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, status: int, value: Any = None, **headers: str) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value or {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _may_write(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {hub.token}"

        def do_POST(self) -> None:
            path, body = self.path.split("?")[0], self._body()
            if path == "/api/validate-yaml":
                return self._answer(200, {"errors": [], "warnings": []})
            if not self._may_write():
                return self._answer(401, {"error": "no token"})
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                if name in hub.repos:
                    return self._answer(409, {"error": "it is there", "url": f"{hub.endpoint}/{name}"})
                hub.repos[name] = {}
                hub.private |= {name} if asked.get("private") or asked.get("visibility") == "private" else set()
                return self._answer(200, {"url": f"{hub.endpoint}/{name}"})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {**o, "actions": {"upload": {"href": f"{hub.endpoint}/put/{o['oid']}"}}}
                    for o in json.loads(body)["objects"]
                ]
                return self._answer(200, {"transfer": "basic", "objects": objects})
            name = "/".join(path.split("/")[3:5])
            if "/preupload/" in path:
                modes = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for f in json.loads(body)["files"]
                ]
                return self._answer(200, {"files": modes})
            if "/commit/" in path:
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.repos[name][value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.repos[name][value["path"]] = hub.stored[value["oid"]]
                hub.n_commits += 1
                return self._answer(200, {"commitUrl": f"{hub.endpoint}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
            return self._answer(404)

        def do_PUT(self) -> None:
            name, data = self.path.rsplit("/", 1)[1], self._body()
            assert hashlib.sha256(data).hexdigest() == name
            hub.stored[name] = data
            self._answer(200)

        def do_GET(self) -> None:
            parts = self.path.split("?")[0].split("/")
            if parts[1:3] == ["api", "models"]:
                name = "/".join(parts[3:5])
                if name not in hub.repos:
                    return self._answer(404, X_Error_Code="RepoNotFound")
                files = [{"rfilename": f} for f in hub.repos[name]]
                return self._answer(200, {"id": name, "sha": COMMIT, "siblings": files, "private": False, "tags": []})
            found = hub.repos.get("/".join(parts[1:3]), {}).get("/".join(parts[5:]))
            if found is None:
                return self._answer(404, X_Error_Code="EntryNotFound")
            return self._answer(200, found, ETag=f'"{hashlib.sha256(found).hexdigest()}"', X_Repo_Commit=COMMIT)

        do_HEAD = do_GET

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a stand-in at a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running stand-in, which huggingface_hub may reach; large files travel as git-lfs has it."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with running_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
        yield found

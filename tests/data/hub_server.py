"""A small hub on this machine: enough of its protocol for one data set with one file per split.

It serves made-up rows only, and can be told to gate the set or to fail.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAIN = "a" * 40
OLD = "b" * 40


class Hub:
    """A hub with one repository: ``files[commit][path]`` are its bytes; ``mode`` is how it answers."""

    def __init__(self, repo: str, files: dict[str, dict[str, bytes]]) -> None:
        self.repo, self.files, self.mode, self.seen = repo, files, "ok", list[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                return

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_POST(self) -> None:
                self.payload = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: Any, *, body: bool) -> None:
        path = request.path.split("?")[0]
        self.seen.append(f"{request.command} {path}")
        if self.mode == "hung":
            time.sleep(8.0)
        if self.mode == "gated":
            return self._send(request, 403, {"error": "gated"}, body, {"X-Error-Code": "GatedRepo"})
        if self.mode == "broken":
            return self._send(request, 500, {"error": "broken"}, body)
        api, resolve = f"/api/datasets/{self.repo}", f"/datasets/{self.repo}/resolve/"
        if path.startswith(resolve) and self.mode == "no files":
            return self._send(request, 403, {"error": "no"}, body)
        if path.startswith(resolve):
            revision, _, name = path[len(resolve) :].partition("/")
            return self._file(request, self._commit(revision), name, body)
        rest = path[len(api) :].strip("/").split("/") if path.startswith(api) else None
        if rest is None:
            code = "RepoNotFound" if path.startswith(("/api/datasets", "/datasets")) else "EntryNotFound"
            return self._send(request, 404, {"error": "absent"}, body, {"X-Error-Code": code})
        commit = self._commit(rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return self._send(request, 404, {"error": "absent"}, body, {"X-Error-Code": "RevisionNotFound"})
        tree = [self._entry(name, data) for name, data in self.files[commit].items()]
        if rest[0] == "tree":
            return self._send(request, 200, tree, body)
        if rest[0] == "paths-info":
            asked = json.loads(request.payload)["paths"]
            return self._send(request, 200, [entry for entry in tree if entry["path"] in asked], body)
        info = {
            "_id": "0",
            "id": self.repo,
            "sha": commit,
            "gated": False,
            "private": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in self.files[commit]],
        }
        return self._send(request, 200, info, body)

    def _commit(self, revision: str) -> str | None:
        return MAIN if revision == "main" else revision if revision in self.files else None

    @staticmethod
    def _entry(name: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _file(self, request: Any, commit: str | None, name: str, body: bool) -> None:
        if commit is None or name not in self.files[commit]:
            code = "RevisionNotFound" if commit is None else "EntryNotFound"
            return self._send(request, 404, {"error": "absent"}, body, {"X-Error-Code": code})
        data = self.files[commit][name]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
        return self._send(request, 200, data, body, headers)

    @staticmethod
    def _send(
        request: Any, status: int, content: Any, body: bool, headers: dict[str, str] | None = None
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request.send_response(status)
        for key, value in (headers or {}).items():
            request.send_header(key, value)
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data)

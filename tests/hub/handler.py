"""The hub's answers, request by request, as ``huggingface_hub`` expects them."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub.repos import Fault, Repo, Request, entry_of, etag_of, facts_of, is_large


class Hub(Protocol):
    repos: dict[str, Repo]
    log: list[Request]
    token: str
    granted: bool
    lock: threading.Lock
    on_request: Callable[[Request], None] | None

    @property
    def endpoint(self) -> str: ...

    def take_fault(self, method: str, path: str) -> Fault | None: ...


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # each reply is written in two parts
    server_hub: Hub
    timeout = 20

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            super().handle()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        authorization = self.headers.get("Authorization", "")
        request = Request(
            self.command, unquote(self.path), self.headers.get("Range"), bool(authorization)
        )
        with hub.lock:
            hub.log.append(request)
        if hub.on_request is not None:
            hub.on_request(request)
        self.user_known = authorization == f"Bearer {hub.token}"
        fault = hub.take_fault(self.command, request.path)
        if fault is not None and fault.kind == "status":
            headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            self._send(fault.status, b"{}", headers)
            return
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        if path == "/api/whoami-v2":
            self._whoami()
        elif path == "/api/models":
            self._search(parse_qs(parts.query))
        elif match := re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/(.+?))?", path):
            self._info(match[1], match[2], unquote(match[3] or "main"), parse_qs(parts.query))
        elif match := re.fullmatch(r"/cdn/(.+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], fault, moved=True)
        elif match := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], fault)
        else:
            self._fail(404, "EntryNotFound", "Not here")

    # ---------------------------------------------------------------- answers

    def _whoami(self) -> None:
        if self.user_known:
            self._json({"type": "user", "name": "tester"})
        else:
            self._fail(401, None, "Invalid credentials in Authorization header")

    def _search(self, query: dict[str, list[str]]) -> None:
        text = query.get("search", [""])[0].lower()
        wanted = set(query.get("filter", []))
        author = query.get("author", [""])[0]
        limit = int(query.get("limit", ["1000"])[0])
        start = int(query.get("cursor", ["0"])[0])
        page = min(limit, 10)
        found = [
            repo
            for repo in self.server_hub.repos.values()
            if text in repo.repo_id.lower()
            and wanted <= {*repo.tags, repo.pipeline_tag}
            and repo.repo_id.startswith(author)
            and not repo.private
        ]
        if query.get("sort", [""])[0] == "downloads":
            found.sort(key=lambda repo: -repo.downloads)
        headers = {}
        if start + page < len(found):
            more = {key: values[0] for key, values in query.items()}
            more["cursor"] = str(start + page)
            address = "&".join(f"{key}={quote(value)}" for key, value in more.items())
            headers["Link"] = f'<{self.server_hub.endpoint}/api/models?{address}>; rel="next"'
        self._json([facts_of(repo, None) for repo in found[start : start + page]], headers)

    def _info(self, repo_id: str, what: str | None, revision: str, query: dict[str, Any]) -> None:
        repo = self._visible(repo_id)
        if repo is None:
            return
        commit = self._commit(repo, revision.split("/", 1)[0] if what == "tree" else revision)
        if commit is None:
            return
        files = repo.files()
        if what == "tree":
            self._json([entry_of(name, content, "path") for name, content in files.items()])
            return
        self._json(facts_of(repo, files if "blobs" in query else None, list(files), commit))

    def _file(
        self, repo_id: str, revision: str, name: str, fault: Fault | None, *, moved: bool = False
    ) -> None:
        if moved:
            repo: Repo | None = self.server_hub.repos[repo_id]
        else:
            repo = self._visible(repo_id)
        if repo is None:
            return
        commit = self._commit(repo, unquote(revision))
        if commit is None:
            return
        if repo.gated and not moved and not (self.user_known and self.server_hub.granted):
            status = 403 if self.user_known else 401
            self._fail(status, "GatedRepo", f"Access to model {repo_id} is restricted.")
            return
        content = repo.files().get(name)
        if content is None:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        etag = etag_of(name, content)
        if is_large(name, content) and not moved:
            headers["X-Linked-Etag"] = f'"{etag}"'
            headers["X-Linked-Size"] = str(len(content))
            headers["Location"] = f"{self.server_hub.endpoint}/cdn{self.path}?signature=secret"
            if fault is not None:  # what goes wrong, goes wrong where the content is
                fault.times += 1
            self._send(302, b"", headers)
            return
        if fault is not None and fault.kind == "changed":
            content = bytes(byte ^ 0xFF for byte in content)
            etag = etag_of(name, content)
        headers["ETag"] = f'"{etag}"'
        status = 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            if start >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self._send(status, content, headers, fault)

    # ---------------------------------------------------------------- parts of answers

    def _visible(self, repo_id: str) -> Repo | None:
        repo = self.server_hub.repos.get(repo_id)
        if repo is None or (repo.private and not self.user_known):
            self._fail(404 if self.user_known else 401, "RepoNotFound", "Repository not found")
            return None
        return repo

    def _commit(self, repo: Repo, revision: str) -> str | None:
        commit = repo.revisions.get(revision, revision)
        if commit not in repo.revisions.values():
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self._send(200, content, {"Content-Type": "application/json", **(headers or {})})

    def _fail(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message}
        if code is not None:
            headers["X-Error-Code"] = code
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], fault: Fault | None = None
    ) -> None:
        length = len(content)
        cut = length
        if fault is not None and fault.kind in ("drop", "short", "wait"):
            cut = min(fault.at_byte, length)
        if fault is not None and fault.kind == "short":
            length = cut
        if fault is not None and fault.kind == "long":
            length += 7
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[:cut])
        self.wfile.flush()
        if fault is None:
            return
        fault.reached.set()
        if fault.kind == "wait":
            fault.release.wait(20)
            self.wfile.write(content[cut:])
        elif fault.kind in ("drop", "long"):
            self.close_connection = True

"""A model hub on this machine, for the real client: what it answers, and what goes wrong."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.hub.handler import HubHandler
from tests.hub.repos import Fault, FaultKind, Repo, Request


class HubServer:
    """Runs on a free port of 127.0.0.1 until the `with` block ends."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.token = "hf_tokenOfTheTests123"
        self.granted = True
        self.lock = threading.Lock()
        self.on_request: Callable[[Request], None] | None = None
        hub = self

        class Handler(HubHandler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def add(self, repo_id: str, folder: Path, **facts: Any) -> Repo:
        commit = hashlib.sha1(f"{repo_id}{len(self.repos)}".encode()).hexdigest()
        repo = Repo(repo_id, folder, commit, **facts)
        repo.revisions.setdefault("main", commit)
        self.repos[repo_id] = repo
        return repo

    def fail(self, kind: FaultKind, path: str = "", **details: Any) -> Fault:
        fault = Fault(kind, path, **details)
        with self.lock:
            self.faults.append(fault)
        return fault

    def release(self) -> None:
        """Let every request that waits go on, and drop the faults that are left."""
        with self.lock:
            faults, self.faults = self.faults, []
        for fault in faults:
            fault.release.set()

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.path in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def fetched(self, name: str = "") -> list[Request]:
        """Requests for file content that the log has."""
        return [
            request
            for request in self.log
            if request.method == "GET" and "/resolve/" in request.path and name in request.path
        ]

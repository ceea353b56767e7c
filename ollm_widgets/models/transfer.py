"""One file from the hub: resumed where it stopped, checked by its hash, put in place whole.

``huggingface_hub`` 2 removes its partial file when a download stops, so the partial files are
ours; session, headers, time limits and errors are the client's.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ollm_widgets.models.hub_faults import HubFault, explain, request_errors
from ollm_widgets.models.hub_listing import HubFile

if TYPE_CHECKING:

    class _Hash(Protocol):
        def update(self, content: bytes, /) -> None: ...
        def hexdigest(self) -> str: ...


_READ_BYTES = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_MAX_RESTARTS = 2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a request is made again.

    Parameters
    ----------
    attempts
        Attempts in a row that bring nothing before the file is given up.
    first_s, longest_s
        Pause before the second attempt, doubled each time up to the longest.
    longest_asked_s
        Longest pause that the hub may ask for.
    """

    attempts: int = 5
    first_s: float = 0.5
    longest_s: float = 8.0
    longest_asked_s: float = 60.0

    def pause_s(self, failures: int, fault: HubFault) -> float:
        """How long to wait after so many failures in a row."""
        if fault.retry_after_s is not None:
            return min(fault.retry_after_s, self.longest_asked_s)
        return min(self.first_s * 2.0 ** (failures - 1), self.longest_s)


RETRY = RetryPolicy()


class Transfer:
    """A file on its way from the hub to `target`.

    Called by one worker; `done_bytes` and `fault` may be read by others at any time.

    Parameters
    ----------
    file
        What to fetch.
    url
        Where from.
    target
        Where it is put when it is whole; the partial file is beside it.
    headers
        Headers of the request, the login among them.
    """

    def __init__(self, file: HubFile, url: str, target: Path, headers: Mapping[str, str]) -> None:
        self.file = file
        self.target = target
        self.done_bytes = 0
        self.finished = False
        self.fault: HubFault | None = None
        self._url = url
        self._headers = dict(headers)
        self._partial = partial_path(target)
        self._restarts = 0

    def __call__(self, stop: threading.Event) -> None:
        """Fetch the file; how it went is in `finished` and `fault`."""
        failures = 0
        while not stop.is_set():
            before = self.done_bytes
            fault = self._attempt(stop)
            if fault is None:
                return
            failures = 1 if self.done_bytes > before else failures + 1
            gave_up = failures >= RETRY.attempts or self._restarts > _MAX_RESTARTS
            if gave_up or not fault.is_transient():
                self.fault = fault
                return
            stop.wait(RETRY.pause_s(failures, fault))

    def _attempt(self, stop: threading.Event) -> HubFault | None:
        """Make one request; ``None`` when the file is there or nobody wants it any more."""
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            with self._partial.open("ab+") as partial:
                digest = self._hash_present(partial, stop)
                if self.done_bytes < self.file.size_bytes or not self.file.size_bytes:
                    digest, fault = self._receive(partial, digest, stop)
                    if fault is not None:
                        return fault
            if stop.is_set():
                return None
            return self._put_in_place(digest)
        except request_errors() as error:
            if getattr(getattr(error, "response", None), "status_code", None) == 416:
                self._restart()
            return explain(error, self._headers.get("authorization", "").removeprefix("Bearer "))

    def _hash_present(self, partial: BinaryIO, stop: threading.Event) -> _Hash:
        """Hash what an earlier attempt has left, so that the end result can be checked."""
        digest = start_digest(self.file)
        partial.seek(0, 2)
        if partial.tell() > self.file.size_bytes:
            partial.truncate(0)
        partial.seek(0)
        done = 0
        while not stop.is_set() and (content := partial.read(_READ_BYTES)):
            digest.update(content)
            done += len(content)
        self.done_bytes = done
        return digest

    def _receive(
        self, partial: BinaryIO, digest: _Hash, stop: threading.Event
    ) -> tuple[_Hash, HubFault | None]:
        from huggingface_hub import constants, get_session, hf_raise_for_status

        headers = dict(self._headers)
        # Packed replies have no ranges and lengths of their own.
        headers["Accept-Encoding"] = "identity"
        if self.done_bytes:
            headers["Range"] = f"bytes={self.done_bytes}-"
        with get_session().stream(
            "GET",
            self._url,
            headers=headers,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            follow_redirects=True,
        ) as response:
            hf_raise_for_status(response)
            if self.done_bytes and not self._continues(response.status_code, response.headers):
                partial.truncate(0)
                self.done_bytes = 0
                digest = start_digest(self.file)
                if response.status_code == 206:
                    return digest, HubFault("corrupt", "the hub answered with another range")
            for content in response.iter_bytes():
                if stop.is_set():
                    return digest, None
                if self.done_bytes + len(content) > self.file.size_bytes:
                    self._restart()
                    return digest, HubFault("corrupt", "more came than the hub had announced")
                partial.write(content)
                digest.update(content)
                self.done_bytes += len(content)
        if self.done_bytes < self.file.size_bytes:
            return digest, HubFault("broken", "the connection ended early")
        return digest, None

    def _continues(self, status: int, headers: Mapping[str, str]) -> bool:
        if status != 206:
            return False
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        return match is not None and int(match.group(1)) == self.done_bytes

    def _put_in_place(self, digest: _Hash) -> HubFault | None:
        if digest.hexdigest() != self.file.digest:
            self._restart()
            return HubFault("corrupt", "its content is not what the hub had announced")
        self._partial.replace(self.target)
        self.finished = True
        return None

    def _restart(self) -> None:
        self._partial.write_bytes(b"")
        self.done_bytes = 0
        self._restarts += 1


def partial_path(target: Path) -> Path:
    """Where the bytes of `target` are collected."""
    return target.with_name(f"{target.name}.ollm.incomplete")


def start_digest(file: HubFile) -> _Hash:
    """Begin the hash by which the hub knows the file's content."""
    if len(file.digest) == 64:
        return hashlib.sha256()
    # Git names a blob by the hash of a header and the content; no security hangs on SHA-1 here
    # beyond what the hub itself offers for its small files.
    return hashlib.sha1(b"blob %d\x00" % file.size_bytes, usedforsecurity=False)

"""What the hub of the tests holds, what it is told to do wrong, and what it was asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

FaultKind = Literal[
    "drop",  # the connection ends after `at_byte` bytes of the body
    "short",  # the body and its announced length end after `at_byte` bytes
    "long",  # the announced length is `extra` too large, then the connection ends
    "changed",  # the body has other content of the same length, and another ETag
    "status",  # `status` with Retry-After
    "wait",  # the body stops after `at_byte` bytes until `release` is set
]
LARGE_BYTES = 2_000


@dataclass
class Fault:
    """What goes wrong with one request whose path contains `path`."""

    kind: FaultKind
    path: str = ""
    at_byte: int = 0
    status: int = 500
    retry_after: str | None = None
    times: int = 1
    method: str = "GET"
    release: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    range: str | None
    authorized: bool


@dataclass
class Repo:
    """A repository made of a real folder."""

    repo_id: str
    folder: Path
    commit: str
    gated: bool | str = False
    private: bool = False
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = "text-generation"
    revisions: dict[str, str] = field(default_factory=dict)
    extra_files: dict[str, bytes] = field(default_factory=dict)
    downloads: int = 0

    def files(self) -> dict[str, bytes]:
        found = {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        return {**found, **self.extra_files}


def is_large(name: str, content: bytes) -> bool:
    return name.endswith((".safetensors", ".gguf", ".bin")) or len(content) > LARGE_BYTES * 10


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag_of(name: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large(name, content) else git_hash(content)


def entry_of(name: str, content: bytes, key: str) -> dict[str, Any]:
    entry: dict[str, Any] = {key: name, "size": len(content)}
    if key == "path":
        entry |= {"type": "file", "oid": git_hash(content)}
    else:
        entry["blobId"] = git_hash(content)
    if is_large(name, content):
        digest = hashlib.sha256(content).hexdigest()
        oid = "oid" if key == "path" else "sha256"
        entry["lfs"] = {oid: digest, "size": len(content), "pointerSize": 130}
    return entry


def facts_of(
    repo: Repo,
    files: dict[str, bytes] | None,
    names: list[str] | None = None,
    commit: str | None = None,
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "_id": repo.commit[:24],
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "sha": commit or repo.commit,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": repo.downloads,
        "likes": 0,
        "tags": list(repo.tags),
        "pipeline_tag": repo.pipeline_tag,
        "lastModified": "2025-01-01T00:00:00.000Z",
        "createdAt": "2025-01-01T00:00:00.000Z",
    }
    if files is not None:
        facts["siblings"] = [
            entry_of(name, content, "rfilename") for name, content in files.items()
        ]
        facts["safetensors"] = _parameters(files)
    elif names is not None:
        facts["siblings"] = [{"rfilename": name} for name in names]
        facts["safetensors"] = _parameters(repo.files())
    return facts


def _parameters(files: dict[str, bytes]) -> dict[str, Any] | None:
    counts: dict[str, int] = {}
    for name, content in files.items():
        if not name.endswith(".safetensors"):
            continue
        with contextlib.suppress(ValueError):
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            for key, tensor in header.items():
                if key == "__metadata__":
                    continue
                elements = 1
                for dimension in tensor["shape"]:
                    elements *= dimension
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + elements
    return {"parameters": counts, "total": sum(counts.values())} if counts else None

"""What a download should have brought, and where to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub.fixtures import NEVER_FETCHED
from tests.hub.server import HubServer

Home = str


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def runtime_content(origin: Path) -> dict[str, bytes]:
    return {
        name: content
        for name, content in content_of(origin).items()
        if name not in NEVER_FETCHED and not name.startswith("original")
    }


def place(home: Home, tmp_path: Path) -> Path | None:
    return tmp_path / "models" if home == "managed" else None


def folder_at(home: Home, tmp_path: Path, hub: HubServer, repo_id: str = "org/tiny") -> Path:
    name = repo_id.replace("/", "--")
    if home == "managed":
        return tmp_path / "models" / name
    commit = hub.repos[repo_id].commit
    return tmp_path / "hf-home" / "hub" / f"models--{name}" / "snapshots" / commit


both_homes = pytest.mark.parametrize("home", ["cache", "managed"])

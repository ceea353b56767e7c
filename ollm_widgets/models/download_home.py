"""Where downloaded files live: in the hub's own cache, or in a managed folder.

Files are collected beside their place under their hashes and shown all at once, ``config.json``
last, so that a download that stops never leaves a folder that looks complete and is not.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ollm_widgets.models.hub_listing import HubFile
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.runtime_files import CONFIG_NAME
from ollm_widgets.models.tensors import INDEX_NAME


def folder_name(repo_id: str, revision: str | None = None) -> str:
    """Name of the managed folder of a repository."""
    suffix = f"@{revision}" if revision else ""
    return ModelReference.parse(f"hf:{repo_id}{suffix}").materialization_name()


class Home(Protocol):
    """The place of one repository's files."""

    folder: Path
    lock: Path

    def candidates(self, file: HubFile) -> tuple[Path, ...]:
        """Where the file may already be."""

    def target(self, file: HubFile) -> Path:
        """Where the file is put as soon as it is whole."""

    def publish(self, files: Sequence[HubFile]) -> None:
        """Show the files, all of which are there, in `folder`."""


class HubCacheHome:
    """A snapshot in the hub's cache, laid out as ``huggingface_hub`` does.

    Parameters
    ----------
    cache_dir
        The hub's cache.
    repo_id, commit, revision
        What is downloaded, and the branch or tag that it was asked for by.
    """

    def __init__(self, cache_dir: Path, repo_id: str, commit: str, revision: str | None) -> None:
        name = f"models--{repo_id.replace('/', '--')}"
        self._storage = cache_dir / name
        self._commit = commit
        self._revision = revision or "main"
        self.folder = self._storage / "snapshots" / commit
        self.lock = cache_dir / ".locks" / name / "ollm-download.lock"

    def candidates(self, file: HubFile) -> tuple[Path, ...]:
        """The blob."""
        return (self.target(file),)

    def target(self, file: HubFile) -> Path:
        """The blob, named after its hash."""
        return self._storage / "blobs" / file.digest

    def publish(self, files: Sequence[HubFile]) -> None:
        """Link the blobs into the snapshot, then point the branch at it."""
        missing = [file for file in files if not self._shows(file)]
        if missing:
            (self.folder / CONFIG_NAME).unlink(missing_ok=True)
            missing = [file for file in files if not self._shows(file)]
        for file in _config_last(missing):
            self._link(file)
        if self._revision != self._commit:
            ref = self._storage / "refs" / self._revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            fresh = _fresh(ref)
            fresh.write_text(self._commit, encoding="utf-8")
            fresh.replace(ref)

    def _shows(self, file: HubFile) -> bool:
        try:
            return (self.folder / file.name).samefile(self.target(file))
        except OSError:
            return False

    def _link(self, file: HubFile) -> None:
        pointer = self.folder / file.name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        fresh = _fresh(pointer)
        up = Path(*[".."] * (2 + len(Path(file.name).parts) - 1))
        try:
            fresh.symlink_to(up / "blobs" / file.digest)
        except (OSError, NotImplementedError):
            # Windows without developer mode; huggingface_hub keeps a file there, too.
            shutil.copyfile(self.target(file), fresh)
        fresh.replace(pointer)


class ManagedHome:
    """A folder of plain files under `models_dir`.

    Parameters
    ----------
    models_dir
        Folder of managed models.
    name
        Name of the model's folder in it.
    """

    def __init__(self, models_dir: Path, name: str) -> None:
        self.folder = models_dir / name
        self.lock = models_dir / f".{name}.lock"
        self._staging = models_dir / f".{name}.download"

    def candidates(self, file: HubFile) -> tuple[Path, ...]:
        """The folder's file, and one that was fetched and not shown yet."""
        return (self.folder / file.name, self.target(file))

    def target(self, file: HubFile) -> Path:
        """A hidden folder beside the model's."""
        return self._staging / f"{file.name.replace('/', '--')}.{file.digest[:16]}"

    def publish(self, files: Sequence[HubFile]) -> None:
        """Move what was fetched into the folder; weights of another version go."""
        names = {file.name for file in files}
        stale = [
            path
            for path in (self.folder.iterdir() if self.folder.is_dir() else ())
            if path.name not in names and (path.suffix == ".safetensors" or path.name == INDEX_NAME)
        ]
        moved = [file for file in files if self.target(file).is_file()]
        if moved or stale:
            self._hide_config(files)
            moved = [file for file in files if self.target(file).is_file()]
        for path in stale:
            path.unlink()
        for file in _config_last(moved):
            place = self.folder / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            self.target(file).replace(place)
        shutil.rmtree(self._staging, ignore_errors=True)

    def _hide_config(self, files: Sequence[HubFile]) -> None:
        shown = self.folder / CONFIG_NAME
        config = next((file for file in files if file.name == CONFIG_NAME), None)
        with suppress(FileNotFoundError):
            if config is None or self.target(config).is_file():
                shown.unlink()
            else:
                self._staging.mkdir(parents=True, exist_ok=True)
                shown.replace(self.target(config))


def _config_last(files: Sequence[HubFile]) -> list[HubFile]:
    return sorted(files, key=lambda file: file.name == CONFIG_NAME)


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")

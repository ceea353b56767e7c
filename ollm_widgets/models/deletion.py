"""Freeing the disk of a model: planned first, so that a person can see what would go."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets import settings
from ollm_widgets.errors import DeletionError
from ollm_widgets.models.embedded import WHEEL_NAME, embedded_gguf
from ollm_widgets.models.resolved import ResolvedModel

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Deletion:
    """What would be deleted; nothing is until `run`.

    Parameters
    ----------
    paths
        Folders and files that would go.
    bytes
        Bytes that would be free afterwards.
    what
        What they are, for people.
    hub_cache_dir, commit
        Set for a revision in the hub's cache, which the hub's own client deletes.
    """

    paths: tuple[Path, ...]
    bytes: int
    what: str
    hub_cache_dir: Path | None = None
    commit: str | None = None

    def run(self) -> int:
        """Delete, and say how many bytes that freed.

        A folder disappears at once, under its name, before its files are removed. A model that
        is loaded should be closed first.

        Raises
        ------
        DeletionError
            When something there has changed since the plan, or the disk refuses.
        """
        try:
            if self.hub_cache_dir is not None and self.commit is not None:
                strategy = _strategy(self.hub_cache_dir, self.commit)
                freed = int(strategy.expected_freed_size)
                strategy.execute()
                return freed
            for path in self.paths:
                if path.is_symlink() or not path.is_dir():
                    raise DeletionError(
                        f"{path} is not the folder that it was.", hint="Plan the deletion again."
                    )
                aside = path.with_name(f".{path.name}.deleted-{os.getpid()}")
                path.rename(aside)
                shutil.rmtree(aside)
        except OSError as error:
            raise DeletionError(
                f"{self.what} could not be deleted: {error}.",
                hint="Check who owns the folder, and that nothing has the model open.",
            ) from error
        return self.bytes


def plan_deletion(resolved: ResolvedModel, models_dir: Path | None = None) -> Deletion:
    """Say what deleting a model would free.

    Three kinds of places are deleted: folders right in `models_dir`, safetensors that this
    package made of a GGUF file, and revisions in the hub's cache.

    Parameters
    ----------
    resolved
        The model.
    models_dir
        Folder of managed models; ``None`` takes the default one.

    Raises
    ------
    DeletionError
        When the files are not here, or lie anywhere else: they are the person's own.
    """
    try:
        return _plan(resolved, models_dir or settings.default_models_dir())
    except OSError as error:
        raise DeletionError(
            f"The files of {resolved.display_name} cannot be looked at: {error}."
        ) from error


def delete_model(resolved: ResolvedModel, models_dir: Path | None = None) -> int:
    """Plan the deletion of a model and run it; gives the bytes that it freed.

    Raises
    ------
    DeletionError
        See `plan_deletion` and `Deletion.run`.
    """
    return plan_deletion(resolved, models_dir).run()


def _plan(resolved: ResolvedModel, models_dir: Path) -> Deletion:
    path = resolved.model_path
    # Path.exists raises for a name that is too long.
    if path is None or not os.path.exists(path):  # noqa: PTH110  (never raises)
        raise DeletionError(
            f"{resolved.display_name} is not on this machine; there is nothing to delete."
        )
    snapshot = _snapshot_of(path)
    if snapshot is not None:
        return _plan_revision(resolved, snapshot)
    folder = path if path.is_dir() else path.parent
    if _is_child(folder, settings.cache_dir() / "converted"):
        what = f"The safetensors that were made of the GGUF file of {resolved.display_name}"
        return Deletion((folder,), _size_bytes(folder), what)
    if _is_child(folder, models_dir):
        return Deletion((folder,), _size_bytes(folder), f"The managed folder {folder.name}")
    raise _refusal(resolved, path, models_dir)


def _snapshot_of(path: Path) -> Path | None:
    """Snapshot folder in a hub cache that `path` is or lies in."""
    for folder in (path, *path.parents):
        if (
            _COMMIT.fullmatch(folder.name)
            and folder.parent.name == "snapshots"
            and folder.parent.parent.name.startswith("models--")
        ):
            return folder
    return None


def _plan_revision(resolved: ResolvedModel, snapshot: Path) -> Deletion:
    # The client's own scan looks at every repository; here it is only this one.
    repository = snapshot.parents[1]
    others = [folder for folder in snapshot.parent.iterdir() if folder != snapshot]
    kept = {Path(os.path.realpath(entry.path)) for folder in others for entry in _files(folder)}
    blobs = {Path(os.path.realpath(entry.path)) for entry in _files(snapshot)} - kept
    return Deletion(
        (snapshot, *sorted(blobs)) if others else (repository,),
        sum(blob.stat().st_size for blob in blobs if blob.is_file()),
        f"Revision {snapshot.name[:8]} of {resolved.repo_id or resolved.display_name} in the "
        "hub's cache",
        snapshot.parents[2],
        snapshot.name,
    )


def _strategy(cache_dir: Path, commit: str) -> DeleteCacheStrategy:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(cache_dir)
    except (CacheNotFound, ValueError) as error:
        raise DeletionError(f"{cache_dir} cannot be read as the hub's cache: {error}.") from error
    known = {revision.commit_hash for repo in cache.repos for revision in repo.revisions}
    if commit not in known:
        warnings = "; ".join(str(warning) for warning in cache.warnings[:2])
        raise DeletionError(
            f"The hub's client finds no revision {commit[:8]} in {cache_dir}. {warnings}".strip(),
            hint="See `hf cache ls`.",
        )
    return cache.delete_revisions(commit)


def _is_child(folder: Path, parent: Path) -> bool:
    """Whether `folder` is a real folder right in `parent`, whatever links lead to `parent`."""
    if folder.is_symlink() or folder.name.startswith("."):
        return False
    resolved, place = Path(os.path.realpath(folder)), Path(os.path.realpath(parent))
    return resolved.parent == place and place not in (Path.home(), Path(place.anchor))


def _size_bytes(folder: Path) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in _files(folder))


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield entry


def _refusal(resolved: ResolvedModel, path: Path, models_dir: Path) -> DeletionError:
    if path == embedded_gguf():
        return DeletionError(
            f"{path} belongs to the installed wheel {WHEEL_NAME}.",
            hint=f"Uninstall it with `pip uninstall {WHEEL_NAME}`.",
        )
    if path.is_symlink():
        return DeletionError(
            f"{path} is a link to {os.path.realpath(path)}; what it leads to is your own.",
            hint="Remove the link yourself.",
        )
    return DeletionError(
        f"{path} is your own: only folders in {models_dir}, converted GGUF files and the hub's "
        f"cache are deleted, and {resolved.display_name} is none of these.",
        hint="Delete it yourself if you no longer want it.",
    )

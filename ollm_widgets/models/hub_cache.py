"""Models that the Hugging Face cache already holds, found by looking at folders only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ollm_widgets.models.completeness import find_gaps

GapFinder = Callable[[Path], tuple[str, ...]]

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One complete snapshot in the hub's cache.

    Parameters
    ----------
    repo_id, commit
        Repository and commit of the snapshot.
    path
        The snapshot's folder, used in place.
    is_main
        Whether the cache's ``main`` branch points at it.
    """

    repo_id: str
    commit: str
    path: Path
    is_main: bool


def is_repo_id(text: str) -> bool:
    """Whether the hub would accept `text` as the id of a repository."""
    return bool(_REPO_ID.fullmatch(text)) and "--" not in text and ".." not in text


def default_hub_cache() -> Path:
    """Folder of the hub's cache, as ``huggingface_hub`` reads it from the environment."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def find_snapshot(
    repo_id: str,
    revision: str | None = None,
    cache_dir: Path | None = None,
    gaps_of: GapFinder = find_gaps,
) -> Path | None:
    """Find the complete snapshot of a repository; the network is not asked.

    Parameters
    ----------
    repo_id
        ``org/name``.
    revision
        Branch, tag or full commit; ``None`` takes ``main``, else the newest complete snapshot.
    cache_dir
        The hub's cache; ``None`` takes the one ``huggingface_hub`` uses.
    gaps_of
        What says whether a snapshot is complete.
    """
    if not is_repo_id(repo_id):
        return None
    folder = (cache_dir or default_hub_cache()) / f"models--{repo_id.replace('/', '--')}"
    for commit in _commits(folder, revision):
        snapshot = folder / "snapshots" / commit
        if snapshot.is_dir() and not gaps_of(snapshot):
            return snapshot
    return None


def cached_models(
    cache_dir: Path | None = None, gaps_of: GapFinder = find_gaps
) -> tuple[CachedModel, ...]:
    """List every complete snapshot in the hub's cache, sorted by repository and commit."""
    root = cache_dir or default_hub_cache()
    found: list[CachedModel] = []
    for folder in _children(root):
        if not folder.name.startswith("models--"):
            continue
        repo_id = folder.name.removeprefix("models--").replace("--", "/", 1)
        main = _read_ref(folder, "main")
        found.extend(
            CachedModel(repo_id, snapshot.name, snapshot, snapshot.name == main)
            for snapshot in _children(folder / "snapshots")
            if not _gaps_or_error(snapshot, gaps_of)
        )
    return tuple(sorted(found, key=lambda model: (model.repo_id.casefold(), model.commit)))


def _commits(folder: Path, revision: str | None) -> Iterator[str]:
    """Yield the commits that `revision` may mean, the likeliest first."""
    if revision is not None and _COMMIT.fullmatch(revision):
        yield revision
        return
    commit = _read_ref(folder, revision or "main")
    if commit is not None:
        yield commit
    if revision is None:
        snapshots = _children(folder / "snapshots")
        newest = sorted(snapshots, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        yield from (path.name for path in newest if path.name != commit)


def _read_ref(folder: Path, revision: str) -> str | None:
    if ".." in revision or revision.startswith("/") or "\\" in revision:
        return None
    path = folder / "refs" / revision
    try:
        commit = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _gaps_or_error(snapshot: Path, gaps_of: GapFinder) -> tuple[str, ...]:
    try:
        return gaps_of(snapshot)
    except OSError as error:
        return (f"{snapshot} cannot be read: {error}.",)


def is_offline() -> bool:
    """Whether ``huggingface_hub`` was told to stay away from the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def hub_address() -> str:
    """Address of the hub that ``huggingface_hub`` is set up for, without a slash at its end."""
    from huggingface_hub import constants

    return constants.ENDPOINT

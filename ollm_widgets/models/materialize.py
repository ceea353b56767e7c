"""From a resolved model to a checked local folder that can be loaded."""

from __future__ import annotations

from pathlib import Path

from ollm_widgets import settings
from ollm_widgets.errors import GatedModelError, ManagedModelDownloadError
from ollm_widgets.models.absent import download_hint
from ollm_widgets.models.completeness import find_gaps, find_gguf_files
from ollm_widgets.models.conversion import gguf_to_safetensors
from ollm_widgets.models.download import download
from ollm_widgets.models.download_home import folder_name
from ollm_widgets.models.hub_cache import hub_address, is_offline
from ollm_widgets.models.job_control import CancelFlag, Progress, raise_if_cancelled
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.safety import check_folder

__all__ = ["gguf_to_safetensors", "managed_folder", "materialize"]


def managed_folder(resolved: ResolvedModel, models_dir: Path) -> Path:
    """Folder under `models_dir` that belongs to the model, whether or not it exists."""
    if resolved.repo_id is None:
        return models_dir / resolved.reference.materialization_name()
    return models_dir / folder_name(resolved.repo_id, resolved.revision)


def materialize(
    resolved: ResolvedModel,
    models_dir: Path | None = None,
    force_download: bool = False,
    progress: Progress | None = None,
    cancel: CancelFlag | None = None,
    *,
    file_progress: Progress | None = None,
) -> Path:
    """Give the local folder of a model, checked; a hub model that is not here is downloaded.

    Parameters
    ----------
    resolved
        What the resolver found.
    models_dir
        Folder of managed models, where a download goes; ``None``, or the default folder that
        nobody chose, fills the hub's own cache.
    force_download
        Fetches a hub model's files again; without effect on local ones and the embedded one.
    progress, cancel
        See `ollm_widgets.models.download.download` and `gguf_to_safetensors`.

    Returns
    -------
    Path
        A folder that transformers loads: the local one, the hub's snapshot in place, or the
        safetensors made of a GGUF file.

    Raises
    ------
    UnsupportedModelError
        When the model was refused when it was resolved, or its folder is unsafe.
    GatedModelError
        When the repository asks for a licence to be accepted.
    ManagedModelDownloadError
        When the files are not here and could not be brought, or are not complete; each gap is
        listed.
    OutOfMemory
        When the disk has no room.
    Cancelled
        When `cancel` was set.
    """
    if not resolved.is_supported():
        raise resolved.refusal()
    raise_if_cancelled(cancel, f"Loading {resolved.display_name}")
    models_dir = models_dir or settings.default_models_dir()
    path = resolved.model_path
    if path is None or (force_download and _comes_from_the_hub(resolved)):
        path = _bring(
            resolved,
            models_dir,
            force_download,
            progress=progress,
            cancel=cancel,
            file_progress=file_progress,
        )
    gaps = find_gaps(path)
    if gaps:
        raise ManagedModelDownloadError(
            f"The files of {resolved.display_name} at {path} are not complete, "
            f"{len(gaps)} gap{'s' if len(gaps) > 1 else ''}: {' '.join(gaps)}",
            repo_id=resolved.repo_id or str(resolved.reference),
            folder=path,
            gaps=gaps,
            hint=download_hint(resolved) if resolved.repo_id else "Get the missing files.",
        )
    gguf = path if path.is_file() else _only_gguf(path)
    if gguf is not None:
        return gguf_to_safetensors(gguf, settings.cache_dir(), progress, cancel)
    check_folder(path)
    return path


def _comes_from_the_hub(resolved: ResolvedModel) -> bool:
    entry = resolved.catalog_entry
    embedded = entry is not None and entry.embedded and resolved.weight_format == "gguf"
    return resolved.is_downloadable() and not embedded


def _only_gguf(folder: Path) -> Path | None:
    """GGUF file of a folder without a config, as the hub's GGUF repositories are."""
    if (folder / "config.json").exists():
        return None
    return next(iter(find_gguf_files(folder)), None)


def _bring(
    resolved: ResolvedModel,
    models_dir: Path,
    force: bool,
    *,
    progress: Progress | None,
    cancel: CancelFlag | None,
    file_progress: Progress | None,
) -> Path:
    if not resolved.is_downloadable() or is_offline():
        raise _not_here(resolved, models_dir)
    managed = managed_folder(resolved, models_dir)
    # The default folder is for what is there already; new models join the hub's own cache.
    chosen = models_dir != settings.default_models_dir() or settings.models_dir_was_chosen()
    return download(
        resolved,
        models_dir=models_dir if chosen or managed.is_dir() else None,
        force=force,
        progress=progress,
        file_progress=file_progress,
        cancel=cancel,
    )


def _not_here(resolved: ResolvedModel, models_dir: Path) -> ManagedModelDownloadError:
    repo_id = resolved.repo_id or str(resolved.reference)
    folder = managed_folder(resolved, models_dir)
    message = f"{repo_id} is not on this machine (looked in {folder} and the hub cache)."
    if resolved.model_path is not None:
        message = f"{repo_id} is at {resolved.model_path}; it cannot be fetched again offline."
    gaps = find_gaps(folder) if folder.is_dir() else ()
    if gaps:
        message = (
            f"{repo_id} is not complete on this machine: {folder} has {len(gaps)} "
            f"gap{'s' if len(gaps) > 1 else ''}: {' '.join(gaps)}"
        )
    hint = download_hint(resolved, force=resolved.model_path is not None)
    if resolved.capabilities.gated:
        return GatedModelError(
            message,
            repo_id=repo_id,
            folder=folder,
            gaps=gaps,
            hint=f"Its licence must be accepted first: ask for access at "
            f"{hub_address()}/{repo_id} and log in with `hf auth login`. {hint}",
        )
    return ManagedModelDownloadError(message, repo_id=repo_id, folder=folder, gaps=gaps, hint=hint)

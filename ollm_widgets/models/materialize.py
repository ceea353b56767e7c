"""From a resolved model to a checked local folder that can be loaded."""

from __future__ import annotations

from pathlib import Path

from ollm_widgets import settings
from ollm_widgets.errors import GatedModelError, ManagedModelDownloadError
from ollm_widgets.models.absent import download_hint
from ollm_widgets.models.completeness import find_gaps
from ollm_widgets.models.conversion import gguf_to_safetensors
from ollm_widgets.models.hub_cache import hub_address
from ollm_widgets.models.job_control import CancelFlag, Progress, raise_if_cancelled
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.safety import check_folder

__all__ = ["gguf_to_safetensors", "managed_folder", "materialize"]


def managed_folder(resolved: ResolvedModel, models_dir: Path) -> Path:
    """Folder under `models_dir` that belongs to the model, whether or not it exists."""
    if resolved.repo_id is None:
        return models_dir / resolved.reference.materialization_name()
    suffix = f"@{resolved.revision}" if resolved.revision else ""
    reference = ModelReference.parse(f"hf:{resolved.repo_id}{suffix}")
    return models_dir / reference.materialization_name()


def materialize(
    resolved: ResolvedModel,
    models_dir: Path | None = None,
    force_download: bool = False,
    progress: Progress | None = None,
    cancel: CancelFlag | None = None,
) -> Path:
    """Give the local folder of a model, checked; nothing is downloaded.

    Parameters
    ----------
    resolved
        What the resolver found.
    models_dir
        Folder of managed models; ``None`` takes the default one.
    force_download
        Asks for files fresh from the hub; refused for hub models, without effect on local ones.
    progress, cancel
        See `gguf_to_safetensors`.

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
        When the files are not here and the repository asks for a licence to be accepted.
    ManagedModelDownloadError
        When the files are not here, or not complete; each gap is listed.
    Cancelled
        When `cancel` was set.
    """
    if not resolved.is_supported():
        raise resolved.refusal()
    raise_if_cancelled(cancel, f"Loading {resolved.display_name}")
    models_dir = models_dir or settings.default_models_dir()
    path = resolved.model_path
    if path is None:
        raise _not_here(resolved, models_dir)
    entry = resolved.catalog_entry
    embedded = entry is not None and entry.embedded
    if force_download and resolved.is_downloadable() and not embedded:
        raise ManagedModelDownloadError(
            f"{resolved.display_name} is at {path}; this version does not download.",
            repo_id=resolved.repo_id or str(resolved.reference),
            folder=path,
            hint=download_hint(resolved, force=True),
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
    if path.is_file():
        return gguf_to_safetensors(path, settings.cache_dir(), progress, cancel)
    check_folder(path)
    return path


def _not_here(resolved: ResolvedModel, models_dir: Path) -> ManagedModelDownloadError:
    repo_id = resolved.repo_id or str(resolved.reference)
    folder = managed_folder(resolved, models_dir)
    message = f"{repo_id} is not on this machine (looked in {folder} and the hub cache)."
    gaps = find_gaps(folder) if folder.is_dir() else ()
    if gaps:
        message = (
            f"{repo_id} is not complete on this machine: {folder} has {len(gaps)} "
            f"gap{'s' if len(gaps) > 1 else ''}: {' '.join(gaps)}"
        )
    hint = download_hint(resolved)
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

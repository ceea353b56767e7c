"""What a model on the hub is, before it is downloaded: its config and tensor headers only."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ollm_widgets.errors import UnsafeModelError, UnsupportedModelError
from ollm_widgets.models.examination import examine_elsewhere
from ollm_widgets.models.facts import Examination
from ollm_widgets.models.hub_cache import hub_address
from ollm_widgets.models.hub_errors import hub_errors
from ollm_widgets.models.hub_faults import host_of
from ollm_widgets.models.hub_files import HubFiles
from ollm_widgets.models.inspection import describe
from ollm_widgets.models.inventory import weight_files
from ollm_widgets.models.job_control import CancelFlag, raise_if_cancelled
from ollm_widgets.models.metered_files import MeteredFiles
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.remote_gguf import examine_remote_gguf
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.resolver import ModelResolver
from ollm_widgets.models.runtime_files import gguf_names

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_COMMIT = re.compile(r"[0-9a-f]{40}")
_INFO_TIMEOUT_S = 15.0
_LONGEST_LICENCE = 80


@dataclass(frozen=True, slots=True)
class _Repository:
    files: HubFiles
    commit: str
    licence: str | None
    gated: bool


def inspect_remote(
    reference: ModelReference | str | os.PathLike[str],
    resolver: ModelResolver | None = None,
    endpoint: str | None = None,
    *,
    limit_bytes: int | None = None,
    cancel: CancelFlag | None = None,
) -> ResolvedModel:
    """Read what a hub model is, so that it can be planned before it is downloaded.

    One request for the list of files, one for each JSON file, one (rarely two) for each
    safetensors file's header; no weights.

    Parameters
    ----------
    reference
        A catalog alias or a hub repository, with or without revision.
    resolver
        Knows the catalog, and answers with the result from now on while the files are not here;
        ``None`` takes a new one.
    endpoint
        Address of the hub; ``None`` takes the one ``huggingface_hub`` uses.
    limit_bytes
        The most bytes of files to ask for; ``None`` for no limit of its own.
    cancel
        Looked at before each request.

    Returns
    -------
    ResolvedModel
        With shape, weights and capabilities, and without `model_path`. A model that cannot run
        comes back unsupported, with the reason.

    Raises
    ------
    ModelReferenceError
        When the text is no reference.
    UnsupportedModelError
        When it names no hub repository, or the hub has none of that name.
    GatedModelError
        When its licence must be accepted before its files can be read.
    HubUnavailableError
        When the hub cannot be asked; at once when ``HF_HUB_OFFLINE`` is set. And when the
        files to read are more than `limit_bytes`.
    Cancelled
        When `cancel` was set.
    """
    raise_if_cancelled(cancel, f"Reading {reference}")
    resolver = resolver or ModelResolver()
    known = resolver.resolve(reference)
    repo_id = known.repo_id
    if repo_id is None or not known.is_downloadable():
        raise _no_repository(known)
    endpoint = (endpoint or hub_address()).rstrip("/")
    with hub_errors(endpoint, repo_id, known.revision):
        repository = _ask(repo_id, known.revision, endpoint, limit_bytes, cancel)
        found = _examine(repository.files)
    found = replace(
        found,
        licence=repository.licence or found.licence,
        gated=repository.gated,
        details=(*found.details, f"Read on {host_of(endpoint)} at {repository.commit[:8]}."),
    )
    model = describe(
        known.reference, found, known.source_kind, repo_id, known.revision, known.catalog_entry
    )
    if found.refusal is None:
        message = f"{repo_id} is on {host_of(endpoint)}, not on this machine."
        if found.gaps:
            message = f"{repo_id} is incomplete on {host_of(endpoint)}: {' '.join(found.gaps)}"
        model = replace(model, resolution_message=message)
    resolver.remember(model)
    return model


def _no_repository(known: ResolvedModel) -> UnsupportedModelError:
    if known.reference.local_path is None and not known.is_supported():
        return known.refusal()
    return UnsupportedModelError(
        f"{known.reference} is at {known.model_path}, not on the hub.",
        hint="Resolve it instead: it needs no network.",
    )


def _ask(
    repo_id: str,
    revision: str | None,
    endpoint: str,
    limit_bytes: int | None,
    cancel: CancelFlag | None,
) -> _Repository:
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint, library_name="ollm-widgets").model_info(
        repo_id, revision=revision, files_metadata=True, timeout=_INFO_TIMEOUT_S
    )
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise ValueError("the hub's reply names no commit")
    sizes: dict[str, int] = {}
    for sibling in info.siblings or ():
        size_bytes = sibling.lfs.size if sibling.lfs else sibling.size
        if not isinstance(size_bytes, int) or size_bytes < 0:
            raise ValueError("the hub's reply gives no size of a file")
        sizes[sibling.rfilename] = size_bytes
    files = MeteredFiles(repo_id, info.sha, endpoint, sizes, limit_bytes=limit_bytes, cancel=cancel)
    return _Repository(files, info.sha, licence_of(info), bool(info.gated))


def _examine(files: HubFiles) -> Examination:
    try:
        names = weight_files(files)
        ggufs = gguf_names(files.names())
        if ggufs and not names:
            return examine_remote_gguf(files, ggufs)
        files.fetch_headers(names)
    except UnsafeModelError as error:
        return Examination(None, files.place).refused(error)
    except UnsupportedModelError:
        # A damaged index; the examination says so among everything else that it finds.
        pass
    return examine_elsewhere(files)


def licence_of(info: ModelInfo) -> str | None:
    """Licence id that the hub shows for a repository."""
    for tag in info.tags or ():
        if tag.startswith("license:"):
            return tag.removeprefix("license:")[:_LONGEST_LICENCE] or None
    card = info.card_data
    stated = card.get("license") if card is not None else None
    return stated[:_LONGEST_LICENCE] if isinstance(stated, str) and stated else None

"""What is said of a model whose files are not on this machine, or that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from ollm_widgets.models.capabilities import (
    DEFAULT_REASONS,
    UNREAD,
    CapabilityProfile,
    Reason,
    level_of,
    reasons_of,
)
from ollm_widgets.models.catalog import CatalogEntry
from ollm_widgets.models.decoders import decoder_obstacle
from ollm_widgets.models.embedded import INSTALL_HINT
from ollm_widgets.models.examination import unsupported_kind_text
from ollm_widgets.models.hub_cache import is_offline
from ollm_widgets.models.kinds import NATIVE_KINDS
from ollm_widgets.models.quantization import EXPANDABLE, Quantization
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolved import ResolvedModel

_HUB_ADDRESSES = ("https://huggingface.co/", "http://huggingface.co/", "huggingface.co/")


def absent_catalog_model(
    reference: ModelReference, entry: CatalogEntry, looked_in: str
) -> ResolvedModel:
    """Describe a catalog model that is not here, from the catalog's facts."""
    kind = entry.generic_model_kind
    refusal = None if kind in NATIVE_KINDS else unsupported_kind_text(kind)
    quantization = Quantization(entry.dtype) if entry.dtype in EXPANDABLE else None
    obstacle = decoder_obstacle(kind, quantization, None, None, entry.layers)
    level = level_of(refusal, obstacle)
    return ResolvedModel(
        reference=reference,
        source_kind="builtin",
        normalized_name=entry.alias,
        capabilities=CapabilityProfile(
            support_level=level,
            modalities=entry.modalities,
            requires_processor=len(entry.modalities) > 1,
            supports_specialization=level == "optimized",
            details=("These are the catalog's facts; the files are not on this machine.",),
            parameters=entry.parameters,
            bytes_on_disk=entry.bytes_on_disk,
            dtype=entry.dtype,
            context_length=entry.context_length,
            layers=entry.layers,
            experts=entry.experts,
            active_experts=entry.active_experts,
            licence=entry.licence,
            gated=entry.gated,
            reasons=reasons_of(entry.modalities, refusal, obstacle),
        ),
        repo_id=entry.repo_id,
        catalog_entry=entry,
        native_family=entry.native_family,
        generic_model_kind=kind,
        quantization=quantization,
        resolution_message=refusal or f"{entry.repo_id} is not on this machine ({looked_in}).",
        problem=None if refusal is None else "unsupported",
    )


def absent_hub_model(
    reference: ModelReference, repo_id: str, looked_in: str, entry: CatalogEntry | None = None
) -> ResolvedModel:
    """Describe a hub repository that is not here; `entry` lends its licence and gating."""
    return ResolvedModel(
        reference=reference,
        source_kind="hugging-face",
        normalized_name=repo_id,
        capabilities=CapabilityProfile(
            support_level="generic",
            details=("Its config and tensor headers are read once its files are here.",),
            licence=entry.licence if entry else None,
            gated=entry.gated if entry else None,
            reasons=(*DEFAULT_REASONS, Reason("supports_specialization", UNREAD)),
        ),
        repo_id=repo_id,
        revision=reference.revision,
        resolution_message=f"{repo_id} is not on this machine ({looked_in}).",
    )


def unknown_model(
    reference: ModelReference, managed: Path, catalog: Sequence[CatalogEntry]
) -> ResolvedModel:
    """Describe a name that nothing was found under: what was tried, and what may be meant."""
    message = (
        f"Nothing was found under {str(reference)!r}: it is no path on this machine, no catalog "
        f"alias, no hub repository (org/name), and {managed} is no folder. "
        f"{_suggestion(reference, catalog)}"
    )
    return ResolvedModel(
        reference=reference,
        source_kind="opaque",
        normalized_name=reference.identifier,
        capabilities=CapabilityProfile(
            support_level="unsupported",
            supports_local_materialization=False,
            reasons=(
                *reasons_of(("text",), message, ""),
                Reason("supports_local_materialization", "There is nothing to bring."),
            ),
        ),
        revision=reference.revision,
        resolution_message=message,
        problem="unsupported",
    )


def _suggestion(reference: ModelReference, catalog: Sequence[CatalogEntry]) -> str:
    text = reference.identifier
    for address in _HUB_ADDRESSES:
        if text.startswith(address):
            repo_id = "/".join(text.removeprefix(address).split("/")[:2])
            return f"Did you mean {repo_id}?"
    aliases = {entry.alias.casefold(): entry.alias for entry in catalog}
    close = difflib.get_close_matches(text.casefold(), aliases, n=1, cutoff=0.55)
    if close:
        return f"Did you mean {aliases[close[0]]}?"
    return f"The aliases are {', '.join(aliases.values())}."


def download_hint(resolved: ResolvedModel, force: bool = False) -> str:
    """Say how a person gets the files of a hub model: by loading it, unless offline."""
    command = f"hf download {resolved.repo_id}"
    if resolved.revision:
        command += f" --revision {resolved.revision}"
    if force:
        command += " --force-download"
    hint = (
        f"HF_HUB_OFFLINE is set: download it once with `{command}`, then load again."
        if is_offline()
        else f"Load downloads it; so does `{command}`."
    )
    entry = resolved.catalog_entry
    if entry is not None and entry.embedded:
        return f"{INSTALL_HINT} Or: {hint}"
    return hint

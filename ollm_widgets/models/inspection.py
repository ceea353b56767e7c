"""From a model's files to a `ResolvedModel`."""

from __future__ import annotations

from pathlib import Path

from ollm_widgets.models.capabilities import CapabilityProfile, Reason, level_of, reasons_of
from ollm_widgets.models.catalog import CatalogEntry
from ollm_widgets.models.examination import examine
from ollm_widgets.models.facts import Examination
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolved import ResolvedModel, SourceKind

NO_CHAT_TEMPLATE = "The model's files carry no chat template; text reaches the model as typed."


def inspect_materialized_model(  # noqa: PLR0917  (a public signature, called by position too)
    reference: ModelReference | str,
    path: Path,
    source_kind: SourceKind,
    repo_id: str | None = None,
    revision: str | None = None,
    catalog_entry: CatalogEntry | None = None,
) -> ResolvedModel:
    """Say what the model at `path` is, from its config and tensor headers.

    No weights are read, no code of the model is run, nothing is downloaded. A model that is
    damaged, unsafe or of an unknown kind comes back unsupported, with the reason as its
    `resolution_message`.

    Parameters
    ----------
    reference
        What was asked for.
    path
        Model folder, ``.gguf`` file, or ``.safetensors`` file beside its config.
    source_kind
        How the reference was understood.
    repo_id, revision, catalog_entry
        Where the files come from, where that is known.
    """
    if isinstance(reference, str):
        reference = ModelReference.parse(reference)
    return describe(reference, examine(path), source_kind, repo_id, revision, catalog_entry)


def describe(  # noqa: PLR0917  (the order of `inspect_materialized_model`)
    reference: ModelReference,
    found: Examination,
    source_kind: SourceKind,
    repo_id: str | None = None,
    revision: str | None = None,
    catalog_entry: CatalogEntry | None = None,
) -> ResolvedModel:
    """Put what an examination found together with how the model was asked for.

    Parameters
    ----------
    found
        The examination's facts; the other parameters are those of `inspect_materialized_model`.
    """
    entry = catalog_entry
    name = entry.alias if entry is not None else repo_id
    return ResolvedModel(
        reference=reference,
        source_kind=source_kind,
        normalized_name=name or found.place,
        capabilities=_profile(found, entry),
        model_path=found.path,
        repo_id=repo_id,
        revision=revision,
        catalog_entry=entry,
        native_family=entry.native_family if entry is not None else found.model_type,
        architecture=found.architecture,
        model_type=found.model_type,
        generic_model_kind=found.kind,
        resolution_message=_message(found),
        shape=found.shape,
        weights=found.weights,
        weight_format=found.weight_format,
        quantization=found.quantization,
        problem=found.problem,
    )


def _message(found: Examination) -> str:
    if found.refusal is not None:
        return found.refusal
    if found.gaps:
        return f"Found at {found.place}, incomplete: {' '.join(found.gaps)}"
    return f"Found at {found.place}."


def _profile(found: Examination, entry: CatalogEntry | None) -> CapabilityProfile:
    level = level_of(found.refusal, found.obstacle)
    reasons = list(reasons_of(found.modalities, found.refusal, found.obstacle))
    if found.gaps:
        reasons.append(Reason("supports_local_materialization", " ".join(found.gaps)))
    if found.has_chat_template is False:
        reasons.append(Reason("has_chat_template", NO_CHAT_TEMPLATE))
    weights, shape = found.weights, found.shape
    return CapabilityProfile(
        support_level=level,
        modalities=found.modalities,
        requires_processor=len(found.modalities) > 1,
        supports_local_materialization=not found.gaps,
        supports_specialization=level == "optimized",
        details=found.details,
        parameters=weights.parameters if weights else None,
        bytes_on_disk=weights.total_bytes if weights else None,
        dtype=found.dtype,
        context_length=(shape.context_length or None) if shape else None,
        layers=found.layers,
        has_chat_template=found.has_chat_template,
        experts=found.experts,
        active_experts=found.active_experts,
        licence=found.licence or (entry.licence if entry else None),
        gated=found.gated if found.gated is not None else (entry.gated if entry else None),
        reasons=tuple(reasons),
    )

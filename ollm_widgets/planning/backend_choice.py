"""Which backend a plan uses, and what stands against it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ollm_widgets.errors import OllmError
from ollm_widgets.models.adapter import inspect_adapter
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.device_choice import fits_elsewhere
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.ids import BackendId
from ollm_widgets.planning.specialization import SpecializationMatch, SpecializationRegistry
from ollm_widgets.planning.traits import BackendTraits

_NATIVE: BackendId = "optimized-native"
_GENERIC: BackendId = "transformers-generic"


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A backend, or why there is none.

    Parameters
    ----------
    backend_id
        None when nothing can run the model.
    traits
        The backend's, or those by which an impossible plan is drawn.
    obstacles
        What stands against it, in sentences.
    notes
        What else a person may want to know of the choice.
    match
        The specialization passes it would apply.
    """

    backend_id: BackendId | None
    traits: BackendTraits
    obstacles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    match: SpecializationMatch | None = None


def choose_backend(
    resolved: ResolvedModel,
    config: RuntimeConfig,
    machine: Machine,
    offered: tuple[BackendTraits, ...],
    registry: SpecializationRegistry,
) -> BackendChoice:
    """Choose: the backend asked for, else a matching specialization, else the generic one."""
    by_id = {traits.backend_id: traits for traits in offered}
    fallback = by_id.get(_GENERIC, offered[0])
    if not resolved.is_supported():
        return BackendChoice(None, fallback, (resolved.resolution_message,))
    if config.backend is not None:
        traits = by_id.get(config.backend)
        if traits is None:
            known = ", ".join(by_id)
            return BackendChoice(
                config.backend,
                fallback,
                (f"{config.backend} was asked for, but only {known} is registered here.",),
            )
        found = registry.find(resolved) if traits.backend_id == _NATIVE else None
        obstacles = _obstacles(resolved, config, traits)
        if traits.backend_id == _NATIVE and found is None and not obstacles:
            why = registry.refusal(resolved).rstrip(".")
            obstacles = (f"optimized-native cannot run this model: {why}.",)
        notes = () if obstacles else _notes(config)
        return BackendChoice(config.backend, traits, obstacles, notes, match=found)
    native = by_id.get(_NATIVE)
    notes = ()
    if native is not None and config.use_specialization:
        found = registry.find(resolved)
        against = _obstacles(resolved, config, native)
        elsewhere = ""
        if not _obstacles(resolved, config, fallback):
            elsewhere = fits_elsewhere(resolved, config, machine, native, fallback)
        if not against and found is not None and not elsewhere:
            return BackendChoice(_NATIVE, native, notes=_notes(config), match=found)
        why = native.unavailable or next(iter(against), "")
        why = why or (registry.refusal(resolved) if found is None else elsewhere)
        notes = (f"optimized-native was not chosen: {why.rstrip('.')}.",)
    obstacles = _obstacles(resolved, config, fallback)
    notes += () if obstacles else _notes(config)
    return BackendChoice(fallback.backend_id, fallback, obstacles, notes)


def _notes(config: RuntimeConfig) -> tuple[str, ...]:
    if not config.multimodal:
        return ()
    return (
        "Images are taken: the vision part is on the device that computes, and counted with the "
        "embeddings.",
    )


def _obstacles(
    resolved: ResolvedModel, config: RuntimeConfig, traits: BackendTraits
) -> tuple[str, ...]:
    obstacles = []
    if traits.unavailable:
        obstacles.append(f"{traits.backend_id} cannot run here: {traits.unavailable.rstrip('.')}.")
    kind = resolved.generic_model_kind
    sees = config.multimodal and kind in traits.image_kinds
    if kind is not None and kind not in traits.generic_kinds and not sees:
        kinds = ", ".join(sorted(traits.generic_kinds))
        hint = " It runs with multimodal=True." if kind in traits.image_kinds else ""
        obstacles.append(
            f"{traits.backend_id} runs models of kind {kinds}; this one is {kind}.{hint}"
        )
    if config.adapter_dir is not None and not traits.supports_adapter:
        obstacles.append(
            f"adapter_dir: {_adapter(config.adapter_dir, resolved)} {traits.backend_id} does not "
            "lay adapters over a model in this version. Merge the adapter into the model's "
            "weights first, and leave it empty."
        )
    if config.multimodal and (why := _why_no_images(resolved, traits)):
        obstacles.append(f"multimodal: {why}")
    device_kind = config.device.partition(":")[0]
    # A cluster is no matter of the backend; see `device_choice`.
    if device_kind not in ("auto", "ray") and device_kind not in traits.device_kinds:
        kinds = ", ".join(sorted(traits.device_kinds))
        obstacles.append(
            f"device: {traits.backend_id} computes on {kinds}, not on {device_kind}. "
            "Leave the device on auto, or the backend empty."
        )
    return tuple(obstacles)


def _why_no_images(resolved: ResolvedModel, traits: BackendTraits) -> str:
    """Why a model cannot be given images, and what to do; empty where it can."""
    modalities = resolved.capabilities.modalities
    if modalities == ("text",):
        return "this model takes text only. Set multimodal=False."
    if "image" not in modalities:
        return "audio is not given to models in this version. Set multimodal=False."
    if resolved.generic_model_kind not in traits.image_kinds:
        return f"{traits.backend_id} gives models text only. Set multimodal=False."
    if find_spec("PIL") is None:
        return (
            "reading images needs Pillow, which is not installed. Run pip install "
            "'ollm-widgets[images]', or set multimodal=False."
        )
    return ""


def _adapter(folder: Path | str, base: ResolvedModel) -> str:
    """Say what is in the adapter's folder, and whether it is for this model."""
    try:
        profile = inspect_adapter(Path(folder).expanduser())
    except OllmError as error:
        return error.message
    return profile.mismatch_with(base) or f"{profile.summary()}."

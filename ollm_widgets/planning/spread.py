"""When a model takes several GPUs, and which."""

from __future__ import annotations

from dataclasses import replace

from ollm_widgets.planning.device_choice import accelerators_for, on_device
from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.draft import Draft, placed
from ollm_widgets.planning.memory import device_available_bytes


def arranged(draft: Draft) -> Draft:
    """Place the layers on the draft's device, or across GPUs where no single one holds them all.

    Across the fewest on which all layers stay; else across all of them, so that their wires
    carry at the same time, but for those that are too small to take part. Steps across GPUs are
    not captured, so a single one may still be the faster, and then it is alone.
    """
    draft = replace(draft, devices=(), shares=())
    alone = placed(draft)
    gpus = _gpus(draft)
    if len(gpus) < 2:
        return alone
    choice = on_device(gpus[0], draft.config, draft.demand)
    demand = draft.demand.on("cuda")
    footprint = demand.footprint(choice.dtype, "cuda")
    roomiest = replace(draft, choice=choice, demand=demand, footprint=footprint)
    if footprint.needed_bytes <= device_available_bytes(gpus[0], draft.config):
        return placed(roomiest) if alone.run.streams else alone
    across = _across(roomiest, gpus)
    on_gpu = alone.choice.device.kind != "cpu"
    if across is None:
        return alone
    if not across.memory().fits:
        # Nothing fits: what was asked for is shown where it comes closest.
        return across if on_gpu and not alone.memory().fits else alone
    sooner = on_gpu and alone.token_s < across.token_s
    return alone if sooner and alone.memory().fits else across


def _across(draft: Draft, gpus: tuple[Device, ...]) -> Draft | None:
    """Place the layers across GPUs; None where only one of them takes part."""
    for count in range(2, len(gpus) + 1):
        if _may_stay(draft, gpus[:count]):
            across = placed(replace(draft, devices=gpus[:count]))
            if across.spreads and not across.run.streams and across.memory().fits:
                return across
    widest: Draft | None = None
    for count in range(len(gpus), 1, -1):
        across = placed(replace(draft, devices=gpus[:count]))
        if across.spreads and across.memory().fits:
            return across
        widest = widest or across
    return widest if widest is not None and widest.spreads else None


def _may_stay(draft: Draft, devices: tuple[Device, ...]) -> bool:
    """Whether these devices have the bytes for all layers, if those could be cut."""
    asked, sizes = draft.config.offload_gpu_layers, draft.footprint.sizes
    if sizes is None or draft.config.offload_cpu_layers:
        return False
    if asked is not None and asked < len(sizes.layer_bytes):
        return False
    room = sum(device_available_bytes(device, draft.config) for device in devices)
    return draft.footprint.needed_bytes - draft.footprint.activations_bytes <= room


def _gpus(draft: Draft) -> tuple[Device, ...]:
    """The GPUs a model may take, the roomiest first; none where one was asked for by number."""
    config, traits, sizes = draft.config, draft.backend.traits, draft.footprint.sizes
    free = config.device in ("auto", "cuda") and traits.supports_streaming
    if not free or sizes is None or not sizes.layer_bytes:
        return ()
    found = accelerators_for(config, draft.demand, draft.machine, traits)
    gpus = [device for device in found if device.kind == "cuda"]
    # One dtype for all: no arithmetic that one of them would have to imitate.
    return tuple(device for device in gpus if device.native_bf16 == gpus[0].native_bf16)

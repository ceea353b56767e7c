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
    carry at the same time, but for those that are too small to take part.
    """
    draft = replace(draft, devices=(), shares=())
    alone = placed(draft)
    gpus = _gpus(draft)
    if len(gpus) < 2:
        return alone
    choice = on_device(gpus[0], draft.config, draft.demand)
    footprint = draft.demand.footprint(choice.dtype, "cuda")
    roomiest = replace(draft, choice=choice, footprint=footprint)
    if footprint.needed_bytes <= device_available_bytes(gpus[0], draft.config):
        return placed(roomiest) if alone.run.streams else alone
    tried = [placed(replace(roomiest, devices=gpus[:count])) for count in range(2, len(gpus) + 1)]
    fitting = [each for each in tried if each.spreads and each.memory().fits]
    for each in fitting:
        if not each.run.streams:
            return each
    if fitting:
        return fitting[-1]
    # Nothing fits: what was asked for is shown where it comes closest.
    refused = not alone.memory().fits and alone.choice.device.kind != "cpu"
    return tried[-1] if refused and tried[-1].spreads else alone


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

"""Why the layers are where they are, in a sentence for people."""

from __future__ import annotations

from dataclasses import replace

from ollm_widgets.planning.draft import Draft
from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.render.units import format_seconds


def why_placed(draft: Draft) -> tuple[str, ...]:
    """Say what a layer saves where it stays; nothing where none streams, or nothing runs.

    The saving is that of the last of them, by the same formula by which they were placed.
    """
    if not draft.run.streams or draft.choice.obstacle or not draft.memory().fits:
        return ()
    on_cpu = draft.choice.device.kind == "cpu"
    tiers, total = draft.placement.tiers, len(draft.placement.tiers)
    own: LayerTier = "host" if on_cpu else "accelerator"
    place = "in RAM" if on_cpu else "on the GPUs" if draft.spreads else "on the GPU"
    kept = tiers.count(own)
    slower: LayerTier = "disk" if draft.placement.disk_layers else "host"
    asked = draft.config.offload_cpu_layers if on_cpu else draft.config.offload_gpu_layers
    rule = ", as asked" if asked is not None else ""
    stay = f"{kept} of {total} layers {'stays' if kept == 1 else 'stay'} {place}{rule}"
    said = [f"{stay}: {_saving(draft, own, slower)}" if kept else f"{stay}."]
    if draft.placement.disk_layers and draft.placement.host_layers and not on_cpu:
        in_host = draft.placement.host_layers
        rule = ", as asked" if draft.config.offload_cpu_layers is not None else ""
        said.append(
            f"{in_host} of the others {'is' if in_host == 1 else 'are'} in RAM{rule}: "
            f"{_saving(draft, 'host', 'disk')}"
        )
    return (" ".join(said),)


def _saving(draft: Draft, tier: LayerTier, slower: LayerTier) -> str:
    tiers = list(draft.placement.tiers)
    tiers[len(tiers) - 1 - tiers[::-1].index(tier)] = slower
    moved = replace(draft, placement=replace(draft.placement, tiers=tuple(tiers)))
    saved_s = moved.token_s - draft.token_s
    if saved_s <= 0:
        return "a token takes no longer with one layer less."
    return f"each kept one saves {format_seconds(saved_s)} a token."

"""Where layers shall go when a person changes the counts of a loaded model."""

from __future__ import annotations

from dataclasses import replace

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.ids import OffloadPolicy
from ollm_widgets.planning.parts import LayerPlacement
from ollm_widgets.planning.placement import place_layers


def moved_placement(
    now: LayerPlacement,
    accelerator_layers: int | None,
    host_layers: int | None,
    policy: OffloadPolicy,
    *,
    on_cpu: bool,
) -> LayerPlacement:
    """Return the placement with other counts; None keeps a count as far as the other allows.

    Raises
    ------
    ConfigError
        If the model has fewer layers, or runs where there is no accelerator.
    """
    layers = len(now.tiers)
    if on_cpu and accelerator_layers:
        raise ConfigError(
            "offload_gpu_layers",
            f"{accelerator_layers} layers on an accelerator were asked for, and this model runs "
            "on the CPU.",
            hint="Load it on a GPU, or set offload_cpu_layers.",
        )
    asked = {"offload_gpu_layers": accelerator_layers, "offload_cpu_layers": host_layers}
    for name, count in asked.items():
        if count is not None and not 0 <= count <= layers:
            raise ConfigError(name, f"{count} layers were asked for, the model has {layers}.")
    if accelerator_layers is not None and host_layers is not None:
        on_accelerator, in_host = accelerator_layers, host_layers
        if on_accelerator + in_host > layers:
            raise ConfigError(
                "offload_cpu_layers",
                f"{on_accelerator} + {in_host} layers were asked for, the model has {layers}.",
            )
    elif accelerator_layers is not None:
        on_accelerator = accelerator_layers
        in_host = min(now.host_layers + now.accelerator_layers, layers) - on_accelerator
        in_host = max(in_host, 0)
    else:
        in_host = now.host_layers if host_layers is None else host_layers
        on_accelerator = min(now.accelerator_layers, layers - in_host)
    return replace(place_layers(layers, on_accelerator, in_host, policy), devices=now.devices)

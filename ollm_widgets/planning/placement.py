"""Which tier each decoder layer is in."""

from __future__ import annotations

from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.ids import LayerTier, OffloadPolicy
from ollm_widgets.planning.parts import LayerPlacement
from ollm_widgets.planning.traits import BackendTraits


def place_layers(
    layers: int, accelerator_layers: int, host_layers: int, policy: OffloadPolicy = "auto"
) -> LayerPlacement:
    """Place layers by count; what is in neither memory is read from disk.

    Parameters
    ----------
    layers
        Decoder layers of the model.
    accelerator_layers, host_layers
        How many stay on the accelerator and in host memory; together at most `layers`.
    policy
        Which are the host's: the first, the last, or those in the middle. ``auto`` is the
        last, so that the accelerator starts at once on layers it holds, and other counts move
        few layers.
    """
    start = first_of_host(layers, host_layers, policy)
    left = accelerator_layers
    tiers: list[LayerTier] = []
    for index in range(layers):
        if start <= index < start + host_layers:
            tiers.append("host")
        elif left:
            tiers.append("accelerator")
            left -= 1
        else:
            tiers.append("disk")
    return LayerPlacement(tuple(tiers))


def first_of_host(layers: int, host_layers: int, policy: OffloadPolicy) -> int:
    """Return the first of the layers in host memory."""
    if policy == "prefix":
        return 0
    if policy == "middle-band":
        return (layers - host_layers) // 2
    return layers - host_layers


def count_obstacle(config: RuntimeConfig, layers: int) -> str:
    """Say why the layer counts cannot be had from a model of `layers` layers; empty if they can."""
    gpu, cpu = config.offload_gpu_layers, config.offload_cpu_layers
    for name, count in (("offload_gpu_layers", gpu), ("offload_cpu_layers", cpu)):
        if count is not None and count > layers:
            return f"{name}: {count:,} layers were asked for, the model has {layers}."
    if gpu is not None and cpu is not None and gpu + cpu > layers:
        return (
            f"offload_gpu_layers and offload_cpu_layers: {gpu} + {cpu} layers were asked for, "
            f"the model has {layers}."
        )
    return ""


def offload_obstacle(
    config: RuntimeConfig, traits: BackendTraits, device: Device, layers: int
) -> str:
    """Say why layers cannot be placed as asked; empty if they can, or nothing was asked.

    Asking for what happens anyway is granted: no layer on an accelerator and all in RAM on a
    CPU, all on the accelerator and none in RAM on a GPU.
    """
    gpu, cpu = config.offload_gpu_layers, config.offload_cpu_layers
    if gpu is None and cpu is None:
        return ""
    if layers:
        too_many = count_obstacle(config, layers)
        if too_many:
            return too_many
    on_cpu = device.kind == "cpu"
    if on_cpu and gpu:
        return (
            f"offload_gpu_layers: {gpu} layers on an accelerator were asked for, but this plan "
            "runs on the CPU. Leave it empty, or set it to 0."
        )
    own, other = (cpu, gpu) if on_cpu else (gpu, cpu)
    granted = other in (None, 0) and (own is None or (own == layers and layers > 0))
    if granted or traits.supports_streaming:
        return ""
    place = "in RAM" if on_cpu else "on the accelerator"
    whole = f"all {layers} layers are {place}" if layers else f"all layers are {place}"
    return f"{_asked(gpu, cpu)} cannot be had: {traits.offload_reason} Here {whole}."


def _asked(gpu: int | None, cpu: int | None) -> str:
    parts = []
    if gpu is not None:
        parts.append(f"offload_gpu_layers={gpu}")
    if cpu is not None:
        parts.append(f"offload_cpu_layers={cpu}")
    return " with ".join(parts)

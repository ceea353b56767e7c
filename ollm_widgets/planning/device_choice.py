"""Which device a plan runs on, in which dtype, and whether the model fits there."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device, Machine, choose_dtype
from ollm_widgets.planning.footprint import Demand
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.kv_choice import kept_by_window, kv_budget_bytes, planned_context
from ollm_widgets.planning.memory import device_available_bytes
from ollm_widgets.planning.traits import BackendTraits
from ollm_widgets.planning.weights import layer_count
from ollm_widgets.render.units import format_memory


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device and how the model would be on it.

    Parameters
    ----------
    device
        Where it runs; the CPU when what was asked for does not exist.
    name
        The device's name, or what was asked for.
    dtype
        What it computes in.
    why
        Why this device, and not another; empty when there is nothing to say.
    obstacle
        Why the device asked for cannot be had.
    """

    device: Device
    name: str
    dtype: DType
    why: str = ""
    obstacle: str = ""


def choose_device(
    config: RuntimeConfig, demand: Demand, machine: Machine, traits: BackendTraits
) -> DeviceChoice:
    """Choose: the device asked for, else an accelerator that holds the model, else the CPU.

    An accelerator through which the layers can stream holds any model whose other parts fit.
    """
    if config.device != "auto":
        device = machine.find(config.device)
        if device is None:
            dtype, _ = _dtype_on(machine.cpu, config, demand)
            return DeviceChoice(
                machine.cpu, config.device, dtype, obstacle=_missing(config.device, machine)
            )
        return on_device(device, config, demand)
    candidates = accelerators_for(config, demand, machine, traits)
    for device in candidates:
        if _fits(device, config, demand):
            return on_device(device, config, demand)
    if _wants_accelerator(config) and candidates:
        return on_device(candidates[0], config, demand)
    on_cpu = on_device(machine.cpu, config, demand)
    if not candidates:
        return on_cpu
    best = candidates[0]
    dtype, _ = _dtype_on(best, config, demand)
    needed = format_memory(demand.must_hold_bytes(dtype, best.kind))
    room = format_memory(device_available_bytes(best, config))
    why = f"{best.title} is too small: {needed} in {dtype}, and {room} may be used."
    return DeviceChoice(on_cpu.device, "cpu", on_cpu.dtype, f"{why} {on_cpu.why}".strip())


def fit_obstacle(choice: DeviceChoice, config: RuntimeConfig, demand: Demand) -> str:
    """Say by how much the model does not fit on its device, and what would; empty if it fits."""
    device = choice.device
    available_bytes = device_available_bytes(device, config)
    needed_bytes = demand.footprint(choice.dtype, device.kind).needed_bytes
    if needed_bytes <= available_bytes:
        return ""
    place = "RAM" if device.kind == "cpu" else f"the memory of {device.title}"
    budget = config.cpu_memory_budget if device.kind == "cpu" else config.gpu_memory_budget
    limit = (
        f"{format_memory(device.free_bytes)} are free, less a margin" if budget is None else
        f"a budget of {budget}, and {format_memory(device.free_bytes)} free"
    )  # fmt: skip
    return (
        f"It needs {format_memory(needed_bytes)} of {place} in {choice.dtype}, and "
        f"{format_memory(available_bytes)} may be used ({limit}). "
        f"{_way_out(choice, config, demand, available_bytes)}"
    )


def demand_of(resolved: ResolvedModel, config: RuntimeConfig, traits: BackendTraits) -> Demand:
    """Say what a model needs under a config and a backend, for any dtype and device."""
    return Demand(
        resolved,
        planned_context(config, resolved),
        kept_by_window(config, resolved),
        config.use_cache,
        streams=traits.supports_streaming,
        chunk_tokens=config.dense_projection_chunk_rows,
        chunk_was_asked=config.dense_projection_chunk_rows is not None,
        kv_budget_bytes=kv_budget_bytes(config),
    )


def fits_elsewhere(
    resolved: ResolvedModel,
    config: RuntimeConfig,
    machine: Machine,
    traits: BackendTraits,
    other: BackendTraits,
) -> str:
    """Say that `other` runs the model on an accelerator which `traits` cannot use; else empty."""
    if config.device != "auto" or accelerators_for(
        config, demand_of(resolved, config, traits), machine, traits
    ):
        return ""
    demand = demand_of(resolved, config, other)
    for device in accelerators_for(config, demand, machine, other):
        if device.kind not in traits.device_kinds and _fits(device, config, demand):
            return f"it does not compute on {device.title}, which holds the whole model"
    return ""


def accelerators_for(
    config: RuntimeConfig, demand: Demand, machine: Machine, traits: BackendTraits
) -> list[Device]:
    """Accelerators, the roomiest first; none when the layer counts ask for the CPU."""
    layers = layer_count(demand.resolved)
    all_in_ram = config.offload_cpu_layers is not None and config.offload_cpu_layers == layers > 0
    # Where layers stream, an accelerator computes with all of them elsewhere.
    if not traits.supports_streaming and (config.offload_gpu_layers == 0 or all_in_ram):
        return []
    return sorted(
        (device for device in machine.accelerators if device.kind in traits.device_kinds),
        key=lambda device: device_available_bytes(device, config),
        reverse=True,
    )


def _wants_accelerator(config: RuntimeConfig) -> bool:
    return bool(config.offload_gpu_layers)


def on_device(device: Device, config: RuntimeConfig, demand: Demand) -> DeviceChoice:
    """Choose a device, and the dtype that suits it."""
    dtype, why = _dtype_on(device, config, demand)
    return DeviceChoice(device, device.name, dtype, why)


def _dtype_on(device: Device, config: RuntimeConfig, demand: Demand) -> tuple[DType, str]:
    weights = demand.resolved.weights
    stored = weights.dtype if weights is not None else demand.resolved.capabilities.dtype
    dtype = choose_dtype(stored, device, config.dtype)
    if config.dtype != "auto" or device.kind != "cpu" or dtype != "float32":
        return dtype, ""
    available_bytes = device_available_bytes(device, config)

    def fits_whole(dtype: DType) -> bool:
        return demand.footprint(dtype, "cpu").needed_bytes <= available_bytes

    # Where layers stream, half the bytes are worth it even if not all of them fit.
    halves = demand.streams or fits_whole("bfloat16")
    if (stored or "").lower() != "float32" and halves and not fits_whole(dtype):
        return "bfloat16", (
            "In float32, which this CPU computes faster, it would not fit, so it runs in bfloat16."
        )
    return dtype, ""


def _fits(device: Device, config: RuntimeConfig, demand: Demand) -> bool:
    dtype, _ = _dtype_on(device, config, demand)
    return demand.must_hold_bytes(dtype, device.kind) <= device_available_bytes(device, config)


def _missing(asked: str, machine: Machine) -> str:
    kind = asked.partition(":")[0]
    if kind == "ray":
        return (
            f"{asked} was asked for, but no cluster is at hand here. "
            "Use default_manager(), or RuntimeManager(cluster=Cluster())."
        )
    count = sum(device.kind == kind for device in machine.accelerators)
    if count:
        names = ", ".join(d.name for d in machine.accelerators if d.kind == kind)
        return f"{asked} was asked for, but this machine has {names} only."
    label = {"cuda": "CUDA", "mps": "Metal (mps)"}.get(kind, kind)
    return (
        f"{asked} was asked for, but this machine has no {label} device. "
        "Leave the device on auto, or set it to cpu."
    )


def _way_out(
    choice: DeviceChoice, config: RuntimeConfig, demand: Demand, available_bytes: int
) -> str:
    kind = choice.device.kind
    fewer_tokens = demand.largest_context(choice.dtype, kind, available_bytes)
    if fewer_tokens:
        return f"Plan for at most {fewer_tokens:,} context tokens."
    if choice.dtype == "float32":
        half_bytes = demand.footprint("bfloat16", kind).needed_bytes
        if half_bytes <= available_bytes:
            return f'Set dtype="bfloat16", which needs {format_memory(half_bytes)}.'
    budget = config.cpu_memory_budget if choice.device.kind == "cpu" else config.gpu_memory_budget
    if (
        budget is not None
        and demand.footprint(choice.dtype, kind).needed_bytes <= choice.device.free_bytes
    ):
        return "Raise the budget."
    return "Unload another model, close other programs, or choose a smaller model."

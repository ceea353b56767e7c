"""How fast a plan should run, from measured bandwidth."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.memory import kv_bytes
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.predicted import SpeedPrediction
from ollm_widgets.planning.weights import WeightSizes
from ollm_widgets.render.units import format_bytes, format_count, format_seconds

DEFAULT_PROMPT_TOKENS = 512
# What transformers spends on one decoder layer beside reading it, in dispatching its small
# operations: 0.6 to 0.7 ms, measured on models shaped like SmolLM2-135M on two CPU cores.
_LAYER_OVERHEAD_S = 0.00065


@dataclass(frozen=True, slots=True)
class _Wire:
    """Bytes that cross one wire in a pass of one token, and in one of a long prompt."""

    name: str
    token_bytes: int
    prompt_bytes: int
    bytes_per_s: float | None


@dataclass(slots=True)
class _Load:
    """What crosses one wire, while it is added up."""

    token_bytes: int = 0
    prompt_bytes: int = 0

    def add(self, size_bytes: int, idle_bytes: int) -> None:
        """Add a layer, of which a token leaves some at rest."""
        self.token_bytes += size_bytes - idle_bytes
        self.prompt_bytes += size_bytes


def predict_speed(
    sizes: WeightSizes,
    shape: ModelShape | None,
    dtype: DType,
    bandwidth: Bandwidth,
    *,
    context_tokens: int,
    window_tokens: int | None = None,
    use_cache: bool = True,
    run: PlannedRun | None = None,
) -> SpeedPrediction | None:
    """Predict decode and prefill.

    Decoding reads every active weight and the KV cache once a token, so it is bound by memory;
    prefill does ``2 * parameters`` float operations a prompt token (Kaplan et al. 2020, section
    2.1), so it is bound by arithmetic. Layers that stream cross their wires once a pass, while
    the others compute: the slowest of all these bounds it.

    Parameters
    ----------
    context_tokens, window_tokens
        Tokens planned for, and those the KV cache keeps; the prompt is taken as 512 tokens, or
        as the context if that is shorter.
    use_cache
        Without a KV cache every token costs a pass over all tokens before it.
    run
        Where the layers are; None for all of them on the device.

    Returns
    -------
    SpeedPrediction or None
        None when the bandwidth of a wire that layers cross is not known.
    """
    wires = _wires(sizes, bandwidth, run) if run is not None else ()
    if any(wire.bytes_per_s is None for wire in wires):
        return None
    prompt_tokens = min(DEFAULT_PROMPT_TOKENS, context_tokens)
    history = kv_bytes(shape, dtype, prompt_tokens, window_tokens) if shape is not None else 0
    captured = run is not None and run.streaming.captured_steps
    overhead_s = len(sizes.layer_bytes) * _LAYER_OVERHEAD_S
    read_s = (sizes.read_per_token_bytes + history) / bandwidth.read_bytes_per_s
    operations = 2 * sizes.parameters_per_token * prompt_tokens
    first_s = max(operations / bandwidth.flops_per_s, read_s) + overhead_s
    per_token_s = read_s + (0 if captured else overhead_s) if use_cache else first_s
    read = format_bytes(sizes.read_per_token_bytes + history)
    rate = format_bytes(bandwidth.read_bytes_per_s)
    why = (
        f"Each token reads {read} at the {rate}/s measured here; a prompt does "
        f"2 x {format_count(sizes.parameters_per_token)} operations a token at "
        f"{bandwidth.flops_per_s / 1e9:,.0f} GFLOP/s."
    )
    if not use_cache:
        why = f"Without a KV cache each token costs a whole pass. {why}"
    for wire in wires:
        speed = wire.bytes_per_s or 1.0
        token_bytes = wire.token_bytes if use_cache else wire.prompt_bytes
        per_token_s = max(per_token_s, token_bytes / speed)
        first_s = max(first_s, wire.prompt_bytes / speed)
        why += (
            f" {format_bytes(token_bytes)} a token cross {wire.name} at "
            f"{format_bytes(speed)}/s: {format_seconds(token_bytes / speed)}."
        )
    return SpeedPrediction(per_token_s, first_s, prompt_tokens, bandwidth, why)


def unmeasured_wires(sizes: WeightSizes, bandwidth: Bandwidth | None, run: PlannedRun) -> str:
    """Name the wires that layers cross at an unknown bandwidth; empty if there are none."""
    wires = _wires(sizes, bandwidth, run)
    return " and of ".join(wire.name for wire in wires if wire.bytes_per_s is None)


def _wires(sizes: WeightSizes, bandwidth: Bandwidth | None, run: PlannedRun) -> tuple[_Wire, ...]:
    """The wires that streamed layers cross; of experts only the chosen ones, none in a cache."""
    if not run.streams or len(sizes.layer_bytes) != len(run.placement.tiers):
        return ()
    experts = sizes.expert_bytes or (0,) * len(sizes.layer_bytes)
    idle_share = 1 - sizes.active_share if run.streaming.expert_streaming else 0.0
    in_host = sizes.host_layer_bytes(packed=run.streaming.packed)
    devices = run.placement.devices or ("",) * len(run.placement.tiers)
    to_device = {name: _Load() for name in devices}
    from_disk = _Load()
    for index, tier in enumerate(run.placement.tiers):
        size, idle = sizes.layer_bytes[index], round(experts[index] * idle_share)
        if tier == "disk":
            stored = sizes.stored_layer_bytes[index]
            from_disk.add(stored, round(idle * stored / max(size, 1)))
        if tier == "host" or (tier == "disk" and run.on_accelerator):
            to_device[devices[index]].add(in_host[index] if tier == "host" else size, idle)
    wires = []
    if run.on_accelerator:
        speed = bandwidth.host_to_device_bytes_per_s if bandwidth is not None else None
        # The wires of several accelerators carry at the same time: the fullest one counts.
        name = "the wire to the accelerator"
        if len(to_device) > 1:
            name = f"the fullest of the {len(to_device)} wires to accelerators"
        token_bytes = max(load.token_bytes for load in to_device.values())
        prompt_bytes = max(load.prompt_bytes for load in to_device.values())
        wires.append(_Wire(name, token_bytes, prompt_bytes, speed))
    if from_disk.prompt_bytes:
        disk = bandwidth.disk_bytes_per_s if bandwidth is not None else None
        wires.append(_Wire("the disk", from_disk.token_bytes, from_disk.prompt_bytes, disk))
    return tuple(wires)

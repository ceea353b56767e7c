"""The passes of optimized-native: which models they match, and which a plan will apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ollm_widgets.models.decoders import decoder_obstacle
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.ids import DeviceKind
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.specialization import SpecializationMatch, SpecializationRegistry
from ollm_widgets.planning.weights import layer_count, streams_experts

NATIVE_PROVIDER_ID = "ollm-native"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """What decides which of the matching passes apply."""

    device_kind: DeviceKind
    placement: LayerPlacement
    streaming: StreamingPlan

    @property
    def on_accelerator(self) -> bool:
        """Whether something else than the CPU computes."""
        return self.device_kind != "cpu"

    @property
    def streams(self) -> bool:
        """Whether any layer is elsewhere than on the device that computes."""
        own = "accelerator" if self.on_accelerator else "host"
        return any(tier != own for tier in self.placement.tiers)

    @property
    def chunks_prompts(self) -> bool:
        """Whether long prompts pass a layer in chunks."""
        return self.streaming.prefill_chunk_tokens is not None


@dataclass(frozen=True, slots=True)
class NativePass:
    """One thing that optimized-native does.

    Parameters
    ----------
    pass_id
        Its id in plans.
    applies
        Whether it applies to a model that it matches, by where the layers are.
    suits
        What it asks of a model beyond what all passes ask.
    """

    pass_id: str
    applies: Callable[[PlannedRun], bool]
    suits: Callable[[ResolvedModel], bool] = lambda resolved: True

    def matches(self, resolved: ResolvedModel) -> bool:
        """Say whether it can apply, from config and tensor headers alone."""
        return not native_obstacle(resolved) and self.suits(resolved)

    def refusal(self, resolved: ResolvedModel) -> str:
        """Say why it cannot; empty if it can, or if only this pass does not suit the model."""
        return native_obstacle(resolved)


NATIVE_PASSES: tuple[NativePass, ...] = (
    NativePass("full-residency", lambda run: not run.streams),
    NativePass(
        "gpu-offload",
        lambda run: run.on_accelerator and run.streams and run.placement.accelerator_layers > 0,
    ),
    NativePass("cpu-offload", lambda run: run.on_accelerator and run.placement.host_layers > 0),
    NativePass("disk-cache", lambda run: run.placement.disk_layers > 0),
    NativePass("lossless-packing", lambda run: run.streaming.packed),
    NativePass(
        "moe-routing",
        lambda run: run.streaming.expert_streaming,
        streams_experts,
    ),
    NativePass(
        "layer-major-prefill",
        lambda run: run.chunks_prompts and (run.on_accelerator or run.streams),
    ),
    NativePass("mlp-chunking", lambda run: run.chunks_prompts),
    NativePass("captured-steps", lambda run: run.streaming.captured_steps),
    # Only captured steps attend by kernels of our own.
    NativePass("attention-replacement", lambda run: run.streaming.captured_steps),
    NativePass(
        "multimodal-shell",
        lambda run: True,
        lambda resolved: resolved.generic_model_kind == "image-text-to-text",
    ),
)


def native_registry() -> SpecializationRegistry:
    """Make the registry that plans use by default."""
    registry = SpecializationRegistry()
    registry.register(NATIVE_PROVIDER_ID, NATIVE_PASSES)
    return registry


def planned_passes(match: SpecializationMatch, run: PlannedRun) -> tuple[str, ...]:
    """Return those of the matching passes that will apply; other providers' all do."""
    if match.provider_id != NATIVE_PROVIDER_ID:
        return match.pass_ids
    applying = {each.pass_id for each in NATIVE_PASSES if each.applies(run)}
    return tuple(pass_id for pass_id in match.pass_ids if pass_id in applying)


def native_obstacle(resolved: ResolvedModel) -> str:
    """Say why optimized-native cannot run a model; empty if nothing stands against it.

    Of a model whose files are not here only the catalog's facts are judged.
    """
    return decoder_obstacle(
        resolved.generic_model_kind,
        resolved.quantization,
        resolved.shape,
        resolved.weights,
        layer_count(resolved),
    )

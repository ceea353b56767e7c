from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.planning.specialization import SpecializationRegistry
from ollm_widgets.planning.traits import GENERIC_TRAITS, NATIVE_TRAITS


@dataclass(frozen=True)
class Everything:
    pass_id: str = "layer-streaming"

    def matches(self, resolved: ResolvedModel) -> bool:
        return resolved.shape is not None


def test_a_specialization_that_matches_is_planned(
    model: ResolvedModel, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    registry = SpecializationRegistry()
    registry.register("native", [Everything()])
    native = replace(
        NATIVE_TRAITS, unavailable="", supports_cpu_offload=True, supports_gpu_offload=True
    )
    selector = BackendSelector((native, GENERIC_TRAITS), registry, lambda device: None)
    machine = make_machine(ram_gib=32, gpu_gib=(12,))
    made = selector.select(large_model, RuntimeConfig("x"), machine)
    assert made.is_executable()
    assert (made.backend_id, made.support_level) == ("optimized-native", "optimized")
    assert (made.specialization_state, made.specialization_provider_id) == ("planned", "native")
    assert made.specialization_pass_ids == ("layer-streaming",)
    assert made.placement.accelerator_layers > 10
    assert made.placement.accelerator_layers + made.placement.host_layers == 32
    assert made.memory.fits
    with_adapter = selector.select(large_model, RuntimeConfig("x", adapter_dir="a"), machine)
    assert with_adapter.backend_id == "transformers-generic"
    asked = selector.select(
        large_model, RuntimeConfig("x", offload_gpu_layers=4, offload_cpu_layers=8), machine
    )
    assert asked.is_executable()
    assert asked.placement.summary() == (
        "4 layers on the accelerator, 8 layers in RAM, 20 layers on disk"
    )
    disk = asked.memory.tier("disk")
    assert disk is not None
    assert disk.layer_count == 20


def test_a_registry_is_empty_until_something_is_registered(model: ResolvedModel) -> None:
    registry = SpecializationRegistry()
    assert registry.find(model) is None
    registry.register("native", [Everything(), Everything("tiered-kv")])
    found = registry.find(model)
    assert found is not None
    assert found.pass_ids == ("layer-streaming", "tiered-kv")
    assert registry.find(replace(model, shape=None)) is None

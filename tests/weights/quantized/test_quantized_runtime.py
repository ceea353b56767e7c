"""A quantized checkpoint in a runtime: each tier holds what the plan says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader
from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.planning.weights import weight_sizes
from tests.weights.quantized_models import quantize
from tests.weights.streamed_models import ALONE, save_large

LAYERS = 6


@pytest.fixture(scope="module")
def large(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of 6 MiB as they are stored, of 12 as they run."""
    folder = tmp_path_factory.mktemp("large") / "model"
    save_large(saved_llama, folder, LAYERS)
    quantize(folder, "fp8")
    return folder


def test_what_a_runtime_holds_is_what_was_planned_to_a_hundredth(large: Path) -> None:
    resolved = inspect_materialized_model(str(large), large, "local-path")
    sizes = weight_sizes(resolved, "bfloat16")
    assert sizes is not None
    stored, raw = sizes.held_layers[0], sizes.layer_bytes[0]
    assert stored == sizes.stored_layer_bytes[0]
    assert 0.5 < stored / raw < 0.53
    config = RuntimeConfig(f"path:{large}", device="cpu", dtype="bfloat16", offload_cpu_layers=2)
    with RuntimeLoader().load(config) as runtime:
        plan, use = runtime.plan, runtime.memory()
        assert plan.streaming.stored_slot_bytes == stored
        ram, disk = plan.memory.tier("ram"), plan.memory.tier("disk")
        assert ram is not None
        assert disk is not None
        assert disk.layers_bytes == 4 * stored
        assert use.disk_weights_bytes == pytest.approx(disk.layers_bytes, rel=0.01)
        assert ram.layers_bytes == 2 * raw
        held = ram.layers_bytes + ram.embeddings_bytes
        assert use.host_weights_bytes == pytest.approx(held, rel=0.01)
        assert plan.streaming.device_bytes == plan.streaming.device_slots * stored + raw
        assert use.host_staging_bytes == pytest.approx(plan.streaming.device_bytes, rel=0.01)
        ids = runtime.generate(ALONE.input_ids, GenerationConfig(3))
    whole = RuntimeConfig(f"path:{large}", device="cpu", dtype="bfloat16")
    with RuntimeLoader().load(whole) as runtime:
        assert not runtime.plan.streaming.device_slots
        assert bool((runtime.generate(ALONE.input_ids, GenerationConfig(3)) == ids).all())


def test_a_plan_says_that_layers_elsewhere_stay_as_they_are_stored(large: Path) -> None:
    config = RuntimeConfig(f"path:{large}", device="cpu", dtype="bfloat16", offload_cpu_layers=2)
    plan = RuntimeLoader().plan(config)
    assert "Its fp8 weights are expanded to bfloat16 where they run." in plan.details
    assert any("stay as they are stored, in 51% of the bytes" in each for each in plan.details)
    assert not any("cache folder" in each for each in plan.details)

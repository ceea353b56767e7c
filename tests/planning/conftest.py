from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ollm_widgets.models.capabilities import CapabilityProfile
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape, WeightInventory
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device, Machine
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.selector import BackendSelector

GIB = 1024**3


class DiskUsage(NamedTuple):
    """What `shutil.disk_usage` gives."""

    total: int
    used: int
    free: int


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where bandwidth is remembered, so that it is measured once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True, scope="module")
def own_cache_folder(cache_folder: Path) -> Iterator[None]:
    """Measure bandwidth into a folder of this test run; tests elsewhere have their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLM_CACHE_DIR", str(cache_folder))
        yield


@pytest.fixture(autouse=True, scope="module")
def same_disk() -> Iterator[None]:
    """Plan for a disk of which as much stays free, whatever else this machine writes."""
    free = DiskUsage(500 * GIB, 200 * GIB, 300 * GIB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _folder: free)
        yield


@pytest.fixture(scope="session")
def make_machine() -> Callable[..., Machine]:
    def make(ram_gib: float = 32, gpu_gib: tuple[float, ...] = (), bf16: bool = False) -> Machine:
        ram = int(ram_gib * GIB)
        # The GPUs share the CPU's title, so that its measured bandwidth stands in for theirs.
        cpu = Device("cpu", "cpu", "Test CPU", ram, ram, bf16)
        gpus = tuple(
            Device("cuda", f"cuda:{index}", "Test GPU", int(size * GIB), int(size * GIB), True)
            for index, size in enumerate(gpu_gib)
        )
        return Machine(cpu, gpus, ram, ram)

    return make


@pytest.fixture(scope="session")
def laptop(make_machine: Callable[..., Machine]) -> Machine:
    return make_machine(ram_gib=32)


@pytest.fixture(scope="session")
def model() -> ResolvedModel:
    """A model shaped and sized like SmolLM2-135M, whose files are here."""
    shape = ModelShape(30, 576, 1536, 9, 3, 64, 49_152, 8_192, tied_embeddings=True)
    layer, embedding, norm = 3_540_096, 49_152 * 576, 576
    return ResolvedModel(
        reference=ModelReference.parse("smollm2-135m"),
        source_kind="builtin",
        normalized_name="smollm2-135m",
        capabilities=CapabilityProfile(
            "generic",
            parameters=134_515_008,
            bytes_on_disk=269_060_552,
            dtype="bfloat16",
            context_length=8_192,
            layers=30,
        ),
        model_path=Path("models/smollm2-135m"),
        weight_format="safetensors",
        repo_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        generic_model_kind="causal-lm",
        shape=shape,
        weights=WeightInventory(
            total_bytes=269_030_016,
            parameters=30 * layer + embedding + norm,
            dtype="bfloat16",
            layer_bytes=(2 * layer,) * 30,
            layer_parameters=(layer,) * 30,
            embedding_bytes=2 * embedding,
            embedding_parameters=embedding,
            other_bytes=2 * norm,
            other_parameters=norm,
            files=("model.safetensors",),
        ),
    )


@pytest.fixture(scope="session")
def large_model(model: ResolvedModel) -> ResolvedModel:
    """A model shaped and sized like Llama-3.1-8B."""
    shape = ModelShape(32, 4096, 14_336, 32, 8, 128, 128_256, 131_072)
    layer, embedding = 218_112_000, 128_256 * 4096
    return replace(
        model,
        capabilities=replace(
            model.capabilities, parameters=8_030_261_248, context_length=131_072, layers=32
        ),
        shape=shape,
        weights=WeightInventory(
            total_bytes=16_060_522_496,
            parameters=8_030_261_248,
            dtype="bfloat16",
            layer_bytes=(2 * layer,) * 32,
            layer_parameters=(layer,) * 32,
            embedding_bytes=2 * embedding,
            embedding_parameters=embedding,
            other_bytes=2 * embedding,
            other_parameters=embedding,
            files=("model.safetensors",),
        ),
    )


@pytest.fixture(scope="session")
def expert_model(model: ResolvedModel) -> ResolvedModel:
    """A model shaped and sized like Qwen3-30B-A3B, cut to 24 layers."""
    shape = ModelShape(24, 2048, 6144, 32, 4, 128, 151_936, 40_960)
    expert = 3 * 2048 * 768
    layer, embedding = 18_878_720 + 128 * expert, 151_936 * 2048
    total = 24 * layer + 2 * embedding + 2048
    return replace(
        model,
        model_type="qwen3_moe",
        capabilities=replace(
            model.capabilities,
            parameters=total,
            context_length=40_960,
            layers=24,
            experts=128,
            active_experts=8,
        ),
        shape=shape,
        weights=WeightInventory(
            total_bytes=2 * total,
            parameters=total,
            dtype="bfloat16",
            layer_bytes=(2 * layer,) * 24,
            layer_parameters=(layer,) * 24,
            embedding_bytes=2 * embedding,
            embedding_parameters=embedding,
            other_bytes=2 * (embedding + 2048),
            other_parameters=embedding + 2048,
            files=("model.safetensors",),
            expert_bytes=(2 * 128 * expert,) * 24,
            expert_parameters=(128 * expert,) * 24,
        ),
    )


@pytest.fixture(scope="session")
def six_gigabytes(model: ResolvedModel) -> ResolvedModel:
    """A checkpoint of 6 GB with a small vocabulary."""
    shape = ModelShape(28, 3072, 8192, 24, 8, 128, 32_000, 8_192)
    layer, embedding = 100_669_440, 32_000 * 3072
    total = 28 * layer + 2 * embedding
    return replace(
        model,
        capabilities=replace(model.capabilities, parameters=total, layers=28),
        shape=shape,
        weights=WeightInventory(
            total_bytes=2 * total,
            parameters=total,
            dtype="bfloat16",
            layer_bytes=(2 * layer,) * 28,
            layer_parameters=(layer,) * 28,
            embedding_bytes=2 * embedding,
            embedding_parameters=embedding,
            other_bytes=2 * embedding,
            other_parameters=embedding,
            files=("model.safetensors",),
        ),
    )


@pytest.fixture(scope="session")
def selector() -> BackendSelector:
    gpu, cpu = Bandwidth(4e12, 1e15), Bandwidth(1e10, 1e11)
    return BackendSelector(measure=lambda device: gpu if device.kind == "cuda" else cpu)


@pytest.fixture(scope="session")
def plan(selector: BackendSelector, model: ResolvedModel, laptop: Machine) -> Any:
    def plan(
        resolved: ResolvedModel = model, machine: Machine = laptop, **config: Any
    ) -> RuntimePlan:
        return selector.select(resolved, RuntimeConfig("smollm2-135m", **config), machine)

    return plan


@pytest.fixture(scope="session")
def server(make_machine: Callable[..., Machine]) -> Machine:
    return make_machine(ram_gib=128, gpu_gib=(140,))

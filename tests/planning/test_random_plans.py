"""Plans for models, machines and wishes that nobody thought of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ollm_widgets.errors import OllmError
from ollm_widgets.models.quantization import Quantization
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape, WeightInventory
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device, Machine
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.selector import BackendSelector

MIB, GIB = 1024**2, 1024**3
GPU = Bandwidth(4.2e12, 6e14, 54e9, 1.5e9, 25e9, 10e9, 2.1e12, 4.5e-6, 2e-6)
CORES = Bandwidth(2e10, 2e11, None, 1.5e9, 1e10, 1e10, None, 4.5e-6)
selector = BackendSelector(measure=lambda device: GPU if device.kind == "cuda" else CORES)

# Sizes come from a seed: what hypothesis draws by itself is small, and then everything fits.
seeds = st.integers(0, 2**32)
layer_counts = st.none() | st.integers(0, 40)
budgets = st.none() | st.integers(1, 40 * GIB) | st.sampled_from(["100MiB", "2GiB", "9GB", "24GiB"])
# Often nothing is asked, so that most of the examples leave the placement to the planner.
wishes: dict[str, st.SearchStrategy[Any]] = {
    "device": st.sampled_from(["auto", "auto", "auto", "cuda", "cuda:0", "cpu", "cuda:1"]),
    "dtype": st.sampled_from(["auto", "auto", "bfloat16", "float16", "float32"]),
    "backend": st.sampled_from([None, None, None, "optimized-native", "transformers-generic"]),
    "use_specialization": st.sampled_from([True, True, True, False]),
    "use_cache": st.sampled_from([True, True, True, False]),
    "kv_cache_strategy": st.sampled_from(
        [None, None, None, "resident", "paged", "tiered-write-back", "quantized-cold-tier"]
    ),
    "strategy_selector_profile": st.sampled_from(
        ["balanced", "latency", "capacity", "bounded-window"]
    ),
    "kv_cache_lifecycle": st.sampled_from(["runtime-scoped", "runtime-scoped", "persistent"]),
    "kv_cache_window_tokens": st.sampled_from([None, None, None, 1, 128, 100_000]),
    "kv_cache_memory_budget": st.sampled_from([None, None, None, "64MiB", "4GiB"]),
    "dense_projection_chunk_rows": st.sampled_from([None, None, None, 1, 300, 100_000]),
    "offload_gpu_layers": st.none() | layer_counts,
    "offload_cpu_layers": st.none() | layer_counts,
    "offload_cpu_policy": st.sampled_from(["auto", "auto", "prefix", "suffix", "middle-band"]),
    "gpu_memory_budget": st.none() | budgets,
    "cpu_memory_budget": st.none() | budgets,
    "context_tokens": st.sampled_from([None, None, 16, 2048, 30_000, 120_000]),
}


def machine_of(ram_bytes: int, gpu_bytes: list[int], *, bf16: bool = True) -> Machine:
    cpu = Device("cpu", "cpu", "Test CPU", ram_bytes, ram_bytes, bf16)
    gpus = tuple(
        Device("cuda", f"cuda:{index}", "Test GPU", size, size, True)
        for index, size in enumerate(gpu_bytes)
    )
    return Machine(cpu, gpus, ram_bytes, ram_bytes)


def machine_for(chance: Random, resolved: ResolvedModel, most_gpus: int = 4) -> Machine:
    """Any machine, tiny to huge; more often one that a part of the model fits."""
    count, bf16 = chance.randint(0, most_gpus), chance.random() < 0.7
    if resolved.weights is None or chance.random() < 0.2:
        gpus = [chance.randrange(GIB // 2, 90 * GIB) for _ in range(count)]
        return machine_of(chance.randrange(GIB, 600 * GIB), gpus, bf16=bf16)
    whole = 2 * resolved.weights.parameters

    def part() -> int:
        return 2 * GIB + int(whole * chance.uniform(0.02, 1.2) / max(count, 1))

    return machine_of(part(), [part() for _ in range(count)], bf16=bf16)


def model_for(chance: Random, base: ResolvedModel, *, known: bool = False) -> ResolvedModel:
    """Dense, hybrid and mixture models of up to 40 layers; some of which little is known."""
    layers = chance.choice([chance.randint(1, 8), chance.randint(8, 40), chance.randint(8, 40)])
    hidden = 64 * chance.randint(1, 64)
    heads = chance.choice([1, 2, 8, 32])
    tied = chance.random() < 0.5
    window, types = chance.choice([None, None, 512]), None
    if chance.random() < 0.3:
        kinds = ["full_attention", "sliding_attention", "linear_attention"]
        types, window = tuple(chance.choices(kinds, k=layers)), 512
    shape = ModelShape(
        layers, hidden, 4 * hidden, heads, heads, 64, 32_000, 131_072,
        tied_embeddings=tied, sliding_window=window, layer_types=types,
    )  # fmt: skip
    size, other = (chance.randint(5, 800) * 10**6 for _ in range(2))
    turn = chance.choice([1, 2, 3, 8, 99])
    each = tuple(other if index % turn == 0 else size for index in range(layers))
    experts, in_experts = 0, (0,) * layers
    profile = replace(
        base.capabilities, parameters=sum(each), context_length=131_072, layers=layers
    )
    if chance.random() < 0.35:
        experts, dense_first = chance.choice([8, 128]), chance.randint(0, 3)
        in_experts = tuple(
            0 if index < dense_first else count * 9 // 10 for index, count in enumerate(each)
        )
        profile = replace(profile, experts=experts, active_experts=chance.randint(1, 8))
    embedding = 32_000 * hidden
    stored = chance.choice([1, 2, 2, 2, 4])
    total = sum(each) + embedding * (1 if tied else 2)
    quantized: dict[str, tuple[int, ...]] = {}
    if stored == 1 and turn < 99:
        # All but the norms, with a scale to each block.
        quantized = {
            f"quantized_{name}": tuple(count - count // part for count in counts)
            for name, counts, part in (
                ("bytes", each, 50),
                ("parameters", each, 50),
                ("expert_bytes", in_experts, 60),
                ("expert_parameters", in_experts, 60),
            )
        }
    weights = WeightInventory(
        total_bytes=stored * total,
        parameters=total,
        dtype={1: "float8_e4m3fn", 2: "bfloat16", 4: "float32"}[stored],
        layer_bytes=tuple(stored * count for count in each),
        layer_parameters=each,
        embedding_bytes=stored * embedding,
        embedding_parameters=embedding,
        other_bytes=0 if tied else stored * embedding,
        other_parameters=0 if tied else embedding,
        files=("model.safetensors",),
        expert_bytes=tuple(stored * count for count in in_experts),
        expert_parameters=in_experts,
        **quantized,
    )
    model = replace(
        base,
        model_type="qwen3_moe" if experts else "llama",
        capabilities=profile,
        shape=shape,
        weights=weights,
        quantization=Quantization("fp8") if quantized else None,
    )
    missing = 0 if known else chance.randint(0, 19)
    if missing == 1:
        return replace(model, shape=None)
    if missing == 2:
        return replace(model, weights=None, model_path=None)
    if missing == 3:
        nothing = replace(profile, parameters=None, bytes_on_disk=None, layers=None)
        return replace(model, weights=None, shape=None, model_path=None, capabilities=nothing)
    return model


def planned(resolved: ResolvedModel, machine: Machine, **config: Any) -> RuntimePlan | None:
    """Make a plan; None where the config can work with no model."""
    asked = RuntimeConfig("x", **config)
    try:
        asked.validate()
    except OllmError:
        return None
    return selector.select(resolved, asked, machine)


@settings(deadline=None, max_examples=500)
@given(seed=seeds, config=st.fixed_dictionaries({}, optional=wishes))
def test_a_plan_never_fails_and_never_takes_more_than_it_may(
    model: ResolvedModel, seed: int, config: dict[str, Any]
) -> None:
    chance = Random(seed)
    resolved = model_for(chance, model)
    made = planned(resolved, machine_for(chance, resolved), **config)
    if made is None:
        return
    plain = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    assert RuntimeConfig.from_dict(plain["config"]) == made.config
    assert made.reason
    assert made.to_html()
    if not made.is_executable():
        return
    assert [tier.title for tier in made.memory.tiers if not tier.fits] == []
    placement, native = made.placement, made.backend_id == "optimized-native"
    if native and config.get("offload_gpu_layers") is not None:
        assert placement.accelerator_layers == config["offload_gpu_layers"]
    if native and config.get("offload_cpu_layers") is not None:
        assert placement.host_layers == config["offload_cpu_layers"]
    if config.get("dense_projection_chunk_rows") and native:
        rows = config["dense_projection_chunk_rows"]
        assert made.streaming.prefill_chunk_tokens == rows


@settings(deadline=None, max_examples=250)
@given(seed=seeds, config=st.fixed_dictionaries(wishes))
def test_any_wish_is_obeyed_or_refused_with_a_number(
    model: ResolvedModel, seed: int, config: dict[str, Any]
) -> None:
    chance = Random(seed)
    resolved = model_for(chance, model)
    made = planned(resolved, machine_for(chance, resolved), **config)
    if made is None:
        return
    json.dumps(made.as_dict(), allow_nan=False)
    layers = len(made.placement.tiers)
    policy = config["offload_cpu_policy"]
    if made.is_executable() and policy != "auto" and made.placement.host_layers:
        in_host = [index for index, tier in enumerate(made.placement.tiers) if tier == "host"]
        whole = range(in_host[0], in_host[-1] + 1)
        if len(made.devices) == 1:
            assert in_host == list(whole)
            ends = {"prefix": in_host[0] == 0, "suffix": in_host[-1] == layers - 1}
            assert ends.get(policy, True)
    if not made.is_executable() and not made.needs_files:
        assert len(made.reason) > 20


@settings(deadline=None, max_examples=150)
@given(
    seed=seeds,
    less=st.floats(0.1, 1),
    which=st.sampled_from(["gpu_memory_budget", "cpu_memory_budget"]),
    context=st.sampled_from([512, 4096, 60_000]),
    policy=st.sampled_from(["auto", "auto", "prefix", "middle-band"]),
    dtype=st.sampled_from(["bfloat16", "float16"]),
)
def test_more_budget_never_predicts_slower(
    model: ResolvedModel,
    seed: int,
    less: float,
    which: str,
    context: int,
    policy: str,
    dtype: str,
) -> None:
    chance = Random(seed)
    resolved = model_for(chance, model, known=True)
    machine = machine_for(chance, resolved, most_gpus=1)
    gpu, ram = next(iter(machine.accelerators), None), machine.cpu.free_bytes
    most = ram if which == "cpu_memory_budget" or gpu is None else gpu.free_bytes
    config: dict[str, Any] = {
        "context_tokens": context,
        "offload_cpu_policy": policy,
        "dtype": dtype,
        "kv_cache_strategy": "resident",
        "backend": "optimized-native",
        "device": "cuda" if gpu else "cpu",
    }
    tight = planned(resolved, machine, **config, **{which: int(most * less)})
    roomy = planned(resolved, machine, **config, **{which: most})
    assert tight is not None
    assert roomy is not None
    assume(tight.is_executable())
    assert roomy.is_executable()
    assert tight.speed is not None
    assert roomy.speed is not None
    slower = roomy.speed.seconds_per_token / tight.speed.seconds_per_token
    assert slower <= 1 + 1e-9


@settings(deadline=None, max_examples=100)
@given(seed=seeds, context=st.sampled_from([512, 60_000]))
def test_the_same_question_has_the_same_answer(
    model: ResolvedModel, seed: int, context: int
) -> None:
    chance = Random(seed)
    resolved = model_for(chance, model)
    machine = machine_for(chance, resolved)
    one = planned(resolved, machine, context_tokens=context)
    other = planned(resolved, machine, context_tokens=context)
    assert one is not None
    assert other is not None
    for name in ("placement", "streaming", "reason", "details", "kv", "speed", "device"):
        assert getattr(one, name) == getattr(other, name)


@settings(deadline=None, max_examples=60)
@given(seed=seeds)
def test_a_plan_hardly_depends_on_whether_anybody_measured(model: ResolvedModel, seed: int) -> None:
    chance = Random(seed)
    resolved = model_for(chance, model, known=True)
    machine = machine_for(chance, resolved, most_gpus=1)
    unmeasured = BackendSelector(measure=lambda device: None)
    made = unmeasured.select(resolved, RuntimeConfig("x"), machine)
    measured = selector.select(resolved, RuntimeConfig("x"), machine)
    assert made.speed is None
    assert made.is_executable() == measured.is_executable()
    assert made.device == measured.device
    assert made.memory.fits == measured.memory.fits


def test_a_plan_needs_no_network_no_torch_and_no_engine(
    make_machine: Callable[..., Machine],
) -> None:
    code = """
import socket, sys
from pathlib import Path
def refuse(*args, **kwargs):
    raise AssertionError("a plan opened a socket")
socket.socket = socket.create_connection = refuse
import psutil
from ollm_widgets.models.capabilities import CapabilityProfile
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device, Machine
from ollm_widgets.planning.selector import BackendSelector
profile = CapabilityProfile("generic", parameters=8 * 10**9, bytes_on_disk=16 * 10**9,
                            dtype="bfloat16", context_length=8192, layers=32)
shape = ModelShape(32, 4096, 14336, 32, 8, 128, 128256, 131072)
resolved = ResolvedModel(ModelReference.parse("x/y"), "huggingface", "y", profile,
                         model_path=Path("."), generic_model_kind="causal-lm", shape=shape)
cpu = Device("cpu", "cpu", "CPU", 64 << 30, 64 << 30, True)
gpu = Device("cuda", "cuda:0", "GPU", 8 << 30, 8 << 30, True)
machine = Machine(cpu, (gpu, gpu), 64 << 30, 64 << 30)
plan = BackendSelector(measure=lambda device: None).select(resolved, RuntimeConfig("x"), machine)
assert plan.placement.tiers, plan.reason
heavy = {"torch", "transformers", "numpy", "ollm_widgets.weights", "ollm_widgets.backends"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("gpus", [(), (8,), (8, 8)])
def test_the_plan_says_what_a_layer_saves(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine], gpus: tuple[int]
) -> None:
    made = plan(large_model, make_machine(ram_gib=14, gpu_gib=gpus))
    assert made.is_executable()
    assert any("of 32 layers stay" in detail and " a token." in detail for detail in made.details)
    whole = plan(large_model, make_machine(ram_gib=64, gpu_gib=(40,)))
    assert not any("stay" in detail for detail in whole.details)

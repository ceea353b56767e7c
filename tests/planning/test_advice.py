from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.advice import Advice, best_change, replanning
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.selector import BackendSelector

GPU = Bandwidth(4e12, 6e14, host_to_device_bytes_per_s=5e10, disk_bytes_per_s=1.5e9)
CPU = Bandwidth(1e10, 1e11, disk_bytes_per_s=1.5e9)
Best = Callable[..., Advice | None]


@pytest.fixture(scope="module")
def best() -> Best:
    selector = BackendSelector(measure=lambda device: CPU if device.kind == "cpu" else GPU)

    def best(resolved: ResolvedModel, machine: Machine, **config: Any) -> Advice | None:
        plan = selector.select(resolved, RuntimeConfig("m", **config), machine)
        advice = best_change(plan, replanning(selector, resolved, machine))
        story = plan.explain(replanning(selector, resolved, machine))
        assert story == (plan.explain() if advice is None else f"{plan.explain()}\n{advice.text}")
        return advice

    return best


def test_more_gpu_memory_is_named_with_the_speed_that_it_gives(
    best: Best, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    advice = best(large_model, make_machine(64, (8,)))
    assert advice is not None
    assert "more GPU memory all 32 layers would stay there: from " in advice.text
    assert advice.plan.placement.accelerator_layers == 32


def test_the_memory_that_is_named_is_the_least_that_does(
    best: Best, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    selector = BackendSelector(measure=lambda _device: GPU)
    machine = make_machine(64, (8,))
    sizes: dict[int, bool] = {}
    replan = replanning(selector, large_model, machine)

    def noted(config: RuntimeConfig, more_gpu_bytes: int = 0, more_ram_bytes: int = 0) -> Any:
        made = replan(config, more_gpu_bytes, more_ram_bytes)
        sizes[more_gpu_bytes] = made.placement.accelerator_layers == 32
        return made

    assert best_change(selector.select(large_model, RuntimeConfig("m"), machine), noted)
    enough = min(size for size, stays in sizes.items() if stays)
    too_little = max(size for size, stays in sizes.items() if not stays)
    assert enough - too_little == 64 * 1024**2


def test_more_ram_is_named_where_a_cpu_computes(
    best: Best, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    advice = best(large_model, make_machine(12))
    assert advice is not None
    assert "more RAM all 32 layers would stay there" in advice.text


def test_what_costs_nothing_comes_first(
    best: Best, large_model: ResolvedModel, server: Machine
) -> None:
    by_counts = best(large_model, server, offload_gpu_layers=4)
    by_budget = best(large_model, server, gpu_memory_budget="6GiB")
    by_device = best(large_model, server, device="cpu")
    by_cache = best(large_model, server, use_cache=False)
    for advice, words in (
        (by_counts, "the layer counts left empty"),
        (by_budget, "gpu_memory_budget left empty"),
        (by_device, "the device left on auto"),
        (by_cache, "use_cache=True"),
    ):
        assert advice is not None
        assert words in advice.text


def test_a_plan_that_does_not_run_is_told_what_would_let_it(
    best: Best, model: ResolvedModel, laptop: Machine
) -> None:
    advice = best(model, laptop, device="cuda")
    assert advice is not None
    assert advice.text.startswith("With the device left on auto it would run: at about ")
    assert advice.plan.executable


def test_a_plan_that_cannot_be_bettered_gets_no_advice(
    best: Best, model: ResolvedModel, server: Machine
) -> None:
    assert best(model, server) is None

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.selector import BackendSelector

changes = st.fixed_dictionaries(
    {},
    optional={
        "device": st.sampled_from(["cpu", "cuda", "cuda:1"]),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
        "backend": st.sampled_from(["optimized-native", "transformers-generic"]),
        "use_cache": st.booleans(),
        "offload_gpu_layers": st.integers(0, 33),
        "gpu_memory_budget": st.sampled_from(["4GiB", 6 * 1024**3]),
        "kv_cache_strategy": st.sampled_from(["resident", "paged", "quantized-cold-tier"]),
        "context_tokens": st.integers(1, 50_000),
        "cache_dir": st.sampled_from(["a", "b"]),
    },
)


@pytest.fixture(scope="session")
def choose(
    selector: BackendSelector, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> Callable[[dict[str, Any]], RuntimePlan]:
    machine = make_machine(ram_gib=32, gpu_gib=(8,))
    return lambda config: selector.select(large_model, RuntimeConfig("m", **config), machine)


@given(changes)
def test_equal_plans_do_not_differ(choose: Any, config: dict[str, Any]) -> None:
    assert not choose(config).diff(choose(config))


@given(changes, changes)
def test_a_difference_turned_round_has_the_same_fields_with_their_values_swapped(
    choose: Any, first: dict[str, Any], second: dict[str, Any]
) -> None:
    there = choose(first).diff(choose(second))
    back = choose(second).diff(choose(first))
    assert [(row.kind, row.field, row.before, row.after) for row in there.rows] == [
        (row.kind, row.field, row.after, row.before) for row in back.rows
    ]
    for row in there.rows:
        assert row.before != row.after
    if choose(first).config != choose(second).config:
        assert there.config


def test_it_tells_what_was_asked_for_and_what_follows_with_reasons(plan: Any) -> None:
    difference = plan(kv_cache_window_tokens=64, context_tokens=2048).diff(plan())
    rows = {row.field: row for row in difference.rows}
    assert (rows["context_tokens"].before, rows["context_tokens"].after) == ("automatic", "2,048")
    assert rows["context_tokens"].why == "It was asked for."
    strategy = rows["KV strategy"]
    assert (strategy.before, strategy.after) == ("resident", "sliding-window-ring-buffer")
    assert "rule bounded-window" in strategy.why
    assert "the last 64 tokens are kept" in strategy.why
    assert rows["RAM"].before != rows["RAM"].after
    assert [row.kind for row in difference.rows] == ["config"] * 2 + ["consequence"] * (
        len(difference.rows) - 2
    )


def test_what_is_given_back_to_the_planner_says_so(plan: Any) -> None:
    (row,) = plan().diff(plan(context_tokens=2048)).config
    assert (row.before, row.after, row.why) == ("2,048", "automatic", "It is left to the planner.")


def test_a_plan_that_stops_running_says_why(plan: Any) -> None:
    rows = {row.field: row for row in plan(device="cuda").diff(plan()).rows}
    assert (rows["Runs"].before, rows["Runs"].after) == ("yes", "no")
    assert "no CUDA device" in rows["Runs"].why
    assert rows["Speed"].after == "not predicted"


def test_layers_that_move_say_why(
    plan: Any, large_model: ResolvedModel, server: Machine, make_machine: Callable[..., Machine]
) -> None:
    small = plan(large_model, make_machine(ram_gib=32, gpu_gib=(8,)))
    rows = {row.field: row for row in small.diff(plan(large_model, server)).rows}
    assert rows["Layers"].before == "32 layers on the accelerator"
    assert "Not all of them fit" in rows["Layers"].why
    assert rows["Speed"].why


def test_of_the_passes_those_are_named_that_only_one_plan_has(
    plan: Any, large_model: ResolvedModel, server: Machine, make_machine: Callable[..., Machine]
) -> None:
    small = plan(large_model, make_machine(ram_gib=32, gpu_gib=(8,)))
    rows = {row.field: row for row in small.diff(plan(large_model, server)).rows}
    assert rows["Passes"].before == "full-residency"
    assert set(rows["Passes"].after.split(", ")) >= {"gpu-offload", "cpu-offload"}
    assert "(cpu-offload)" in rows["Passes"].why
    assert "(layer-major-prefill)" not in rows["Passes"].why
    without = plan(use_specialization=False).diff(plan())
    gone = {row.field: row for row in without.rows}["Passes"]
    assert gone.after == "none"
    assert "use_specialization=False" in gone.why


def test_plans_for_other_machines_are_compared_in_one_order(
    plan: Any, large_model: ResolvedModel, server: Machine, make_machine: Callable[..., Machine]
) -> None:
    several = plan(large_model, make_machine(ram_gib=32, gpu_gib=(10, 10)))
    alone = plan(large_model, server)
    fields = [row.field for row in several.diff(alone).rows]
    assert fields == [row.field for row in alone.diff(several).rows]
    assert {"GPU (Test GPU)", "GPU 0 (Test GPU)", "GPU 1 (Test GPU)"} <= set(fields)


def test_it_shows_itself_everywhere(plan: Any) -> None:
    difference = plan(context_tokens=2048).diff(plan())
    for drawn in (difference.to_text(), difference.to_html(), difference.to_markdown()):
        assert "context_tokens" in drawn
        assert "2,048" in drawn
        assert "It was asked for." in drawn
    rows = difference.as_dicts()
    assert json.loads(json.dumps(rows)) == rows
    assert rows[0].keys() == {"kind", "field", "before", "after", "why"}
    assert "nothing" in plan().diff(plan()).to_text()

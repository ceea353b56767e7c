"""Moving layers of a loaded model: counts are obeyed or refused, and answers stay the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import Cancelled, ConfigError, OutOfMemory, RuntimeClosedError
from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.planning.parts import LayerPlacement
from ollm_widgets.runtime.rebalance import moved_placement
from tests.weights.streamed_models import greedy, prompts, save_streamable

LAYERS = 6
PROMPT = prompts([19])
SHORT = GenerationConfig(max_new_tokens=6)

tiers = st.lists(st.sampled_from(["accelerator", "host", "disk"]), min_size=1, max_size=12)
on_cpu_tiers = st.lists(st.sampled_from(["host", "disk"]), min_size=1, max_size=12)


def placed(tiers: list[LayerTier]) -> LayerPlacement:
    return LayerPlacement(tuple(tiers))


# ---------------------------------------------------------------------- the counts


@given(now=tiers, data=st.data())
def test_both_counts_are_obeyed(now: list[LayerTier], data: st.DataObject) -> None:
    on_accelerator = data.draw(st.integers(0, len(now)))
    in_host = data.draw(st.integers(0, len(now) - on_accelerator))
    moved = moved_placement(placed(now), on_accelerator, in_host, "auto", on_cpu=False)
    assert len(moved.tiers) == len(now)
    assert (moved.accelerator_layers, moved.host_layers) == (on_accelerator, in_host)


@given(now=on_cpu_tiers, data=st.data())
def test_on_a_cpu_the_count_in_memory_is_obeyed_and_without_one_it_stays(
    now: list[LayerTier], data: st.DataObject
) -> None:
    in_host = data.draw(st.none() | st.integers(0, len(now)))
    moved = moved_placement(placed(now), None, in_host, "auto", on_cpu=True)
    assert moved.host_layers == (placed(now).host_layers if in_host is None else in_host)
    assert moved.accelerator_layers == 0
    assert len(moved.tiers) == len(now)


@given(now=tiers, data=st.data())
def test_one_count_is_obeyed_and_the_other_gives_way(
    now: list[LayerTier], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(now)))
    by_accelerator = moved_placement(placed(now), count, None, "auto", on_cpu=False)
    assert by_accelerator.accelerator_layers == count
    by_host = moved_placement(placed(now), None, count, "auto", on_cpu=False)
    assert by_host.host_layers == count
    assert by_host.accelerator_layers == min(placed(now).accelerator_layers, len(now) - count)


@pytest.mark.parametrize(
    ("on_accelerator", "in_host", "message"),
    [
        (7, None, "offload_gpu_layers: 7 layers were asked for, the model has 6"),
        (None, 7, "offload_cpu_layers: 7 layers were asked for, the model has 6"),
        (-1, None, "offload_gpu_layers: -1 layers"),
        (4, 3, r"4 \+ 3 layers were asked for, the model has 6"),
    ],
)
def test_counts_that_cannot_be_had_are_refused_with_their_numbers(
    on_accelerator: int | None, in_host: int | None, message: str
) -> None:
    now = placed(["host"] * LAYERS)
    with pytest.raises(ConfigError, match=message):
        moved_placement(now, on_accelerator, in_host, "auto", on_cpu=False)


def test_layers_on_an_accelerator_are_refused_where_there_is_none() -> None:
    now = placed(["host"] * LAYERS)
    with pytest.raises(ConfigError, match=r"3 layers on an accelerator .* runs on the CPU"):
        moved_placement(now, 3, None, "auto", on_cpu=True)
    assert moved_placement(now, 0, None, "auto", on_cpu=True) == now


# ---------------------------------------------------------------------- a loaded model


@pytest.fixture(scope="module")
def folder(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_streamable(saved_llama, tmp_path_factory.mktemp("movable") / "llama", LAYERS)


@pytest.fixture
def movable(folder: Path) -> Iterator[LoadedRuntime]:
    config = RuntimeConfig(
        folder,
        backend="optimized-native",
        device="cpu",
        dtype="float32",
        offload_cpu_layers=2,
    )
    with RuntimeLoader().load(config) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def expected(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return greedy(model, PROMPT, 6)


def test_plan_memory_and_placement_agree_after_every_move(
    movable: LoadedRuntime, expected: torch.Tensor
) -> None:
    total = movable.memory().host_weights_bytes + movable.memory().disk_weights_bytes
    layer = movable.memory().disk_weights_bytes // 4
    for count in (6, 0, 3, 1, 5, 2):
        reached = movable.rebalance(offload_cpu_layers=count)
        assert reached.host_layers == count
        assert reached.disk_layers == LAYERS - count
        assert movable.plan.placement == reached
        use = movable.memory()
        assert use.disk_weights_bytes == (LAYERS - count) * layer
        assert use.host_weights_bytes + use.disk_weights_bytes == total
        assert (use.host_staging_bytes == 0) == (count == LAYERS)
        assert torch.equal(movable.generate(PROMPT.input_ids, SHORT), expected)


def test_the_policy_says_which_layers_stay(movable: LoadedRuntime) -> None:
    first = movable.rebalance(offload_cpu_layers=2, offload_cpu_policy="prefix")
    last = movable.rebalance(offload_cpu_layers=2, offload_cpu_policy="suffix")
    assert first.tiers == ("host",) * 2 + ("disk",) * 4
    assert last.tiers == ("disk",) * 4 + ("host",) * 2
    assert movable.plan.placement == last


def test_what_cannot_be_had_is_refused_and_nothing_moves(movable: LoadedRuntime) -> None:
    before = movable.plan.placement
    with pytest.raises(ConfigError, match="the model has 6"):
        movable.rebalance(offload_cpu_layers=7)
    with pytest.raises(ConfigError, match="runs on the CPU"):
        movable.rebalance(offload_gpu_layers=1)
    assert movable.plan.placement == before
    assert movable.memory().disk_weights_bytes > 0


def test_more_layers_than_the_budget_holds_are_refused_with_both_numbers_and_none_moves(
    folder: Path, expected: torch.Tensor
) -> None:
    config = RuntimeConfig(
        folder,
        backend="optimized-native",
        device="cpu",
        dtype="float32",
        context_tokens=64,
        offload_cpu_layers=1,
    )
    needed = RuntimeLoader().plan(config).memory.tiers[0].needed_bytes
    with RuntimeLoader().load(config.copy(cpu_memory_budget=needed + 40_000)) as runtime:
        before = runtime.plan.placement
        assert before.host_layers == 1
        with pytest.raises(OutOfMemory, match=r"With 6 of 6 layers .* may be used") as raised:
            runtime.rebalance(offload_cpu_layers=6)
        assert raised.value.free_bytes == needed + 40_000
        assert raised.value.needed_bytes > raised.value.free_bytes
        assert runtime.plan.placement == before
        assert runtime.rebalance(offload_cpu_layers=2).host_layers == 2
        assert runtime.rebalance(offload_cpu_layers=0).host_layers == 0
        assert torch.equal(runtime.generate(PROMPT.input_ids, SHORT), expected)


def test_a_move_waits_for_the_request_that_runs(
    movable: LoadedRuntime, expected: torch.Tensor
) -> None:
    before = movable.plan.placement
    pieces = movable.stream("w5 w6 w7", GenerationConfig(max_new_tokens=40))
    next(pieces)
    mover = threading.Thread(target=movable.rebalance, kwargs={"offload_cpu_layers": 6})
    mover.start()
    seen = [(piece, movable.plan.placement) for piece in pieces]
    assert seen[-1][0].finish_reason == "length"
    # The last piece is handed over before the request's turn ends.
    assert {placement for _, placement in seen[:-1]} == {before}
    mover.join()
    assert movable.plan.placement.host_layers == LAYERS
    assert torch.equal(movable.generate(PROMPT.input_ids, SHORT), expected)


def test_a_move_that_ends_in_the_middle_leaves_plan_and_memory_in_agreement(
    movable: LoadedRuntime, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = movable._loaded
    assert loaded is not None
    assert loaded.engine is not None
    placer = loaded.engine._placer
    move = placer.move
    moved: list[object] = []

    def move_two(*args: object) -> None:
        if len(moved) == 2:
            raise Cancelled("between two layers")
        moved.append(args)
        move(*args)

    with monkeypatch.context() as patch:
        patch.setattr(placer, "move", move_two)
        with pytest.raises(Cancelled):
            movable.rebalance(offload_cpu_layers=6)
    assert movable.plan.placement == loaded.engine.placement
    assert movable.plan.placement.host_layers == 4
    assert torch.equal(movable.generate(PROMPT.input_ids, SHORT), expected)


def test_a_closed_runtime_moves_nothing(folder: Path) -> None:
    config = RuntimeConfig(folder, backend="optimized-native", device="cpu")
    runtime = RuntimeLoader().load(config)
    runtime.close()
    with pytest.raises(RuntimeClosedError):
        runtime.rebalance(offload_cpu_layers=1)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.loading import (
    FileSpeed,
    file_speeds,
    load_stages,
    loaded_file_bytes,
)

CACHED = FileSpeed("the page cache", 26.3e9)


@pytest.fixture
def seconds(llama: Any, h200: Bandwidth, running: Callable[..., PlannedRun]) -> Any:
    def seconds(
        *, speed: FileSpeed = CACHED, generic: bool = False, sizes: Any = None, **where: Any
    ) -> dict[str, float]:
        stages = load_stages(
            sizes or llama.sizes,
            llama.shape,
            h200,
            running(**where),
            speed,
            step_s=0.01,
            generic=generic,
        )
        return {each.stage: each.seconds for each in stages}

    return seconds


def test_stages_have_the_names_under_which_the_backends_report_them(seconds: Any) -> None:
    assert [*seconds(accelerator=32)] == ["Plan", "Build", "Read weights", "Warm up"]
    assert [*seconds(host=32)] == ["Plan", "Build", "Read weights"]
    assert [*seconds(accelerator=32, generic=True)] == ["Plan", "Read weights", "Warm up"]


def test_layers_that_are_read_in_each_pass_are_not_loaded(
    llama: Any, running: Callable[..., PlannedRun]
) -> None:
    kept = loaded_file_bytes(llama.sizes, running(accelerator=8, host=4, disk=20))
    assert kept == 12 * llama.sizes.layer_bytes[0] + llama.sizes.embeddings_bytes


def test_packing_costs_a_second_way_over_the_wire(seconds: Any, llama: Any) -> None:
    raw, packed = seconds(host=32), seconds(host=32, packed=True)
    back = 0.7515 * llama.sizes.layers_bytes / 54.5e9
    assert packed["Read weights"] - raw["Read weights"] == pytest.approx(back, rel=0.01)


def test_an_accelerator_reads_quantized_layers_as_they_are_stored(
    seconds: Any, llama: Any, running: Callable[..., PlannedRun]
) -> None:
    stored = tuple(size // 2 for size in llama.sizes.layer_bytes)
    sizes = replace(llama.sizes, stored_layer_bytes=stored, held_layer_bytes=stored)
    beside = sizes.embeddings_bytes
    assert loaded_file_bytes(sizes, running(host=16, disk=16)) == 16 * stored[0] + beside
    for where in ({"host": 32}, {"accelerator": 32}):
        raw, quantized = seconds(**where), seconds(**where, sizes=sizes)
        spared = raw["Read weights"] - quantized["Read weights"]
        assert spared == pytest.approx(sum(stored) / CACHED.bytes_per_s, rel=0.01)


def test_weights_in_another_dtype_take_longer(seconds: Any, llama: Any) -> None:
    stored = tuple(2 * size for size in llama.sizes.stored_layer_bytes)
    converted = seconds(accelerator=32, sizes=replace(llama.sizes, stored_layer_bytes=stored))
    assert converted["Read weights"] > 5 * seconds(accelerator=32)["Read weights"]


def test_a_captured_step_takes_longer_to_warm_up_than_one_that_is_not(seconds: Any) -> None:
    captured = seconds(accelerator=32, captured_steps=True)
    assert captured["Warm up"] > 3 * seconds(accelerator=32)["Warm up"]


def test_transformers_reads_a_warm_page_cache_slower_and_a_disk_as_fast(seconds: Any) -> None:
    disk = FileSpeed("the disk", 1e9)
    ours, theirs = seconds(accelerator=32), seconds(accelerator=32, generic=True)
    assert theirs["Read weights"] > 4 * ours["Read weights"]
    ours, theirs = (
        seconds(accelerator=32, speed=disk),
        seconds(accelerator=32, speed=disk, generic=True),
    )
    assert theirs["Read weights"] == pytest.approx(ours["Build"] + ours["Read weights"])


@pytest.mark.parametrize(
    ("known", "room", "sources"),
    [
        ({"disk_bytes_per_s": 1e9, "page_cache_bytes_per_s": 2e10}, 100, ["cache", "disk"]),
        ({"disk_bytes_per_s": 1e9, "page_cache_bytes_per_s": 2e10}, 50, ["disk"]),
        ({"page_cache_bytes_per_s": 2e10}, 100, ["cache"]),
        ({"host_copy_bytes_per_s": 2e10}, 100, ["cache"]),
        ({"page_cache_bytes_per_s": 2e10}, 50, []),
        ({}, 100, []),
    ],
)
def test_files_come_from_the_page_cache_where_it_can_hold_them(
    known: dict[str, float], room: int, sources: list[str]
) -> None:
    found = file_speeds(Bandwidth(1e10, 1e11, **known), 80, room)
    assert [each.source.split()[-1] for each in found] == sources

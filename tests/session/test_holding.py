from __future__ import annotations

import pytest

from ollm_widgets.runtime.memory import MemoryUse
from ollm_widgets.runtime.residency.records import Waiting
from ollm_widgets.runtime.residency.surroundings import HeldRuntime, Holder, MemoryLevel
from ollm_widgets.session.holding import (
    held_text,
    holder_text,
    idle_text,
    level_text,
    place_name,
    waiting_text,
)

GIB = 1024**3


def test_what_a_runtime_holds_is_said_by_tier_without_empty_ones() -> None:
    use = MemoryUse(accelerator_weights_bytes=7 * GIB, host_staging_bytes=GIB, disk_kv_bytes=GIB)
    assert held_text(use) == "7.0 GiB GPU, 1.0 GiB RAM, 1.0 GiB disk"
    assert held_text(MemoryUse(disk_weights_bytes=GIB)) == ""


@pytest.mark.parametrize(
    ("place", "name"),
    [("ram", "RAM"), ("cuda:0", "GPU 0"), ("cuda:1", "GPU 1"), ("mps", "GPU"), ("tape", "tape")],
)
def test_a_place_has_the_name_that_people_use(place: str, name: str) -> None:
    assert place_name(place) == name


@pytest.mark.parametrize(
    ("idle_s", "text"),
    [(0.0, "used just now"), (59.9, "used just now"), (61, "idle 1 min"), (7300, "idle 2 h")],
)
def test_a_time_without_use_is_said_to_the_minute(idle_s: float, text: str) -> None:
    assert idle_text(idle_s) == text


def test_another_kernel_is_said_with_all_that_it_holds_and_its_latest_use() -> None:
    runtimes = (
        HeldRuntime("a", "idle", 3600.0, {"cuda:0": 8 * GIB, "ram": GIB}),
        HeldRuntime("b", "idle", 300.0, {"cuda:0": 2 * GIB, "cuda:1": 0}),
    )
    holder = Holder(4711, "analysis.ipynb", runtimes)
    assert holder_text(holder) == "holds 10.0 GiB of GPU 0 and 1.0 GiB of RAM, idle 5 min"
    busy = Holder(4711, "b.ipynb", (HeldRuntime("a", "busy", 0.0, {"cuda:0": GIB}),))
    assert holder_text(busy) == "holds 1.0 GiB of GPU 0, in use"


def test_how_full_a_memory_is_is_said_with_its_size() -> None:
    level = MemoryLevel("cuda:0", 12 * GIB, 3 * GIB)
    assert level_text(level) == "GPU 0, 9.0 GiB of 12.0 GiB used"


def test_a_load_waits_for_those_who_hold_what_it_needs() -> None:
    assert waiting_text(Waiting("c", ("a", "b"), 0.0), ()) == "waits for a and b"
    assert waiting_text(Waiting("c", (), 0.0), ()) == "waits for room"

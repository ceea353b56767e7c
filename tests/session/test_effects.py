from __future__ import annotations

import pytest

from ollm_widgets.runtime.memory import MemoryUse
from ollm_widgets.runtime.residency.records import Demoted, MemoryChange, RuntimeEvent, Unloaded
from ollm_widgets.session.effects import (
    departure_text,
    effect_text,
    freed_text,
    made_room,
    moved_text,
)

ON_BOTH = MemoryUse(accelerator_weights_bytes=8_200_000_000, host_weights_bytes=1_100_000_000)
IN_RAM = MemoryUse(host_weights_bytes=538_000_000)
ON_GPU = MemoryUse(accelerator_weights_bytes=270_000_000)
NOTHING = MemoryUse()


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (IN_RAM, NOTHING, "513 MiB of RAM freed"),
        (ON_BOTH, NOTHING, "7.6 GiB of the GPU and 1.0 GiB of RAM freed"),
        (ON_BOTH, IN_RAM, "7.6 GiB of the GPU and 536 MiB of RAM freed"),
        (NOTHING, NOTHING, "it held no memory"),
    ],
)
def test_what_was_freed_is_said_by_place(before: MemoryUse, after: MemoryUse, text: str) -> None:
    assert freed_text(Unloaded("a", "a", before, after)) == text


def test_what_moved_is_said_with_its_direction() -> None:
    there = MemoryUse(host_weights_bytes=270_000_000)
    assert moved_text(Demoted("a", "a", ON_GPU, there)) == "257 MiB from the GPU to RAM"
    assert moved_text(MemoryChange("a", "a", there, ON_GPU)) == "257 MiB from RAM to the GPU"


def test_an_event_that_matters_is_a_sentence_with_its_bytes() -> None:
    unloaded = RuntimeEvent("unloaded", "a", "a", change=Unloaded("a", "a", IN_RAM, NOTHING))
    assert effect_text(unloaded) == "Unloaded a: 513 MiB of RAM freed."
    demoted = RuntimeEvent(
        "demoted", "a", "a", change=Demoted("a", "a", ON_GPU, MemoryUse(host_weights_bytes=1))
    )
    assert effect_text(demoted) == "Demoted a: 257 MiB from the GPU to RAM."
    failed = RuntimeEvent("failed", "", "a", "It broke.")
    assert effect_text(failed) == "a could not be loaded: It broke."
    waiting = RuntimeEvent("waiting", "", "b", "Waits for a (busy).")
    assert effect_text(waiting) == "b waits for a (busy)."


@pytest.mark.parametrize(
    ("detail", "evicted", "left"),
    [
        ("For b.", "Evicted a for b: 513 MiB of RAM freed.", "a left memory to make room for b."),
        (
            "unused for 15 min",
            "Evicted a (unused for 15 min): 513 MiB of RAM freed.",
            "a left memory (unused for 15 min).",
        ),
        ("", "Evicted a: 513 MiB of RAM freed.", "a left memory."),
    ],
)
def test_an_eviction_is_told_with_its_reason(detail: str, evicted: str, left: str) -> None:
    change = Unloaded("a", "a", IN_RAM, NOTHING)
    event = RuntimeEvent("evicted", "a", "a", detail, change)
    assert effect_text(event) == evicted
    assert departure_text(event) == left


@pytest.mark.parametrize("kind", ["busy", "idle", "loading", "demoting", "returning"])
def test_what_only_passes_is_no_effect(kind: str) -> None:
    assert effect_text(RuntimeEvent(kind, "a", "a")) == ""  # type: ignore[arg-type]


def test_two_runtimes_of_one_model_are_told_apart() -> None:
    event = RuntimeEvent("unloaded", "a-2", "a", change=Unloaded("a-2", "a", IN_RAM, NOTHING))
    assert effect_text(event) == "Unloaded a-2: 513 MiB of RAM freed."
    assert departure_text(event) == "a-2 was unloaded."


def test_who_talked_to_a_model_is_told_how_it_left() -> None:
    assert departure_text(RuntimeEvent("unloaded", "a", "a")) == "a was unloaded."
    assert departure_text(RuntimeEvent("evicted", "a", "a")) == "a left memory."


def test_a_load_that_was_cancelled_has_not_failed() -> None:
    assert effect_text(RuntimeEvent("cancelled", "", "a")) == "Loading a was cancelled."
    stopped = RuntimeEvent("cancelled", "a", "a", "ran longer than 1 min")
    assert effect_text(stopped) == "Stopped an answer of a (ran longer than 1 min)."


def test_who_left_for_another_made_room_and_who_was_unused_did_not() -> None:
    assert made_room(RuntimeEvent("evicted", "a", "a", "For b."))
    assert made_room(RuntimeEvent("demoted", "a", "a", "For b."))
    assert not made_room(RuntimeEvent("evicted", "a", "a", "unused for 15 min"))
    assert not made_room(RuntimeEvent("unloaded", "a", "a"))

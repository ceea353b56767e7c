from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ollm_widgets.models.absent import absent_hub_model
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.planning.verdict import verdict_of
from ollm_widgets.render.units import format_memory


def test_a_model_that_is_all_on_one_device_fits(plan: Any) -> None:
    made = plan()
    verdict = verdict_of(made)
    assert verdict.kind == "fits"
    assert verdict.text.startswith("fits: about ")
    assert verdict.tokens_per_s == made.speed.tokens_per_s
    assert verdict.needs_bytes == made.memory.needed_bytes
    assert verdict.missing_bytes == 0


def test_a_model_that_streams_fits_with_offload(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    on_gpu = plan(large_model, make_machine(32, (8,)), offload_gpu_layers=4, offload_cpu_layers=0)
    on_cpu = plan(large_model, make_machine(16))
    for made in (on_gpu, on_cpu):
        verdict = verdict_of(made)
        assert verdict.kind == "fits-with-offload"
        assert verdict.text.startswith("fits with offload")


def test_files_that_are_not_here_change_nothing(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    absent = replace(large_model, model_path=None)
    assert verdict_of(plan(absent, server)) == verdict_of(plan(large_model, server))


def test_a_model_that_is_too_large_says_what_is_missing(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(8), backend="transformers-generic")
    verdict = verdict_of(made)
    ram = made.memory.tier("ram")
    assert verdict.kind == "too-large"
    assert verdict.missing_bytes == ram.needed_bytes - ram.available_bytes
    missing = format_memory(verdict.missing_bytes)
    assert verdict.text == f"does not fit: needs {missing} more RAM"


def test_of_ram_and_gpu_the_one_that_lacks_less_is_named(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(8, (15,))
    verdict = verdict_of(plan(large_model, machine, backend="transformers-generic"))
    assert verdict.kind == "too-large"
    assert verdict.text.endswith("more GPU memory")
    enough = 15 + verdict.missing_bytes / 1024**3
    # The margin grows with the memory.
    larger = make_machine(8, (enough * 1.06,))
    assert verdict_of(plan(large_model, larger, backend="transformers-generic")).kind == "fits"
    asked = plan(large_model, machine, backend="transformers-generic", device="cpu")
    assert verdict_of(asked).text.endswith("more RAM")


def test_a_disk_too_small_for_the_download_is_missing(
    plan: Any, large_model: ResolvedModel, server: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = replace(
        large_model,
        model_path=None,
        capabilities=replace(large_model.capabilities, bytes_on_disk=16_000_000_000),
    )
    full = SimpleNamespace(total=10**12, used=10**12 - 10**9, free=10**9)
    made = plan(absent, server)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: full)
    verdict = verdict_of(made)
    assert (verdict.kind, verdict.missing_bytes) == ("too-large", 15_000_000_000)
    assert verdict.text == "does not fit: needs 15.0 GB more disk"
    assert verdict_of(plan(large_model, server)).kind == "fits"


def test_what_cannot_run_says_why_and_is_short_in_a_chip(plan: Any, model: ResolvedModel) -> None:
    unsupported = replace(
        model,
        resolution_message="It is a pickle.",
        capabilities=replace(model.capabilities, support_level="unsupported"),
    )
    verdict = verdict_of(plan(unsupported))
    assert (verdict.kind, verdict.text) == ("unsupported", "cannot run: It is a pickle.")
    assert (verdict.short, verdict.reason) == ("cannot run", "It is a pickle.")
    missing = verdict_of(plan(device="cuda"))
    assert missing.kind == "unsupported"
    assert "no CUDA device" in missing.text


def test_a_model_of_which_only_the_name_is_known_has_no_verdict(
    selector: BackendSelector, plan: Any
) -> None:
    named = absent_hub_model(ModelReference.parse("org/name"), "org/name", "looked nowhere")
    verdict = verdict_of(plan(named))
    assert (verdict.kind, verdict.text) == ("unknown", "size unknown")


def test_without_a_prediction_it_only_says_that_it_fits(
    model: ResolvedModel, laptop: Machine, plan: Any
) -> None:
    verdict = verdict_of(plan().refine(speed=None))
    assert (verdict.text, verdict.tokens_per_s) == ("fits", None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00625, "160"), (1 / 22.4, "22"), (1 / 4.31, "4.3"), (7.07, "0.14"), (1 / 1234, "1234")],
)
def test_speeds_are_rounded_to_what_a_prediction_is_good_for(
    plan: Any, seconds: float, text: str
) -> None:
    made = plan()
    verdict = verdict_of(made.refine(speed=replace(made.speed, seconds_per_token=seconds)))
    assert verdict.text == f"fits: about {text} tokens/s"

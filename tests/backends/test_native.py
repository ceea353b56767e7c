"""Loading through the optimized backend: what it takes, and what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader
from ollm_widgets.backends.base import LoadProgress
from ollm_widgets.backends.native import NativeBackend
from ollm_widgets.errors import Cancelled, MalformedModelError, SpecializationLoadError
from ollm_widgets.planning.ids import BackendId
from tests.weights.streamed_models import (
    named,
    save_large,
    save_lively,
    save_streamable,
    with_tokenizer,
)

LAYERS = 6
LARGE_LAYERS = 24
MIB = 1024**2


@pytest.fixture(scope="module")
def small(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_streamable(saved_llama, tmp_path_factory.mktemp("native") / "small", LAYERS)


@pytest.fixture(scope="module")
def large(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of about 280 MiB whose layers are all alike, so that it is made quickly."""
    return save_large(saved_llama, tmp_path_factory.mktemp("native") / "large", LARGE_LAYERS)


def measured(small: Path, large: Path, what: str) -> dict[str, Any]:
    """The figures of a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.measuring", str(small), str(large), what],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.fixture(scope="module")
def whole(small: Path, large: Path) -> dict[str, Any]:
    return measured(small, large, "whole")


def size_of(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def test_a_model_that_stays_in_memory_is_there_once_and_gone_once_closed(
    whole: dict[str, Any], large: Path
) -> None:
    size = size_of(large)
    assert whole["on_disk"] == 0
    assert 0.95 * size <= whole["counted"] <= 1.02 * size
    assert 0.95 * size <= whole["loaded"] <= 1.15 * size
    assert whole["peak"] <= 1.2 * size
    assert whole["closed"] <= 0.1 * size


def test_a_model_four_times_its_budget_runs_within_it(
    whole: dict[str, Any], small: Path, large: Path
) -> None:
    budget = size_of(large) // 4
    figures = measured(small, large, str(budget))
    assert figures["on_disk"] > LARGE_LAYERS // 2
    assert figures["ids"] == whole["ids"]
    assert figures["counted"] <= budget
    assert figures["peak"] <= 1.2 * budget
    assert figures["closed"] <= 0.4 * budget


def test_a_load_that_the_system_gives_no_memory_for_says_so_and_leaves_none(
    whole: dict[str, Any], small: Path, large: Path
) -> None:
    figures = measured(small, large, "refuse")
    assert "GiB" in figures["message"]
    assert figures["needed"] > 0
    assert figures["left"] <= 0.15 * size_of(large)
    assert figures["ids"] == whole["ids"]


# ---------------------------------------------------------------------- what a load reports


def config_of(folder: Path, **settings: Any) -> RuntimeConfig:
    return RuntimeConfig(folder, backend="optimized-native", device="cpu", **settings)


def test_progress_goes_through_its_stages_up_to_every_byte(small: Path) -> None:
    seen: list[LoadProgress] = []
    with RuntimeLoader().load(config_of(small), seen.append) as runtime:
        held = runtime.memory().host_weights_bytes
    stages = list(dict.fromkeys(update.stage for update in seen))
    assert stages[-3:] == ["Build", "Read weights", "Warm up"]
    read = [update for update in seen if update.stage == "Read weights"]
    assert [update.done_bytes for update in read] == sorted(update.done_bytes for update in read)
    assert (read[-1].done_bytes, read[-1].total_bytes) == (held, held)


def test_what_applied_is_in_the_plan_and_the_rest_with_its_reason(small: Path) -> None:
    with RuntimeLoader().load(config_of(small, offload_cpu_layers=2)) as runtime:
        plan = runtime.plan
    assert plan.specialization_state == "applied"
    assert "disk-cache" in plan.applied_specialization_pass_ids
    assert set(plan.applied_specialization_pass_ids) <= set(plan.specialization_pass_ids)
    missing = set(plan.specialization_pass_ids) - set(plan.applied_specialization_pass_ids)
    assert all(any(detail.startswith(f"{name}:") for detail in plan.details) for name in missing)


def test_a_plan_is_obeyed_without_a_loader_and_every_part_can_be_closed(small: Path) -> None:
    before = set(threading.enumerate())
    plan = RuntimeLoader().plan(config_of(small, offload_cpu_layers=3))
    loaded = NativeBackend().load(plan, small, lambda _update: None, threading.Event())
    assert loaded.engine is not None
    assert loaded.engine.placement == plan.placement
    assert plan.placement.host_layers == 3
    assert loaded.steps is None
    loaded.engine.close()
    assert set(threading.enumerate()) <= before


def test_a_load_cancelled_before_it_begins_reads_nothing(small: Path) -> None:
    plan = RuntimeLoader().plan(config_of(small))
    cancel = threading.Event()
    cancel.set()
    seen: list[LoadProgress] = []
    with pytest.raises(Cancelled):
        NativeBackend().load(plan, small, seen.append, cancel)
    assert seen == []


# ---------------------------------------------------------------------- what is refused


def without_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})


def copy_of(folder: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, target))


@pytest.mark.parametrize("backend", ["optimized-native", None])
def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_its_name_and_never_made_up(
    small: Path, tmp_path: Path, backend: BackendId | None
) -> None:
    folder = copy_of(small, tmp_path / "lacking")
    without_a_tensor(folder)
    with pytest.raises(MalformedModelError, match=r"model\.layers\.3\.mlp\.up_proj\.weight"):
        RuntimeLoader().load(config_of(folder).copy(backend=backend))


def test_without_a_backend_asked_for_a_load_that_fails_falls_back_and_says_why(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ollm_widgets.weights import engine

    def refuse(*_args: object) -> None:
        raise SpecializationLoadError("its parts are not where they should be")

    monkeypatch.setattr(engine, "decoder_structure", refuse)
    with RuntimeLoader().load(RuntimeConfig(small, device="cpu")) as runtime:
        assert runtime.plan.backend_id == "transformers-generic"
        assert runtime.plan.specialization_state == "fallback"
        assert "not where they should be" in (runtime.plan.fallback_reason or "")
        prompt = torch.arange(3, 9)[None]
        assert runtime.generate(prompt, GenerationConfig(max_new_tokens=2)).shape == (1, 8)


@pytest.mark.parametrize(
    "settings", [{"backend": "optimized-native"}, {"offload_cpu_layers": 2}], ids=str
)
def test_a_load_that_fails_reaches_a_person_who_asked_for_what_only_this_backend_does(
    settings: dict[str, Any], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ollm_widgets.weights import engine

    def refuse(*_args: object) -> None:
        raise SpecializationLoadError("its parts are not where they should be")

    monkeypatch.setattr(engine, "decoder_structure", refuse)
    before = set(threading.enumerate())
    with pytest.raises(SpecializationLoadError, match="not where they should be"):
        RuntimeLoader().load(RuntimeConfig(small, device="cpu", **settings))
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("model_type", ["t5", "whisper", "voxtral"])
def test_models_that_do_not_match_are_refused_before_anything_is_loaded(
    model_type: str, saved_llama: Path, tmp_path: Path
) -> None:
    from tests.models.architectures import ARCHITECTURES, save

    architecture = next(each for each in ARCHITECTURES if each.model_type == model_type)
    save(replace(architecture), saved_llama, tmp_path / "model")
    plan = RuntimeLoader().plan(config_of(tmp_path / "model"))
    assert not plan.is_executable()
    assert architecture.kind in plan.reason


def test_a_model_without_a_list_of_layers_is_refused_when_it_is_built(
    saved_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_tokenizer(
        save_lively(named("llama"), tmp_path / "m"), saved_llama, named("llama")
    )
    from transformers.models.llama.modeling_llama import LlamaModel

    built = LlamaModel.__init__

    def with_layers_apart(self: Any, config: Any) -> None:
        built(self, config)
        layers = self.layers
        del self.layers
        for number, layer in enumerate(layers):
            self.add_module(f"layer_{number}", layer)

    monkeypatch.setattr(LlamaModel, "__init__", with_layers_apart)
    with pytest.raises(SpecializationLoadError):
        RuntimeLoader().load(config_of(folder))

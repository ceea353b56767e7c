"""Passes say truly whether they applied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ollm_widgets import RuntimeConfig, RuntimeLoader
from ollm_widgets.backends.passes import (
    PASSES,
    AppliedPasses,
    PassContext,
    apply_passes,
    confirmed,
)
from ollm_widgets.errors import OutOfMemory, SpecializationApplicationError
from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.planning.parts import StreamingPlan
from ollm_widgets.planning.passes import native_registry
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.weights.engine import WeightEngine
from ollm_widgets.weights.steps.capture import CapturedSteps
from tests.models.architectures import Architecture
from tests.weights.streamed_models import (
    engine_of,
    named,
    save_lively,
    save_streamable,
    with_tokenizer,
)

LAYERS = 5
DISK, RAM = ("disk",) * LAYERS, ("host",) * LAYERS
MIXED: tuple[LayerTier, ...] = ("host", "disk", "disk", "host", "disk")


class Models:
    """Folders of tiny models, saved when they are first asked for."""

    def __init__(self, root: Path, tokenizer: Path) -> None:
        self._root = root
        self._tokenizer = tokenizer

    def folder(self, architecture: Architecture) -> Path:
        path = self._root / architecture.model_type
        if not path.exists():
            with_tokenizer(save_lively(architecture, path), self._tokenizer, architecture)
        return path


@pytest.fixture(scope="module")
def models(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("passes"), saved_llama)


@pytest.fixture(scope="module")
def plan(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RuntimePlan:
    folder = save_streamable(saved_llama, tmp_path_factory.mktemp("plan") / "llama", LAYERS)
    config = RuntimeConfig(folder, backend="optimized-native", device="cpu", offload_cpu_layers=2)
    return RuntimeLoader().plan(config)


@contextmanager
def applied(
    models: Models,
    plan: RuntimePlan,
    *pass_ids: str,
    model_type: str = "llama",
    tiers: tuple[LayerTier, ...] = MIXED,
    **streaming: Any,
) -> Iterator[tuple[AppliedPasses, WeightEngine]]:
    parts = StreamingPlan(device_slots=2, **streaming)
    asked = plan.refine(specialization_pass_ids=pass_ids, streaming=parts)
    architecture = named(model_type)
    folder = models.folder(architecture)
    with engine_of(architecture, folder, tiers=tiers, streaming=parts) as engine:
        yield apply_passes(asked, engine), engine


@pytest.mark.parametrize(
    ("pass_id", "settings", "applies"),
    [
        ("full-residency", {"tiers": RAM}, True),
        ("full-residency", {"tiers": MIXED}, False),
        ("disk-cache", {"tiers": MIXED}, True),
        ("disk-cache", {"tiers": RAM}, False),
        ("cpu-offload", {"tiers": MIXED}, True),
        ("cpu-offload", {"tiers": DISK}, False),
        ("gpu-offload", {"tiers": MIXED}, False),
        ("lossless-packing", {"tiers": RAM, "packed": True}, False),
        ("moe-routing", {"tiers": DISK}, False),
        (
            "moe-routing",
            {
                "model_type": "qwen3_moe",
                "tiers": DISK,
                "expert_streaming": True,
                "expert_slots": 6,
            },
            True,
        ),
        ("layer-major-prefill", {"prefill_chunk_tokens": 7}, True),
        ("layer-major-prefill", {"prefill_chunk_tokens": None}, False),
        ("mlp-chunking", {"prefill_chunk_tokens": 7}, True),
        ("mlp-chunking", {"prefill_chunk_tokens": None}, False),
        ("captured-steps", {"captured_steps": True}, False),
        ("attention-replacement", {"captured_steps": True}, False),
        ("multimodal-shell", {"model_type": "gemma3"}, True),
        ("multimodal-shell", {}, False),
    ],
    ids=str,
)
def test_a_pass_applies_where_there_is_something_for_it_and_says_why_elsewhere(
    models: Models, plan: RuntimePlan, pass_id: str, settings: dict[str, Any], applies: bool
) -> None:
    with applied(models, plan, pass_id, **settings) as (outcome, _):
        assert outcome.pass_ids == ((pass_id,) if applies else ())
        assert set(outcome.reasons) == (set() if applies else {pass_id})
        assert all(reason.endswith(".") for reason in outcome.reasons.values())
        assert outcome.steps is None


def test_passes_apply_in_the_order_of_the_plan(models: Models, plan: RuntimePlan) -> None:
    wanted = ("layer-major-prefill", "disk-cache", "full-residency", "cpu-offload")
    with applied(models, plan, *wanted, prefill_chunk_tokens=7) as (outcome, engine):
        assert outcome.pass_ids == ("layer-major-prefill", "disk-cache", "cpu-offload")
        assert set(outcome.reasons) == {"full-residency"}
        forwards = [m for m in engine.model.modules() if "forward" in m.__dict__]
    assert forwards
    assert not [m for m in engine.model.modules() if "forward" in m.__dict__]


def test_two_passes_that_chunk_prompts_chunk_them_once(models: Models, plan: RuntimePlan) -> None:
    counts = []
    for wanted in (("layer-major-prefill",), ("layer-major-prefill", "mlp-chunking")):
        with applied(models, plan, *wanted, prefill_chunk_tokens=7) as (outcome, engine):
            assert outcome.pass_ids == wanted
            forwards = [m for m in engine.model.modules() if "forward" in m.__dict__]
            counts.append(len(forwards))
            assert engine._prefill is not None
            engine._prefill.remove()
            assert not [m for m in engine.model.modules() if "forward" in m.__dict__]
    assert counts[0] == counts[1]


def test_what_warming_up_refuses_has_not_applied(models: Models, plan: RuntimePlan) -> None:
    with applied(models, plan, "cpu-offload") as (_outcome, engine):
        steps = CapturedSteps(engine.model, torch.device("cpu"))
        claimed = ("cpu-offload", "captured-steps", "attention-replacement")
        steps.begin(1, 8)
        found = confirmed(AppliedPasses(claimed, {}, steps))
    assert found.pass_ids == ("cpu-offload",)
    assert set(found.reasons) == {"captured-steps", "attention-replacement"}
    assert all("CUDA" in reason and reason.endswith(".") for reason in found.reasons.values())


def test_a_pass_that_fails_is_named_with_those_before_it(
    models: Models, plan: RuntimePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_context: PassContext) -> str:
        raise KeyError("no such part")

    monkeypatch.setitem(PASSES, "cpu-offload", fail)
    with (
        pytest.raises(SpecializationApplicationError, match=r"cpu-offload.*no such part") as raised,
        applied(models, plan, "disk-cache", "cpu-offload", "multimodal-shell"),
    ):
        pass
    assert raised.value.planned == ("disk-cache", "cpu-offload", "multimodal-shell")
    assert raised.value.applied == ("disk-cache",)
    assert raised.value.failed == ("cpu-offload",)
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_pass_that_nobody_knows_fails_by_name(models: Models, plan: RuntimePlan) -> None:
    with (
        pytest.raises(SpecializationApplicationError, match="no-such-pass"),
        applied(models, plan, "no-such-pass"),
    ):
        pass


def test_errors_of_our_own_pass_through_unchanged(
    models: Models, plan: RuntimePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OutOfMemory("full", tier="cpu", needed_bytes=2, free_bytes=1)

    def fail(_context: PassContext) -> str:
        raise error

    monkeypatch.setitem(PASSES, "cpu-offload", fail)
    with pytest.raises(OutOfMemory) as raised, applied(models, plan, "cpu-offload"):
        pass
    assert raised.value is error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), MemoryError()], ids=lambda e: type(e).__name__
)
def test_memory_that_runs_out_in_a_pass_is_no_fault_of_the_pass(
    models: Models, plan: RuntimePlan, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_context: PassContext) -> str:
        raise error

    monkeypatch.setitem(PASSES, "cpu-offload", fail)
    with pytest.raises(type(error)), applied(models, plan, "cpu-offload"):
        pass


def test_every_pass_that_a_plan_may_name_can_be_applied() -> None:
    groups = native_registry()._providers.values()
    assert {each.pass_id for group in groups for each in group} == set(PASSES)


def test_a_failing_pass_falls_back_only_where_the_loader_chose_the_backend(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.folder(named("llama"))

    def fail(_context: PassContext) -> str:
        raise KeyError("no such part")

    monkeypatch.setitem(PASSES, "full-residency", fail)
    with pytest.raises(SpecializationApplicationError, match="full-residency"):
        RuntimeLoader().load(RuntimeConfig(folder, backend="optimized-native", device="cpu"))
    with RuntimeLoader().load(RuntimeConfig(folder, device="cpu")) as runtime:
        assert runtime.plan.backend_id == "transformers-generic"
        assert runtime.plan.specialization_state == "fallback"
        assert "full-residency" in (runtime.plan.fallback_reason or "")
        assert runtime.plan.applied_specialization_pass_ids == ()

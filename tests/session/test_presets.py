from __future__ import annotations

from typing import get_args

import pytest

from ollm_widgets import ConfigError, RuntimeConfig, Session
from ollm_widgets.protocol.commands import EditableField, PresetId
from ollm_widgets.protocol.views import view_plan
from ollm_widgets.session.presets import (
    PRESETS,
    preset_changes,
    preset_obstacle,
    preset_of,
    preset_result,
)
from tests.session.machines import on_gpus
from tests.session.tiny import CopyModel
from tests.session.waiting import choose, until

GIB = 1024**3


def apply(session: Session, preset: str) -> None:
    session.desk.apply_preset(preset)
    until(session, lambda: session.plan is not None and session.plan.config == session.config)


def test_every_preset_can_be_named_by_a_page_and_says_what_it_does() -> None:
    assert tuple(preset.id for preset in PRESETS) == get_args(PresetId)
    assert all(preset.title and preset.help.endswith(".") for preset in PRESETS)


def test_a_preset_decides_only_what_a_person_can_edit(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpus(session, monkeypatch, 8 * GIB)
    choose(session, copy_model("tiny"))
    for preset in PRESETS:
        assert preset_changes(preset, session.plan).keys() <= {*get_args(EditableField)}


@pytest.mark.parametrize("preset", [preset.id for preset in PRESETS])
def test_a_preset_plans_what_runs_and_is_one_step(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    on_gpus(session, monkeypatch, 8 * GIB)
    choose(session, copy_model("tiny"))
    before = session.config
    apply(session, preset)
    assert session.plan is not None
    assert session.plan.is_executable(), session.plan.reason
    view = view_plan(session)
    assert view is not None
    assert [one.id for one in view.presets if one.active] == [preset]
    session.desk.undo()
    assert session.config == before


def test_a_preset_takes_back_what_another_one_chose(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    session.desk.edit("kv_cache_window_tokens", "16")
    apply(session, "small-machine")
    apply(session, "fastest")
    assert session.config == RuntimeConfig(copy_model("tiny"), strategy_selector_profile="latency")


def test_a_preset_leaves_backend_device_dtype_and_lifecycle(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    chosen = {
        "backend": "transformers-generic",
        "device": "cpu",
        "dtype": "float32",
        "kv_cache_lifecycle": "persistent",
    }
    for field, value in chosen.items():
        session.desk.edit(field, value)
    apply(session, "fastest")
    assert {name: getattr(session.config, name) for name in chosen} == chosen


def test_the_longest_context_is_that_of_the_model(session: Session, copy_model: CopyModel) -> None:
    choose(session, copy_model("tiny"))
    apply(session, "longest-context")
    assert session.plan is not None
    limit = session.plan.resolved_model.capabilities.context_length
    assert session.plan.kv.context_tokens == limit
    assert limit


def test_a_small_machine_asks_for_no_more_context_than_the_model_takes(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    apply(session, "small-machine")
    assert session.plan is not None
    assert session.plan.is_executable(), session.plan.reason
    assert session.plan.kv.context_tokens == 256


def test_without_a_gpu_there_is_none_to_spare(session: Session, copy_model: CopyModel) -> None:
    choose(session, copy_model("tiny"))
    assert session.config is not None
    least = preset_of("least-gpu-memory")
    assert preset_obstacle(least, session.config, session.plan) == "this plan runs without a GPU."
    before = session.config
    with pytest.raises(ConfigError, match="without a GPU"):
        session.desk.apply_preset(least.id)
    assert session.config is before
    assert not session.desk.editing.can_undo


def test_the_least_gpu_memory_is_less_than_any_other_preset_takes(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpus(session, monkeypatch, 8 * GIB)
    choose(session, copy_model("tiny"))
    assert session.config is not None
    taken = {}
    for preset in PRESETS:
        config = preset_result(preset, session.config, session.plan)
        (gpu,) = session.manager.loader.plan(config).memory.gpus
        taken[preset.id] = gpu.layers_bytes + gpu.kv_bytes
    assert min(taken, key=lambda name: taken[name]) == "least-gpu-memory"


def test_an_unknown_preset_is_refused_with_the_known_ones(session: Session) -> None:
    with pytest.raises(ConfigError, match="'none' is unknown") as caught:
        session.desk.apply_preset("none")
    assert "fastest" in caught.value.hint

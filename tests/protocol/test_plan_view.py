from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest

from ollm_widgets import Session
from ollm_widgets.planning.speed.predicted import Correction, SpeedPart, SpeedPrediction
from ollm_widgets.protocol.commands import EditableField
from ollm_widgets.protocol.snapshot import Field, MemoryBar, PlanView
from ollm_widgets.protocol.views import view_plan
from ollm_widgets.protocol.views.speed import view_correction, view_speed, view_times
from tests.session.machines import SPEEDS, on_gpus
from tests.session.tiny import CopyModel
from tests.session.waiting import choose, until
from tests.weights.streamed_models import named, save_lively

GIB = 1024**3
MIB = 1024**2


def shown(session: Session) -> PlanView:
    view = view_plan(session)
    assert view is not None
    return view


def field(session: Session, name: str) -> Field:
    return next(one for one in shown(session).fields if one.name == name)


def disabled_choices(session: Session, name: str) -> dict[str, str]:
    return {one.value: one.disabled for one in field(session, name).choices if one.disabled}


def bar(session: Session, place: str) -> MemoryBar:
    return next(one for one in shown(session).bars if one.place == place)


def edit(session: Session, name: str, value: str) -> None:
    session.desk.edit(name, value)
    planned(session)


def planned(session: Session) -> None:
    until(session, lambda: session.plan is not None and session.plan.config == session.config)


def room_for_half(session: Session, reference: str) -> int:
    """Free bytes of a GPU that hold all of the model but about half of its layers."""
    choose(session, reference)
    assert session.plan is not None
    (gpu,) = session.plan.memory.gpus
    return 512 * MIB + gpu.needed_bytes - gpu.layers_bytes // 2


# ---------------------------------------------------------------------- fields


def test_every_field_that_may_be_edited_is_shown_once(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    names = [one.name for one in shown(session).fields]
    assert sorted(names) == sorted(get_args(EditableField))


def test_what_a_field_shows_is_what_an_edit_would_send_again(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    values = {
        "context_tokens": "64",
        "gpu_memory_budget": "6GiB",
        "device": "cpu",
        "dtype": "float32",
        "use_specialization": "off",
        "offload_cpu_policy": "prefix",
    }
    for name, value in values.items():
        edit(session, name, value)
    assert {one.name: one.value for one in shown(session).fields if one.value} == values


def test_a_size_that_is_none_stays_beside_what_would_be_one(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    edit(session, "gpu_memory_budget", "6 apples")
    budget = field(session, "gpu_memory_budget")
    assert budget.value == "6 apples"
    assert budget.error.startswith("'6 apples' is not a size")
    assert "GiB" in budget.error


def test_a_device_that_is_not_there_cannot_be_chosen(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpus(session, monkeypatch)
    choose(session, copy_model("tiny"))
    assert disabled_choices(session, "device") == {"cuda": "This machine has no GPU."}
    assert field(session, "gpu_memory_budget").disabled == "This machine has no GPU."
    assert field(session, "offload_gpu_layers").disabled == "This plan runs on the CPU."


def test_each_gpu_can_be_chosen_by_name(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpus(session, monkeypatch, 8 * GIB, 8 * GIB)
    choose(session, copy_model("tiny"))
    values = [one.value for one in field(session, "device").choices]
    assert values == ["", "cpu", "cuda:0", "cuda:1"]
    assert not field(session, "offload_gpu_layers").disabled


def test_what_cannot_go_together_is_disabled_with_the_reason(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    assert not disabled_choices(session, "kv_cache_strategy")
    edit(session, "kv_cache_window_tokens", "16")
    ruled_out = disabled_choices(session, "kv_cache_strategy")
    assert "sliding-window-ring-buffer" not in ruled_out
    assert "no window of 16 tokens" in ruled_out["paged"]
    edit(session, "kv_cache_window_tokens", "")
    edit(session, "kv_cache_strategy", "resident")
    assert "cannot be persistent" in disabled_choices(session, "kv_cache_lifecycle")["persistent"]
    assert "no window" in field(session, "kv_cache_window_tokens").disabled
    assert disabled_choices(session, "kv_cache_codec").keys() == {"int8", "int4"}
    edit(session, "kv_cache_strategy", "")
    edit(session, "backend", "optimized-native")
    assert "specialization" in disabled_choices(session, "use_specialization")["off"]


def test_every_choice_that_is_not_disabled_can_be_made(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    for one in shown(session).fields:
        for choice in one.choices:
            if choice.disabled:
                continue
            session.desk.edit(one.name, choice.value)
            assert not session.desk.errors, (one.name, choice.value)
            session.desk.edit(one.name, "")


def test_a_value_that_is_there_can_always_be_taken_back(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    edit(session, "device", "cpu")
    edit(session, "offload_gpu_layers", "0")
    assert field(session, "offload_gpu_layers").disabled == ""


# ---------------------------------------------------------------------- memory


def test_the_stretches_of_a_bar_are_all_that_is_there_and_planned(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpus(session, monkeypatch, 8 * GIB)
    choose(session, copy_model("tiny"))
    assert session.plan is not None
    for tier, drawn in zip(session.plan.memory.tiers, shown(session).bars, strict=True):
        total_bytes = sum(segment.size_bytes for segment in drawn.segments)
        assert total_bytes == tier.needed_bytes + tier.used_by_others_bytes
        assert drawn.capacity_bytes == tier.capacity_bytes
        assert drawn.limit_bytes == tier.used_by_others_bytes + tier.available_bytes
        assert "margin" in drawn.limit_label


def test_layers_on_disk_are_a_part_of_what_is_used_there(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    edit(session, "offload_cpu_layers", "1")
    assert session.plan is not None
    tier = session.plan.memory.tier("disk")
    assert tier is not None
    assert tier.layers_bytes
    drawn = bar(session, "disk")
    total_bytes = sum(segment.size_bytes for segment in drawn.segments)
    assert total_bytes == tier.used_by_others_bytes
    assert drawn.capacity_bytes == tier.used_by_others_bytes + tier.free_bytes
    assert drawn.limit_bytes == 0


def test_a_budget_that_is_too_small_says_how_much_is_missing(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    edit(session, "cpu_memory_budget", "1kB")
    drawn = bar(session, "ram")
    assert session.plan is not None
    assert not session.plan.is_executable()
    assert drawn.missing_bytes > 0
    assert drawn.text.endswith("missing")
    assert drawn.limit_label.startswith("budget")


def test_every_layer_is_in_one_run_of_its_tier(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpus(session, monkeypatch, 8 * GIB)
    on_gpus(session, monkeypatch, room_for_half(session, copy_model("tiny")))
    choose(session, copy_model("other"))
    assert session.plan is not None
    layers = shown(session).layers
    assert layers is not None
    places = {"accelerator": "gpu", "host": "ram", "disk": "disk"}
    drawn = {
        index: run.place for run in layers.runs for index in range(run.first, run.first + run.count)
    }
    assert drawn == {layer.index: places[layer.tier] for layer in session.plan.memory.layers}
    assert layers.total == len(drawn)
    assert layers.gpu_layers < layers.total
    assert layers.has_gpu
    assert not layers.disabled


def test_experts_are_drawn_apart_from_what_every_token_uses(
    session: Session, tmp_path: Path
) -> None:
    folder = save_lively(named("qwen3_moe"), tmp_path / "mixture")
    choose(session, f"path:{folder}")
    kinds = {segment.kind: segment.size_bytes for segment in bar(session, "ram").segments}
    assert session.plan is not None
    tier = session.plan.memory.tier("ram")
    assert tier is not None
    assert kinds["experts"] == tier.experts_bytes > 0
    assert kinds["layers"] == tier.layers_bytes - tier.experts_bytes


def test_a_backend_that_places_no_layer_says_so(session: Session, copy_model: CopyModel) -> None:
    choose(session, copy_model("tiny"))
    edit(session, "backend", "transformers-generic")
    layers = shown(session).layers
    assert layers is not None
    assert "one device" in layers.disabled


# ---------------------------------------------------------------------- moves


def test_a_drag_is_drawn_while_it_goes_on_and_is_one_step(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    for layers in ("1", "0", "1"):
        session.desk.place("", layers, settled=False)
        planned(session)
        view = shown(session)
        assert view.layers is not None
        assert view.layers.ram_layers == int(layers)
        assert view.layers.chosen_ram == layers
        assert not view.planning
    session.desk.place("", "1", settled=True)
    planned(session)
    assert shown(session).can_undo
    session.desk.undo()
    planned(session)
    assert not shown(session).can_undo
    assert field(session, "offload_cpu_layers").value == ""


def test_a_burst_of_moves_is_planned_once_or_twice(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(session, copy_model("tiny"))
    plans = []
    plan = session.manager.loader.plan
    monkeypatch.setattr(
        session.manager.loader, "plan", lambda config: (plans.append(config), plan(config))[1]
    )
    # The desk is busy with something else while the moves come.
    with session.lock:
        jobs = {session.desk.place("", str(number % 2), settled=False) for number in range(50)}
    session.desk.place("", "1", settled=True)
    planned(session)
    assert len(plans) <= 3
    assert len(jobs) <= 2


def test_after_an_edit_the_page_hears_what_it_changed_and_why(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    assert shown(session).changes == ()
    session.desk.place("", "1", settled=True)
    planned(session)
    changes = {change.term: change for change in shown(session).changes}
    assert changes["Layers in RAM"].before == "automatic"
    assert changes["Layers in RAM"].after == "1"
    assert "on disk" in changes["Layers"].after
    session.desk.undo()
    planned(session)
    changes = {change.term: change for change in shown(session).changes}
    assert changes["Layers in RAM"].after == "automatic"


def test_a_drag_is_compared_with_the_plan_before_it(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    for layers, settled in (("1", False), ("0", False), ("0", True)):
        session.desk.place("", layers, settled=settled)
        planned(session)
    changes = {change.term: change for change in shown(session).changes}
    assert changes["Layers in RAM"].before == "automatic"
    assert changes["Layers in RAM"].after == "0"


def test_another_model_is_compared_with_nothing(session: Session, copy_model: CopyModel) -> None:
    choose(session, copy_model("tiny"))
    edit(session, "context_tokens", "64")
    choose(session, copy_model("other"))
    assert shown(session).changes == ()
    assert not shown(session).can_undo


def test_a_plan_that_cannot_be_made_can_be_taken_back(
    session: Session, copy_model: CopyModel
) -> None:
    reference = copy_model("tiny")
    choose(session, reference)
    edit(session, "context_tokens", "64")
    shutil.rmtree(reference.removeprefix("path:"))
    session.desk.edit("context_tokens", "32")
    until(session, lambda: not shown(session).planning)
    assert shown(session).can_undo


# ---------------------------------------------------------------------- speed


def predicted(correction: Correction) -> SpeedPrediction:
    parts = (
        SpeedPart("computing", 0, 0.0, 0.02),
        SpeedPart("the wire to the accelerator", 5 * 10**9, 2.5e10, 0.236),
    )
    return SpeedPrediction(0.236, 0.5, 512, SPEEDS, "why", token_parts=parts, correction=correction)


def test_the_slowest_part_comes_first_and_bounds_a_token() -> None:
    (token,) = view_times(predicted(Correction()))
    assert token.title == "One token, 236 ms"
    assert [part.label for part in token.parts] == ["the wire to the accelerator", "computing"]
    assert token.parts[0].explanation == "5.0 GB at 25.0 GB/s"
    assert token.note == "Bound by the wire to the accelerator."
    assert [figure.value for figure in view_speed(predicted(Correction()))] == [
        "4.24",
        "236 ms",
        "0.5 s",
    ]


def test_what_earlier_answers_changed_is_said() -> None:
    assert view_correction(None) == ""
    assert view_correction(predicted(Correction())) == ""
    assert view_correction(predicted(Correction(token=1.25, first_token=0.8, observations=12))) == (
        "Corrected by 12 earlier answers on this machine: a token takes 1.2 times and the first "
        "token takes 0.8 times what is calculated."
    )
    assert view_correction(predicted(Correction(token=1.01, observations=1))) == (
        "Confirmed by 1 earlier answer on this machine."
    )


def test_without_a_prediction_there_is_nothing_to_show() -> None:
    assert view_speed(None) == ()
    assert view_times(None) == ()

from __future__ import annotations

from pathlib import Path

import pytest

from ollm_widgets import ConfigError, ModelReferenceError, RuntimeConfig, RuntimePlan, Session
from ollm_widgets.protocol.snapshot import Field
from ollm_widgets.protocol.views import view_capabilities, view_loading, view_plan
from tests.session.gates import GatedLoader
from tests.session.tiny import CopyModel
from tests.session.waiting import choose, load, until


def field(session: Session, name: str) -> Field:
    plan = view_plan(session)
    assert plan is not None
    return next(one for one in plan.fields if one.name == name)


def edit(session: Session, name: str, value: str) -> None:
    """Edit, and wait for the plan of the config as it is then."""
    session.desk.edit(name, value)
    until(session, lambda: session.plan is not None and session.plan.config == session.config)


def test_before_a_choice_there_is_nothing_to_plan_edit_or_load(session: Session) -> None:
    assert view_plan(session) is None
    assert view_capabilities(session) is None
    assert view_loading(session).summary == "Pick a model to load it."
    with pytest.raises(ConfigError, match="Pick a model first"):
        session.load()
    with pytest.raises(ConfigError, match="Pick a model first"):
        session.desk.edit("context_tokens", "64")


def test_choosing_a_model_plans_it(session: Session, copy_model: CopyModel) -> None:
    choose(session, copy_model("tiny"))
    plan = view_plan(session)
    assert plan is not None
    assert plan.executable
    assert plan.bars
    assert "RuntimeConfig" in plan.code
    assert view_loading(session).can_load
    assert view_capabilities(session) is not None


def test_a_plan_is_told_with_the_one_change_that_would_help_it_most(
    session: Session, converted_smollm: Path
) -> None:
    choose(session, str(converted_smollm))
    edit(session, "offload_cpu_layers", "0")

    def told() -> str:
        plan = view_plan(session)
        return plan.story if plan is not None else ""

    until(session, lambda: "With the layer counts left empty it would run" in told())
    edit(session, "offload_cpu_layers", "")
    assert "With the layer counts" not in told()


def test_the_last_choice_wins(session: Session, copy_model: CopyModel) -> None:
    for name in ("a", "b", "c"):
        session.choose(copy_model(name))
    until(session, lambda: session.plan is not None)
    assert session.plan is not None
    assert session.plan.resolved_model.display_name == "c"


def test_an_edit_changes_the_plan(session: Session, copy_model: CopyModel) -> None:
    choose(session, copy_model("tiny"))
    edit(session, "context_tokens", "64")
    assert session.plan is not None
    assert session.plan.kv.context_tokens == 64
    assert field(session, "context_tokens").value == "64"
    edit(session, "context_tokens", "")
    assert field(session, "context_tokens").value == ""
    assert session.plan.kv.context_tokens == 256


def test_a_wrong_value_stays_beside_its_error_and_the_last_good_plan_stays(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    edit(session, "context_tokens", "64")
    session.desk.edit("context_tokens", "many")
    shown = field(session, "context_tokens")
    assert shown.value == "many"
    assert shown.error == "'many' is no count. Type a whole number."
    assert session.plan is not None
    assert session.plan.kv.context_tokens == 64
    assert not view_loading(session).can_load
    with pytest.raises(ConfigError, match="is no count"):
        session.load()

    edit(session, "context_tokens", "32")
    assert field(session, "context_tokens").error == ""
    assert session.plan.kv.context_tokens == 32
    assert view_loading(session).can_load


def test_a_wrong_value_stays_while_another_field_is_edited(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    session.desk.edit("context_tokens", "many")
    edit(session, "kv_cache_strategy", "resident")
    assert field(session, "context_tokens").value == "many"
    assert field(session, "context_tokens").error
    assert not view_loading(session).can_load
    edit(session, "context_tokens", "")
    assert view_loading(session).can_load
    assert field(session, "kv_cache_strategy").value == "resident"


def test_a_value_that_another_field_ruled_out_applies_once_that_field_is_mended(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    edit(session, "kv_cache_window_tokens", "32")
    session.desk.edit("kv_cache_strategy", "resident")
    assert "Leave the window empty" in field(session, "kv_cache_strategy").error
    edit(session, "kv_cache_window_tokens", "")
    assert field(session, "kv_cache_strategy").value == "resident"
    assert field(session, "kv_cache_strategy").error == ""
    assert session.config is not None
    assert session.config.kv_cache_strategy == "resident"


def test_choosing_another_model_forgets_edits_and_their_errors(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("a"))
    session.desk.edit("context_tokens", "many")
    choose(session, copy_model("b"))
    assert not session.desk.edits
    assert not session.desk.errors
    assert session.config == RuntimeConfig(copy_model("b"))


def test_choosing_the_same_model_again_keeps_its_plan_until_there_is_a_newer_one(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    before = session.plan
    assert before is not None
    can_load: list[bool] = []
    plans: list[RuntimePlan | None] = []
    session.watch(lambda _part, _job: can_load.append(session.can_load))
    session.watch(lambda _part, _job: plans.append(session.plan))
    session.choose(copy_model("tiny"))
    until(session, lambda: session.plan is not before)
    assert None not in plans
    assert all(can_load)
    assert session.plan is not None
    assert session.plan.config == before.config


def test_text_that_is_no_reference_is_refused_and_the_choice_stays(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, copy_model("tiny"))
    before = session.config
    with pytest.raises(ModelReferenceError, match="is empty"):
        session.choose("   ")
    assert session.config is before


def test_while_a_new_choice_is_planned_the_reason_of_the_last_one_is_gone(
    session: Session, loader: GatedLoader, copy_model: CopyModel
) -> None:
    loader.plan_failures = [ConfigError("device", "is gone.")]
    choose(session, copy_model("a"))
    shown = view_plan(session)
    assert shown is not None
    assert shown.headline == "No plan"
    seen: list[str] = []
    session.watch(lambda part, _job: seen.append(session.desk.problem) if part == "plan" else None)
    choose(session, copy_model("b"))
    assert set(seen) == {""}
    assert session.plan is not None


def test_a_planner_that_breaks_is_shown_and_the_next_edit_plans_again(
    session: Session, loader: GatedLoader, copy_model: CopyModel
) -> None:
    loader.plan_failures = [OSError("the disk is gone")]
    choose(session, copy_model("tiny"))
    shown = view_plan(session)
    assert shown is not None
    assert shown.headline == "No plan"
    assert "the disk is gone" in shown.reason
    edit(session, "context_tokens", "64")
    assert session.plan is not None


def test_the_card_of_a_chosen_model_is_not_that_of_the_loaded_one(
    session: Session, copy_model: CopyModel, converted_smollm: object
) -> None:
    load(session, copy_model("tiny"))
    before = view_capabilities(session)
    choose(session, f"path:{converted_smollm}")
    after = view_capabilities(session)
    assert before is not None
    assert after is not None
    assert {row.term: row.text for row in after.rows} != {row.term: row.text for row in before.rows}
    assert not view_loading(session).summary


def test_a_model_that_is_in_memory_already_can_be_talked_to_once_chosen(
    session: Session, copy_model: CopyModel
) -> None:
    with session.manager.acquire(RuntimeConfig(copy_model("tiny"))) as lease:
        choose(session, copy_model("tiny"))
        assert session.runtime is lease.runtime
        assert view_loading(session).summary == "tiny is in memory already."

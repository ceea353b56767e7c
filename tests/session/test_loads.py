from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets import (
    ConfigError,
    PlanNotExecutableError,
    RuntimeBusyError,
    RuntimeClosedError,
    RuntimeConfig,
    RuntimeManager,
    Session,
    UnsupportedModelError,
)
from ollm_widgets.protocol.views import view_chat, view_header, view_loading, view_memory, view_plan
from tests.session.gates import PATIENCE_S, GatedLoader
from tests.session.tiny import CopyModel
from tests.session.waiting import choose, load, until


def begin_held_load(session: Session, loader: GatedLoader, reference: str) -> None:
    choose(session, reference)
    loader.hold()
    session.load()
    assert loader.entered.wait(PATIENCE_S)


def test_a_load_ends_with_a_model_to_talk_to(session: Session, copy_model: CopyModel) -> None:
    runtime_id = load(session, copy_model("tiny"))
    assert session.runtime is session.manager.get(runtime_id)
    shown = view_loading(session)
    assert shown.summary.startswith("tiny was loaded in ")
    assert {stage.state for stage in shown.stages} == {"done"}
    assert view_chat(session).can_send
    assert view_header(session).title == "tiny"
    (item,) = view_memory(session).items
    assert (item.id, item.state, item.current) == (runtime_id, "idle", True)


def test_while_a_load_runs_its_stages_are_shown_and_another_is_refused(
    session: Session, loader: GatedLoader, copy_model: CopyModel
) -> None:
    begin_held_load(session, loader, copy_model("tiny"))
    until(session, lambda: session.loading.stages)
    shown = view_loading(session)
    assert (shown.state, shown.can_load) == ("loading", False)
    assert [(stage.name, stage.state) for stage in shown.stages] == [("Prepare files", "running")]
    assert [item.state for item in view_memory(session).items] == ["loading"]
    with pytest.raises(ConfigError, match="tiny is being loaded") as caught:
        session.load()
    assert caught.value.hint == "Cancel it, or wait."
    loader.open()
    until(session, lambda: session.loading.state == "loaded")
    assert loader.loads == 1


def test_loading_what_is_in_memory_loads_nothing(
    session: Session, loader: GatedLoader, copy_model: CopyModel
) -> None:
    first = load(session, copy_model("tiny"))
    assert load(session, copy_model("tiny")) == first
    assert loader.loads == 1


def test_a_load_can_be_cancelled_and_begun_again(
    session: Session, loader: GatedLoader, copy_model: CopyModel
) -> None:
    begin_held_load(session, loader, copy_model("tiny"))
    session.cancel_load()
    until(session, lambda: session.loading.state == "cancelled")
    shown = view_loading(session)
    assert shown.summary == "Loading tiny was cancelled."
    assert shown.can_load
    assert shown.problem is None
    assert session.runtime is None
    loader.open()
    load(session, copy_model("tiny"))


def test_cancelling_nothing_changes_nothing(session: Session, copy_model: CopyModel) -> None:
    session.cancel_load()
    assert session.loading.state == "idle"
    load(session, copy_model("tiny"))
    session.cancel_load()
    assert session.loading.state == "loaded"


@pytest.mark.parametrize(
    "failure", [UnsupportedModelError("It broke.", hint="Mend it."), MemoryError("no room")]
)
def test_a_load_that_fails_says_why_and_the_next_one_works(
    session: Session, loader: GatedLoader, copy_model: CopyModel, failure: Exception
) -> None:
    loader.failures = [failure] * 2  # whichever backend tries
    choose(session, copy_model("tiny"))
    session.load()
    until(session, lambda: session.loading.state == "failed")
    loader.failures.clear()
    shown = view_loading(session)
    assert shown.problem is not None
    assert str(failure).split(" Mend")[0] in shown.problem.message
    assert [stage.state for stage in shown.stages] == ["failed"]
    assert shown.can_load
    assert not view_chat(session).can_send
    load(session, copy_model("tiny"))
    assert view_loading(session).problem is None


def test_a_model_chosen_during_a_load_keeps_its_plan_when_that_load_ends(
    session: Session, loader: GatedLoader, copy_model: CopyModel
) -> None:
    begin_held_load(session, loader, copy_model("a"))
    choose(session, copy_model("b"))
    assert view_loading(session).model == "a"
    loader.open()
    until(session, lambda: session.loading.state == "loaded")
    assert session.plan is not None
    assert session.plan.resolved_model.display_name == "b"
    assert session.runtime is not None
    assert session.runtime.name == "a"


def test_unloading_gives_the_model_back_and_says_what_to_do_next(
    session: Session, copy_model: CopyModel
) -> None:
    runtime_id = load(session, copy_model("tiny"))
    session.keeping.unload(runtime_id)
    until(session, lambda: session.runtime_id is None)
    assert session.loading.state == "idle"
    shown = view_chat(session)
    assert (shown.gone, shown.can_reload) == ("tiny was unloaded.", True)
    with pytest.raises(RuntimeClosedError, match="Press Load again"):
        session.send("w3")
    with pytest.raises(RuntimeClosedError, match="no longer in memory"):
        session.keeping.unload(runtime_id)
    load(session, copy_model("tiny"))


def test_while_a_busy_model_is_waited_for_the_plan_still_follows(
    loader: GatedLoader, copy_model: CopyModel
) -> None:
    manager = RuntimeManager(loader, busy_wait_s=PATIENCE_S)
    session = Session(manager)
    runtime_id = load(session, copy_model("a"))
    with manager.borrow(runtime_id):
        session.keeping.unload(runtime_id)
        choose(session, copy_model("b"))
        assert manager.get(runtime_id) is not None
    until(session, lambda: session.runtime_id is None)
    session.close()


def test_a_model_that_stays_busy_is_not_unloaded_and_the_error_says_so(
    session: Session, copy_model: CopyModel
) -> None:
    runtime_id = load(session, copy_model("tiny"))
    with session.manager.borrow(runtime_id):
        session.keeping.unload(runtime_id)
        until(session, lambda: session.keeping.problem is not None)
        assert isinstance(session.keeping.problem, RuntimeBusyError)
        problem = view_memory(session).problem
        assert problem is not None
        assert "busy" in problem.message
        assert view_chat(session).can_send
    session.keeping.unload(runtime_id)
    until(session, lambda: session.runtime_id is None)


def test_an_unload_that_fails_does_not_end_a_load_that_runs(
    session: Session, loader: GatedLoader, copy_model: CopyModel
) -> None:
    busy = load(session, copy_model("a"))
    with session.manager.borrow(busy):
        begin_held_load(session, loader, copy_model("b"))
        states: set[str] = set()
        session.watch(lambda _part, _job: states.add(session.loading.state))
        session.keeping.unload(busy)
        until(session, lambda: session.keeping.problem is not None)
    loader.open()
    until(session, lambda: session.loading.state == "loaded")
    assert states == {"loading", "loaded"}
    assert view_loading(session).problem is None


def test_another_runtime_can_be_used_with_its_config_and_plan(
    session: Session, copy_model: CopyModel
) -> None:
    first = load(session, copy_model("a"))
    second = load(session, copy_model("b"))
    assert session.runtime_id == second
    session.desk.edit("context_tokens", "many")
    session.use(first)
    assert session.runtime is not None
    assert session.runtime.name == "a"
    assert session.plan is session.runtime.plan
    shown = view_plan(session)
    assert shown is not None
    assert not shown.planning
    assert not session.desk.errors
    assert [item.current for item in view_memory(session).items] == [
        item.id == first for item in view_memory(session).items
    ]
    with pytest.raises(RuntimeClosedError, match="no longer in memory"):
        session.use("nothing")


def test_a_pinned_runtime_shows_it(session: Session, copy_model: CopyModel) -> None:
    runtime_id = load(session, copy_model("tiny"))
    for pinned in (True, False):
        session.keeping.pin(runtime_id, pinned)
        assert view_memory(session).items[0].pinned is pinned
    with pytest.raises(RuntimeClosedError, match="No runtime 'nothing'"):
        session.keeping.pin("nothing", True)


def test_a_runtime_evicted_by_another_user_can_no_longer_be_talked_to(
    loader: GatedLoader, copy_model: CopyModel
) -> None:
    manager = RuntimeManager(loader, max_loaded=1, busy_wait_s=0.3)
    session = Session(manager)
    load(session, copy_model("a"))
    manager.acquire(RuntimeConfig(copy_model("b"))).release()
    until(session, lambda: session.runtime_id is None)
    shown = view_chat(session)
    assert not shown.can_send
    assert shown.gone.startswith("a left memory")
    assert session.loading.state == "idle"
    with pytest.raises(RuntimeClosedError) as caught:
        session.send("w3")
    assert caught.value.hint == "Press Load again."
    load(session, copy_model("a"))
    session.close()
    manager.unload_all()


def test_a_closed_session_hears_nothing_and_leaves_models_loaded(
    session: Session, manager: RuntimeManager, copy_model: CopyModel
) -> None:
    runtime_id = load(session, copy_model("tiny"))
    heard: list[object] = []
    session.watch(lambda part, job: heard.append((part, job)))
    session.close()
    manager.pin(runtime_id)
    manager.unpin(runtime_id)
    manager.acquire(RuntimeConfig(copy_model("tiny"))).release()
    assert not heard
    assert manager.get(runtime_id) is not None


def test_closing_a_session_cancels_its_load(
    manager: RuntimeManager, loader: GatedLoader, copy_model: CopyModel
) -> None:
    session = Session(manager)
    begin_held_load(session, loader, copy_model("tiny"))
    session.close()
    until(session, lambda: session.loading.state == "cancelled")


# ---------------------------------------------------------------------- what cannot be loaded


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def with_another_layer_count(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))


def as_it_was(folder: Path) -> None:
    """The model is sound; what is asked of it is not possible."""


@pytest.mark.parametrize(
    ("damage", "edits", "reason"),
    [
        (gone, {}, "no such folder"),
        (without_config, {}, "no config.json"),
        (truncated, {}, "model.safetensors"),
        (pickled, {}, "pytorch_model.bin"),
        (
            with_another_layer_count,
            {"backend": "optimized-native"},
            "optimized-native cannot run this model",
        ),
        (as_it_was, {"context_tokens": "9999"}, "the model takes 256"),
        (as_it_was, {"offload_gpu_layers": "99"}, "the model has 2"),
        (
            as_it_was,
            {
                "kv_cache_strategy": "sliding-window-ring-buffer",
                "kv_cache_lifecycle": "persistent",
            },
            "pages on disk",
        ),
    ],
)
def test_what_cannot_run_gives_one_reason_and_the_next_choice_works(
    session: Session,
    copy_model: CopyModel,
    damage: Callable[[Path], None],
    edits: dict[str, str],
    reason: str,
) -> None:
    reference = copy_model("broken")
    damage(Path(reference.removeprefix("path:")))
    choose(session, reference)
    for name, value in edits.items():
        session.desk.edit(name, value)
    until(session, lambda: session.plan is not None and session.plan.config == session.config)
    shown = view_plan(session)
    assert shown is not None
    assert not shown.executable
    assert reason in shown.reason
    assert shown.reason not in shown.notes
    assert not any(field.error for field in shown.fields)
    assert not view_loading(session).can_load
    assert view_loading(session).problem is None
    with pytest.raises(PlanNotExecutableError) as caught:
        session.load()
    assert str(caught.value) == shown.reason
    assert session.loading.state == "idle"

    load(session, copy_model("sound"))


def test_an_alias_nobody_knows_is_explained_and_the_next_choice_works(
    session: Session, copy_model: CopyModel
) -> None:
    choose(session, "no-such-model")
    shown = view_plan(session)
    assert shown is not None
    assert "Nothing was found under 'no-such-model'" in shown.reason
    assert not shown.executable
    load(session, copy_model("sound"))


def test_a_model_damaged_after_its_plan_fails_to_load_with_the_same_kind_of_reason(
    session: Session, copy_model: CopyModel
) -> None:
    reference = copy_model("tiny")
    choose(session, reference)
    truncated(Path(reference.removeprefix("path:")))
    session.load()
    until(session, lambda: not session.loading.active)
    shown = view_loading(session)
    assert shown.problem is not None
    assert "model.safetensors" in shown.problem.message
    load(session, copy_model("sound"))

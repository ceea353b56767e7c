from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import ConfigError, RuntimeConfig
from ollm_widgets.session.editing import MOST_STEPS, Editing

MODEL = "smollm2-135m"


@pytest.fixture
def editing() -> Editing:
    return started()


def started() -> Editing:
    editing = Editing()
    editing.start(RuntimeConfig(MODEL))
    return editing


def test_without_a_model_nothing_can_be_edited_and_nothing_taken_back() -> None:
    editing = Editing()
    for change in (
        lambda: editing.set("context_tokens", "64"),
        lambda: editing.place("1", "", settled=True),
        lambda: editing.apply({"context_tokens": 64}),
    ):
        with pytest.raises(ConfigError, match="Pick a model first"):
            change()
    assert not editing.undo()
    assert not editing.redo()


def test_an_edit_is_taken_back_and_done_again(editing: Editing) -> None:
    editing.set("context_tokens", "64")
    editing.set("kv_cache_strategy", "paged")
    assert editing.undo()
    assert editing.config == RuntimeConfig(MODEL, context_tokens=64)
    assert editing.undo()
    assert editing.config == RuntimeConfig(MODEL)
    assert not editing.can_undo
    assert editing.redo()
    assert editing.redo()
    assert editing.config == RuntimeConfig(MODEL, context_tokens=64, kv_cache_strategy="paged")
    assert not editing.can_redo


def test_an_edit_after_a_step_back_ends_the_other_way(editing: Editing) -> None:
    editing.set("context_tokens", "64")
    editing.undo()
    editing.set("context_tokens", "32")
    assert not editing.can_redo
    editing.undo()
    assert editing.config == RuntimeConfig(MODEL)


def test_an_edit_that_changes_nothing_is_no_step(editing: Editing) -> None:
    editing.set("context_tokens", "")
    editing.place("", "", settled=True)
    editing.apply({"context_tokens": None})
    assert not editing.can_undo


def test_a_value_that_could_not_be_applied_is_what_is_taken_back_first(editing: Editing) -> None:
    editing.set("context_tokens", "64")
    editing.set("gpu_memory_budget", "6 apples")
    assert editing.errors["gpu_memory_budget"].startswith("gpu_memory_budget: '6 apples'")
    assert editing.undo()
    assert not editing.errors
    assert editing.config == RuntimeConfig(MODEL, context_tokens=64)


def test_a_whole_drag_is_one_step(editing: Editing) -> None:
    for layers in ("3", "7", "12"):
        editing.place(layers, "", settled=False)
        assert editing.moves
    editing.place("12", "", settled=True)
    assert not editing.moves
    assert editing.config == RuntimeConfig(MODEL, offload_gpu_layers=12)
    editing.undo()
    assert editing.config == RuntimeConfig(MODEL)
    editing.redo()
    assert editing.config == RuntimeConfig(MODEL, offload_gpu_layers=12)


def test_a_drag_that_comes_back_to_its_start_is_no_step(editing: Editing) -> None:
    editing.place("3", "", settled=False)
    assert editing.can_undo
    editing.place("", "", settled=True)
    assert not editing.can_undo


@pytest.mark.parametrize(
    "next_edit",
    [
        lambda editing: editing.set("context_tokens", "64"),
        lambda editing: editing.apply({"context_tokens": 64}),
    ],
)
def test_a_drag_that_never_ended_is_a_step_before_the_next_edit(
    editing: Editing, next_edit: Callable[[Editing], None]
) -> None:
    editing.place("5", "3", settled=False)
    next_edit(editing)
    editing.undo()
    assert editing.config == RuntimeConfig(MODEL, offload_gpu_layers=5, offload_cpu_layers=3)
    editing.undo()
    assert editing.config == RuntimeConfig(MODEL)


def test_text_that_is_no_count_moves_no_layer(editing: Editing) -> None:
    with pytest.raises(ConfigError, match="is no count"):
        editing.place("many", "", settled=True)
    assert editing.config == RuntimeConfig(MODEL)
    assert not editing.can_undo


def test_layers_that_are_moved_replace_a_count_that_was_wrong(editing: Editing) -> None:
    editing.set("offload_cpu_layers", "many")
    editing.place("", "4", settled=True)
    assert not editing.errors
    assert editing.config == RuntimeConfig(MODEL, offload_cpu_layers=4)


def test_a_set_of_values_is_one_step_and_forgets_what_could_not_be_applied(
    editing: Editing,
) -> None:
    editing.set("context_tokens", "many")
    editing.apply({"kv_cache_strategy": "paged", "offload_gpu_layers": 0})
    assert not editing.errors
    editing.undo()
    assert editing.config == RuntimeConfig(MODEL)


def test_values_that_cannot_go_together_change_nothing(editing: Editing) -> None:
    with pytest.raises(ConfigError, match="cannot be persistent"):
        editing.apply({"kv_cache_strategy": "resident", "kv_cache_lifecycle": "persistent"})
    assert editing.config == RuntimeConfig(MODEL)
    assert not editing.can_undo


def test_another_model_has_a_way_back_of_its_own(editing: Editing) -> None:
    editing.set("context_tokens", "64")
    editing.undo()
    editing.start(RuntimeConfig("other"))
    assert not editing.can_undo
    assert not editing.can_redo


def test_the_way_back_has_an_end(editing: Editing) -> None:
    for tokens in range(1, MOST_STEPS + 20):
        editing.set("context_tokens", str(tokens))
    steps = 0
    while editing.undo():
        steps += 1
    assert steps == MOST_STEPS


_EDITS = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(["", "1", "64", "x"])),
    st.tuples(st.just("drag"), st.sampled_from(["", "1", "5"])),
    st.tuples(st.just("drop"), st.sampled_from(["", "1", "5"])),
    st.tuples(st.just("apply"), st.sampled_from(["1", "64"])),
)


@given(st.lists(_EDITS, max_size=12))
def test_all_the_way_back_is_the_start_and_all_the_way_forth_the_end(
    edits: list[tuple[str, str]],
) -> None:
    editing = started()
    for kind, text in edits:
        if kind == "set":
            editing.set("context_tokens", text)
        elif kind == "apply":
            editing.apply({"context_tokens": int(text)})
        else:
            editing.place(text, "", settled=kind == "drop")
    end = editing.config
    while editing.undo():
        pass
    assert editing.config == RuntimeConfig(MODEL)
    while editing.redo():
        pass
    assert editing.config == end

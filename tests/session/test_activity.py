"""What is recorded of answers, for pictures of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import ConfigError, GenerationConfig, RuntimeClosedError, Session
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.protocol.activity import ActivityView
from ollm_widgets.protocol.views import view_activity
from ollm_widgets.runtime.completion import Delta
from ollm_widgets.runtime.pace import MOST_SAMPLES
from ollm_widgets.session.activity import MOST_ANSWERS, AnswerMemory
from ollm_widgets.session.pace import Pace
from tests.session.gates import TokenGate
from tests.session.tiny import CopyModel
from tests.session.waiting import choose, last_turn, load, settled, until

SHORT = GenerationConfig(max_new_tokens=12)


@pytest.fixture
def loaded(session: Session, copy_model: CopyModel) -> Session:
    load(session, copy_model("tiny"))
    session.conversation.generation = SHORT
    return session


def answered(session: Session, text: str = "w3 w4") -> ActivityView:
    """Ask, and wait until the answer is in the pictures."""
    before = len(session.activity.memory)
    session.send(text)
    settled(session)
    until(session, lambda: len(session.activity.memory) > before)
    return view_activity(session)


def switched_on(session: Session) -> None:
    session.activity.trace(True)
    until(session, lambda: view_activity(session).tracing == "on")


def traced(session: Session, text: str = "w3 w4"):  # type: ignore[no-untyped-def]
    switched_on(session)
    view = answered(session, text)
    until(session, lambda: session.activity.tracing.latest)
    view = view_activity(session)
    assert view.trace is not None
    return view.trace


# ---------------------------------------------------------------------- before anything has run


def test_nothing_is_drawn_before_anything_has_run(session: Session, copy_model: CopyModel) -> None:
    assert view_activity(session) == ActivityView(untraceable="No model is loaded yet.")
    choose(session, copy_model("tiny"))
    assert view_activity(session).untraceable == "No model is loaded yet."
    load(session, copy_model("tiny"))
    view = view_activity(session)
    assert (view.pace, view.kv, view.trace, view.untraceable) == (None, None, None, "")


# ---------------------------------------------------------------------- pace


def test_the_pace_is_the_answers_own(loaded: Session) -> None:
    pace = answered(loaded).pace
    last = loaded.conversation.last
    assert pace is not None
    assert last is not None
    assert pace.state == "ended"
    assert (pace.tokens[-1], pace.new_tokens) == (last.new_tokens, last.new_tokens)
    assert pace.tokens_per_s == last.tokens_per_s
    assert pace.first_token_s == last.time_to_first_token_s
    assert list(pace.tokens) == sorted(set(pace.tokens))
    assert list(pace.at_s) == sorted(pace.at_s)
    assert pace.at_s[0] >= pace.first_token_s - 1e-4
    assert pace.text.startswith("12 tokens in ")
    assert "tokens/s after the first. Reading 2 prompt tokens took " in pace.text


def test_what_is_reused_of_a_prompt_is_said(loaded: Session) -> None:
    answered(loaded)
    pace = answered(loaded, "w5").pace
    assert pace is not None
    assert pace.reused_tokens > 0
    assert f"with {pace.reused_tokens} reused, took" in pace.text


def test_an_answer_is_followed_while_it_is_written(loaded: Session) -> None:
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        first = view_activity(loaded).pace
        assert first is not None
        assert (first.state, first.text) == ("reading", "The prompt is being read.")
        until(loaded, lambda: last_turn(loaded).text, gate.step)
        growing = view_activity(loaded).pace
        assert growing is not None
        assert growing.state == "writing"
        assert 0 < growing.new_tokens < 12
    settled(loaded)
    until(loaded, lambda: view_activity(loaded).kv)


def test_an_answer_that_is_stopped_before_its_first_token_leaves_no_picture(
    loaded: Session,
) -> None:
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        loaded.conversation.stop()
        until(loaded, lambda: not loaded.running, gate.step)
    pace = view_activity(loaded).pace
    assert pace is None or pace.state == "ended"


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.001, 2)), min_size=1, max_size=1500))
def test_however_long_an_answer_its_whole_course_is_kept_in_few_samples(
    steps: list[tuple[int, float]],
) -> None:
    pace, tokens, seconds = Pace("chat-1"), 0, 0.0
    for number, (more, later) in enumerate(steps, start=1):
        tokens, seconds = tokens + more, seconds + later
        ends = "length" if number == len(steps) else None
        pace.follow(Delta("", 3, tokens, steps[0][1], seconds, ends), busy=True)
    assert len(pace.samples) <= MOST_SAMPLES
    assert pace.samples[0] == steps[0]
    assert pace.samples[-1] == (tokens, seconds)
    assert list(pace.samples) == sorted(pace.samples)
    assert not pace.running


# ---------------------------------------------------------------------- keys and values


def test_the_cache_is_recorded_after_each_answer(loaded: Session) -> None:
    answered(loaded)
    kv = answered(loaded, "w5").kv
    assert kv is not None
    assert loaded.runtime is not None
    now = loaded.runtime.kv_stats()
    first, second = kv.items
    assert (first.number, second.number) == (1, 2)
    assert second.tokens == now.tokens > first.tokens
    assert second.hot_bytes == now.accelerator_bytes > first.hot_bytes > 0
    assert (second.ram_bytes, second.disk_bytes) == (now.host_bytes, now.disk_bytes)
    assert kv.limit_tokens == loaded.runtime.plan.kv.context_tokens
    assert kv.limit_bytes == loaded.runtime.plan.kv.total_bytes
    assert kv.text.startswith("After 2 answers the KV cache holds ")


def test_only_the_last_answers_are_kept(loaded: Session) -> None:
    loaded.activity.memory.extend([AnswerMemory(0, "tiny", KVStats())] * MOST_ANSWERS)
    loaded.send("w3")
    settled(loaded)
    until(loaded, lambda: loaded.activity.memory[-1].number == 1)
    kv = view_activity(loaded).kv
    assert kv is not None
    assert len(kv.items) == MOST_ANSWERS


def test_a_new_chat_begins_with_an_empty_picture(loaded: Session) -> None:
    answered(loaded)
    loaded.conversation.clear()
    view = view_activity(loaded)
    assert (view.pace, view.kv) == (None, None)
    again = answered(loaded)
    assert again.kv is not None
    assert [item.number for item in again.kv.items] == [1]


# ---------------------------------------------------------------------- traces


def test_the_next_answer_is_traced_and_the_one_after_is_not(loaded: Session) -> None:
    trace = traced(loaded)
    assert loaded.runtime is not None
    assert trace.numbers == tuple(range(2, 13))  # the first token comes of the prompt's pass
    assert trace.prompt.startswith("Reading 2 prompt tokens took ")
    assert "11 tokens of tiny took " in trace.text
    assert view_activity(loaded).tracing == "off"
    assert answered(loaded, "w5").trace == trace
    with loaded.runtime.trace():
        pass  # it would refuse while another is open


def test_the_parts_of_each_token_add_up_to_its_time(loaded: Session) -> None:
    trace = traced(loaded)
    latest = loaded.activity.tracing.latest
    assert latest is not None
    steps = [token for token in latest.tokens if not token.prompt_tokens]
    for index, token in enumerate(steps):
        told_ms = sum(part.tokens_ms[index] for part in trace.parts)
        assert told_ms == pytest.approx(token.total_s * 1000, abs=0.01)
        assert all(part.tokens_ms[index] >= 0 for part in trace.parts)


def test_the_layers_of_any_token_can_be_looked_at(loaded: Session) -> None:
    trace = traced(loaded)
    assert loaded.plan is not None
    layers = len(loaded.plan.placement.tiers)
    totals = [sum(part.tokens_ms[i] for part in trace.parts) for i in range(len(trace.numbers))]
    typical = totals[trace.numbers.index(trace.shown)]
    assert typical == pytest.approx(sorted(totals)[(len(totals) - 1) // 2], abs=0.01)
    for number in (trace.numbers[0], trace.numbers[-1]):
        loaded.activity.inspect(str(number))
        shown = view_activity(loaded).trace
        assert shown is not None
        assert shown.shown == number
        index = shown.numbers.index(number)
        for part in shown.parts:
            assert len(part.layers_ms) == layers
            if part.kind in ("disk", "unpack", "compute"):
                assert sum(part.layers_ms) == pytest.approx(part.tokens_ms[index], abs=0.01)
    with pytest.raises(ConfigError, match="no token '4711' was traced"):
        loaded.activity.inspect("4711")
    loaded.activity.inspect("")
    assert view_activity(loaded).trace == trace


def test_an_answer_that_runs_already_is_not_the_one_that_is_traced(loaded: Session) -> None:
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        until(loaded, lambda: last_turn(loaded).text, gate.step)
        loaded.activity.trace(True)
        assert view_activity(loaded).tracing == "starting"
    settled(loaded)
    until(loaded, lambda: view_activity(loaded).tracing == "on")
    assert view_activity(loaded).trace is None
    answered(loaded, "w5")
    until(loaded, lambda: view_activity(loaded).trace)


def test_a_trace_can_be_switched_off_again(loaded: Session) -> None:
    switched_on(loaded)
    loaded.activity.trace(False)
    assert view_activity(loaded).tracing == "off"
    assert answered(loaded).trace is None
    assert loaded.runtime is not None
    with loaded.runtime.trace():
        pass


def test_a_trace_is_of_the_model_that_answers(loaded: Session, copy_model: CopyModel) -> None:
    switched_on(loaded)
    load(loaded, copy_model("other"))
    assert answered(loaded).trace is None
    until(loaded, lambda: view_activity(loaded).problem)
    view = view_activity(loaded)
    assert view.problem == "Nothing was traced: another model has answered."
    assert view.tracing == "off"
    assert traced(loaded).text.startswith("11 tokens of other took ")


def test_a_long_answer_is_traced_to_its_end(loaded: Session) -> None:
    loaded.conversation.generation = GenerationConfig(max_new_tokens=250)
    trace = traced(loaded)
    assert loaded.conversation.last is not None
    assert trace.numbers[-1] == loaded.conversation.last.new_tokens


def test_an_answer_takes_few_messages_however_many_tokens_it_has(loaded: Session) -> None:
    loaded.conversation.generation = GenerationConfig(max_new_tokens=200)
    told: list[str] = []
    unwatch = loaded.watch(lambda part, _job: told.append(part))
    answered(loaded)
    unwatch()
    assert told.count("chat") > 100
    assert told.count("activity") <= 2


def test_a_model_that_leaves_memory_is_let_go_of(loaded: Session) -> None:
    switched_on(loaded)
    loaded.manager.unload(loaded.runtime_id)
    until(loaded, lambda: view_activity(loaded).tracing == "off")
    view = view_activity(loaded)
    assert view.problem == "tiny has left memory before it was traced."
    assert view.untraceable == "No model is loaded yet."


def test_without_a_model_nothing_can_be_traced(session: Session) -> None:
    with pytest.raises(RuntimeClosedError):
        session.activity.trace(True)
    assert view_activity(session).tracing == "off"


def test_a_backend_that_sees_no_layers_says_so(session: Session, copy_model: CopyModel) -> None:
    choose(session, copy_model("tiny"))
    session.desk.edit("backend", "transformers-generic")
    until(session, lambda: session.plan and session.plan.backend_id == "transformers-generic")
    session.load()
    until(session, lambda: session.loading.state == "loaded")
    why = "transformers-generic does not see the layers of its model."
    assert view_activity(session).untraceable == why
    with pytest.raises(ConfigError, match=why):
        session.activity.trace(True)
    assert answered(session).pace is not None


# ---------------------------------------------------------------------- predicted and measured


def test_what_was_predicted_stands_beside_what_came_true(loaded: Session) -> None:
    answered(loaded)
    assert loaded.runtime is not None
    shown = loaded.runtime.truth.shown
    view = view_activity(loaded)
    short = {
        "Seconds per token": "One token",
        "Seconds until the first token": "First token",
        "Seconds of loading": "Loading",
    }
    names = [short.get(row.what, row.what) for row in shown]
    assert [item.name for item in view.truth] == names
    assert "RAM for weights" in names
    assert [item.ratio for item in view.truth] == [row.ratio for row in shown]
    assert f"of {len(shown)} figure" in view.truth_text

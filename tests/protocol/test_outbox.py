from __future__ import annotations

import itertools
import math
import threading
from typing import Any

import pytest

from ollm_widgets import Session
from ollm_widgets.protocol.outbox import Outbox
from tests.protocol.page import Page, draw, steady
from tests.session.gates import TokenGate
from tests.session.tiny import CopyModel
from tests.session.waiting import last_turn, load, settled, until


def quiet(page: Page, session: Session) -> None:
    """Wait until nothing runs and the page has been sent a snapshot of it."""
    settled(session)
    session.browser.refresh()
    settled(session)
    page.until(lambda: page.events("snapshot") and page.drawn["models"]["items"])
    page.until_in_step()


def said_on(page: Page) -> str:
    """The text of the last turn on the page."""
    return said_in(page.drawn) if page.events("snapshot") else ""


def said_in(snapshot: dict[str, Any]) -> str:
    turns = snapshot["chat"]["turns"]
    return turns[-1]["text"] if turns else ""


def say_more(session: Session, gate: TokenGate) -> None:
    """Let tokens pass until the answer has grown."""
    length = len(last_turn(session).text)
    until(session, lambda: len(last_turn(session).text) > length, gate.step)


def test_hello_is_acknowledged_and_then_shown_everything(session: Session) -> None:
    with Page(session) as page:
        page.ask("hello")
        page.until(page.events)
        page.until(lambda: page.events("snapshot"))
        kinds = [message["kind"] for message in page.messages]
        reply, event = page.messages[kinds.index("ack") :][:2]
        assert reply["job"].startswith("desk-")
        assert event["kind"] == "snapshot"
        assert event["seq"] == event["body"]["seq"]
        page.until(lambda: page.drawn["models"]["items"])


def test_resync_is_answered_with_the_state_as_it_is(
    session: Session, copy_model: CopyModel
) -> None:
    with Page(session) as page:
        page.ask("hello")
        page.ask("choose", reference=copy_model("tiny"))
        page.until(lambda: page.drawn["plan"] and page.drawn["plan"]["executable"])
        assert page.ask("resync")["kind"] == "ack"
        page.until(lambda: len(page.events("snapshot")) == 2)
        assert page.events("snapshot")[-1]["body"]["plan"] == page.drawn["plan"]


def test_events_are_numbered_without_a_gap_and_add_up_to_the_snapshot(
    session: Session, copy_model: CopyModel
) -> None:
    with Page(session) as first, Page(session) as second:
        first.ask("hello")
        second.ask("hello")
        first.ask("choose", reference=copy_model("tiny"))
        until(session, lambda: session.plan is not None)
        first.ask("load", anyway=False)
        until(session, lambda: session.loading.state == "loaded")
        for text in ("w3 w4", "w5"):
            assert second.ask("send", text=text)["kind"] == "ack"
            settled(session)
        for page in (first, second):
            quiet(page, session)
            seqs = [event["seq"] for event in page.events()]
            assert seqs == list(range(1, len(seqs) + 1))
        # A list that is planned anew once memory has changed reaches them one after the other.
        first.until(lambda: steady(first.drawn) == steady(second.drawn))
        assert [turn["state"] for turn in first.drawn["chat"]["turns"]] == ["done"] * 4


def test_every_published_snapshot_can_be_drawn_on_from(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollm_widgets.protocol.outbox.SNAPSHOT_S", 0.0)
    monkeypatch.setattr("ollm_widgets.protocol.outbox.SNAPSHOT_BYTES_PER_S", math.inf)
    load(session, copy_model("tiny"))
    with Page(session) as page:
        page.ask("hello")
        for text in ("w3 w4", "w5"):
            page.ask("send", text=text)
            settled(session)
        quiet(page, session)
        end = page.drawn["chat"]
        assert len(page.published) > 2
        for snapshot in page.published:
            drawn = draw(snapshot, [one for one in page.events() if one["seq"] > snapshot["seq"]])
            assert drawn["chat"]["turns"] == end["turns"]


def test_text_that_comes_between_an_event_and_the_snapshot_is_not_sent_twice(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot falls due while text that was not sent yet waits for the next batch."""
    monkeypatch.setattr("ollm_widgets.protocol.outbox.SNAPSHOT_S", 0.0)
    monkeypatch.setattr("ollm_widgets.protocol.outbox.SNAPSHOT_BYTES_PER_S", math.inf)
    load(session, copy_model("tiny"))
    with TokenGate(session.runtime) as gate, Page(session) as page:
        send = page.take

        def send_and_let_one_more_token_come(message: dict[str, Any]) -> None:
            send(message)
            if message["kind"] == "chat.delta":
                say_more(session, gate)

        page.outbox._send = send_and_let_one_more_token_come
        page.ask("hello")
        page.ask("send", text="w3 w4")
        say_more(session, gate)
        page.until(lambda: said_on(page) == last_turn(session).text)
        for count in range(1, 4):
            say_more(session, gate)
            page.until(lambda count=count: len(page.events("chat.delta")) >= count)
        page.outbox._send = send
        page.until(lambda: said_on(page) == last_turn(session).text)
        page.until(lambda: page.published[-1]["seq"] == page.events()[-1]["seq"])
        snapshots, events = tuple(page.published), page.events()
        page.ask("stop")
        until(session, lambda: not session.running, gate.step)
        assert len([one for one in snapshots if said_in(one)]) > 1
        assert len({said_in(draw(snapshot, events)) for snapshot in snapshots}) == 1


def test_the_text_of_an_answer_crosses_once_and_in_batches(
    session: Session, copy_model: CopyModel
) -> None:
    load(session, copy_model("tiny"))
    with Page(session) as page:
        page.ask("hello")
        page.ask("send", text="w3 w4")
        settled(session)
        quiet(page, session)
        text = last_turn(session).text
        deltas, wholes = page.events("chat.delta"), page.events("chat")
        assert session.conversation.last is not None
        assert session.conversation.last.new_tokens == 200
        assert len(deltas) + len(wholes) < 100
        # Whole views only where a turn begins, starts to stream, and ends.
        assert len(wholes) <= 3
        assert sum(len(delta["body"]["text"]) for delta in deltas) <= len(text)
        assert {delta["body"]["turn"] for delta in deltas} <= {last_turn(session).id}


def test_a_token_at_a_time_is_a_delta_of_that_token(
    session: Session, copy_model: CopyModel
) -> None:
    load(session, copy_model("tiny"))
    with TokenGate(session.runtime) as gate, Page(session) as page:
        page.ask("hello")
        page.ask("send", text="w3 w4")
        say_more(session, gate)
        page.until(lambda: said_on(page) == last_turn(session).text)
        for count in range(1, 5):
            say_more(session, gate)
            page.until(lambda count=count: len(page.events("chat.delta")) >= count)
        page.until(lambda: said_on(page) == last_turn(session).text)
        assert page.drawn["chat"]["turns"][-1]["state"] == "streaming"
        page.ask("stop")
        until(session, lambda: not session.running, gate.step)


def test_a_snapshot_follows_the_end_of_the_work(session: Session, copy_model: CopyModel) -> None:
    load(session, copy_model("tiny"))
    with Page(session) as page:
        page.ask("send", text="w3 w4")
        page.until(
            lambda: (
                page.published
                and page.published[-1]["chat"]["turns"]
                and page.published[-1]["chat"]["turns"][-1]["state"] == "done"
            )
        )


def test_events_of_a_job_carry_its_id(session: Session, copy_model: CopyModel) -> None:
    with Page(session) as page:
        page.ask("hello")
        chosen = page.ask("choose", reference=copy_model("tiny"))["job"]
        page.until(lambda: page.drawn["plan"] and page.drawn["plan"]["executable"])
        assert chosen in {event["job"] for event in page.events("plan")}
        loaded = page.ask("load", anyway=False)["job"]
        page.until(lambda: page.drawn["loading"]["state"] == "loaded")
        loading = [one for one in page.events("loading") if one["body"]["state"] != "idle"]
        assert {event["job"] for event in loading} == {loaded}
        asked = page.ask("send", text="w3 w4")["job"]
        settled(session)
        quiet(page, session)
        assert {event["job"] for event in page.events("chat.delta")} == {asked}


def test_replies_do_not_wait_for_the_work(session: Session, copy_model: CopyModel) -> None:
    load(session, copy_model("tiny"))
    with TokenGate(session.runtime), Page(session) as page:
        assert page.ask("send", text="w3 w4")["kind"] == "ack"
        assert page.ask("search", text="smol")["kind"] == "ack"
        refused = page.ask("send", text="w5")
        assert refused["body"] == {
            "code": "bad-config",
            "message": "message: an answer is still running.",
            "hint": "Stop it first.",
        }
        assert page.ask("stop") == {"v": 1, "kind": "ack", "id": "page-4", "job": None, "text": ""}
    settled(session)


def test_what_has_not_changed_is_not_sent_again(session: Session) -> None:
    with Page(session) as page:
        page.ask("hello")
        page.until(lambda: page.events("models"))
        settled(session)
        quiet(page, session)
        before = len(page.events("plan")), len(page.events("loading"))
        for _again in range(5):
            page.ask("cancel")
        page.ask("resync")
        page.until(lambda: len(page.events("snapshot")) == 2)
        assert (len(page.events("plan")), len(page.events("loading"))) == before


def test_a_message_that_is_lost_does_not_silence_the_sender(session: Session) -> None:
    with Page(session) as page:
        losses = itertools.count()

        def lose_some(message: dict[str, Any]) -> None:
            if next(losses) < 3:
                raise OSError("the connection is gone")
            page.take(message)

        page.outbox._send = lose_some
        for _lost in range(2):
            page.tell("hello")
        page.until(lambda: page.ask("stop")["kind"] == "ack" if next(losses) > 2 else None)
        assert page.ask("resync")["kind"] == "ack"
        page.until(lambda: page.events("snapshot"))


def test_a_view_that_breaks_does_not_silence_the_sender(
    session: Session, copy_model: CopyModel
) -> None:
    load(session, copy_model("tiny"))
    with Page(session) as page:
        page.ask("hello")
        page.until(page.events)
        runtime = session.runtime
        assert runtime is not None

        def gone() -> None:
            del runtime.memory  # type: ignore[method-assign]
            raise ZeroDivisionError

        runtime.memory = gone  # type: ignore[method-assign, assignment]
        page.ask("pin", runtime=session.runtime_id, pinned=True)
        page.until(lambda: "memory" not in vars(runtime))
        page.ask("pin", runtime=session.runtime_id, pinned=False)
        page.ask("resync")
        page.until(lambda: len(page.events("snapshot")) == 2)
        assert [item["pinned"] for item in page.drawn["memory"]["items"]] == [False]


def test_close_ends_the_thread_and_nothing_is_sent_after_it(session: Session) -> None:
    with Page(session) as page:
        page.ask("hello")
        thread = page.outbox._thread
    assert not thread.is_alive()
    sent = len(page.messages)
    session.browser.search("smol")
    page.tell("resync")
    settled(session)
    page.outbox.close()
    assert len(page.messages) == sent


def test_a_page_that_is_closed_by_its_own_message_does_not_wait_for_itself(
    session: Session,
) -> None:
    closed = threading.Event()

    def close(_message: dict[str, Any]) -> None:
        outbox.close()
        closed.set()

    outbox = Outbox(session, close, lambda _snapshot: None)
    session.browser.search("smol")
    assert closed.wait(15)
    outbox._thread.join(15)
    assert not outbox._thread.is_alive()

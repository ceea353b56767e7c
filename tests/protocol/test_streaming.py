"""A fast and long answer: what the senders make of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import Session
from ollm_widgets.protocol import outbox
from ollm_widgets.protocol.pieces import Problem
from ollm_widgets.protocol.wire import as_plain_data, measured
from tests.browser.synthetic import Pace, answer_at, pieces
from tests.protocol.page import Page, draw
from tests.session.tiny import CopyModel
from tests.session.waiting import last_turn, load, settled, until

TOKENS = 4000


@contextmanager
def holding_its_sender(page: Page) -> Iterator[None]:
    """Keep the sender inside of one `send`, as a slow connection would."""
    entered, go_on = threading.Event(), threading.Event()
    send = page.outbox._send

    def hold(message: dict[str, Any]) -> None:
        entered.set()
        assert go_on.wait(15)
        send(message)

    page.outbox._send = hold
    page.tell("stop")  # which is answered
    assert entered.wait(15)
    page.outbox._send = send
    try:
        yield
    finally:
        go_on.set()


@pytest.fixture
def fast(session: Session, copy_model: CopyModel) -> Session:
    """A session whose model answers as fast as its text can be made."""
    load(session, copy_model("tiny"))
    assert session.runtime is not None
    answer_at(session.runtime, Pace(TOKENS, 0.0))
    return session


def test_nothing_of_a_fast_answer_is_lost_in_any_of_several_pages(fast: Session) -> None:
    with Page(fast) as one, Page(fast) as two, Page(fast) as three:
        pages = (one, two, three)
        for page in pages:
            page.ask("hello")
        two.ask("send", text="w3")
        settled(fast)
        text = last_turn(fast).text
        assert text == "".join(pieces(TOKENS))
        for page in pages:
            page.until(lambda page=page: page.drawn["chat"]["turns"][-1]["state"] == "done")
            assert page.drawn["chat"]["turns"][-1]["text"] == text
            seqs = [event["seq"] for event in page.events()]
            assert seqs == list(range(1, len(seqs) + 1))
            assert sum(len(one["body"]["text"]) for one in page.events("chat.delta")) <= len(text)


def test_a_sender_that_knows_of_a_change_is_not_woken_for_the_next(session: Session) -> None:
    with Page(session) as page:
        page.ask("hello")
        page.until(lambda: page.events("snapshot"))
        woken: list[None] = []
        notify = page.outbox._wake.notify
        with holding_its_sender(page):
            page.outbox._wake.notify = lambda n=1: (woken.append(None), notify(n))[1]  # type: ignore[method-assign]
            for _token in range(1000):
                page.outbox.note("chat", "chat-1")
            asleep = len(woken)
            assert asleep <= 1
            page.outbox.note("plan")  # which is due sooner than text may be
            assert len(woken) == asleep + 1
            assert page.outbox._dirty.keys() >= {"chat", "plan"}


def test_a_change_during_a_send_is_sent_with_the_next(fast: Session) -> None:
    with Page(fast) as page:
        page.ask("hello")
        page.until(lambda: page.events("snapshot"))
        with holding_its_sender(page):
            fast.send("w3")
            settled(fast)
        page.until(lambda: page.drawn["chat"]["turns"])
        page.until(lambda: page.drawn["chat"]["turns"][-1]["text"] == last_turn(fast).text)


def test_batches_that_cost_much_come_less_often_unless_something_else_has_changed(
    session: Session,
) -> None:
    with Page(session) as page:
        sender = page.outbox
        with holding_its_sender(page):
            sender._dirty = {"chat": None}
            sender._streamed_s = 0.0
            assert sender._batch_due(100.0) == 100.0 + outbox.BATCH_S
            sender._streamed_s = 0.1 * outbox.STREAM_SHARE
            assert sender._batch_due(100.0) == pytest.approx(100.1)
            sender._streamed_s = 60.0
            assert sender._batch_due(100.0) == 100.0 + outbox.STREAM_BATCH_S
            sender._dirty = {"chat": None, "plan": None}
            assert sender._batch_due(100.0) == 100.0 + outbox.BATCH_S
            sender._streamed_s = 0.0


def test_a_long_snapshot_waits_for_the_end_and_a_page_that_comes_has_the_text_before(
    fast: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SNAPSHOT_S", 0.0)
    monkeypatch.setattr(outbox, "SNAPSHOT_BYTES_PER_S", 1e-3)
    halfway, go_on = threading.Event(), threading.Event()
    count = iter(range(TOKENS))

    def wait_halfway() -> None:
        if next(count) == TOKENS // 2:
            halfway.set()
            assert go_on.wait(15)

    assert fast.runtime is not None
    answer_at(fast.runtime, Pace(TOKENS, 0.0, wait_halfway))
    with Page(fast) as page:
        page.ask("hello")
        page.until(lambda: page.published)
        before = len(page.published)
        page.ask("send", text="w3")
        assert halfway.wait(15)
        half = "".join(pieces(TOKENS // 2))
        until(fast, lambda: last_turn(fast).text == half)
        with Page(fast) as late:
            late.ask("hello")
            late.until(lambda: late.events("snapshot"))
            assert late.drawn["chat"]["turns"][-1]["text"] == half
        assert len(page.published) == before
        go_on.set()
        settled(fast)
        page.until(lambda: len(page.published) > before)
        page.until_in_step()
        assert page.published[-1]["chat"]["turns"][-1]["text"] == "".join(pieces(TOKENS))
        assert draw(page.published[-1], page.events())["chat"] == page.drawn["chat"]


def test_a_page_that_does_not_draw_the_conversation_is_told_nothing_of_it(fast: Session) -> None:
    with Page(fast) as page, Page(fast, draws=("header", "memory")) as shelf:
        for one in (page, shelf):
            one.ask("hello")
        page.ask("send", text="w3")
        settled(fast)
        page.until(lambda: page.drawn["chat"]["turns"][-1]["state"] == "done")
        assert shelf.ask("resync")["kind"] == "ack"
        shelf.until(lambda: len(shelf.events("snapshot")) == 2)
        shelf.until(lambda: shelf.published)
        assert {one["kind"] for one in shelf.events()} <= {"snapshot", "header", "memory"}
        for snapshot in (*shelf.published, *(one["body"] for one in shelf.events("snapshot"))):
            assert snapshot["chat"]["turns"] == []
        seqs = [event["seq"] for event in shelf.events()]
        assert seqs == list(range(1, len(seqs) + 1))


@given(st.text(st.characters(exclude_categories=())))
def test_the_size_of_a_message_is_that_of_its_json(text: str) -> None:
    plain, size = measured(Problem(code="a", message=text, hint=""))
    wire = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    assert size == len(wire)
    assert as_plain_data(Problem(code="a", message=text, hint="")) == plain
